use proptest::prelude::*;

use super::*;
use crate::stage::{DURATION_MAX_NS, Stage};

fn request_kind() -> impl Strategy<Value = RequestKind> {
    prop_oneof![
        Just(RequestKind::Ping),
        Just(RequestKind::Jpeg),
        Just(RequestKind::Tensor),
        (any::<u32>(), any::<u32>(), 0..3_usize).prop_map(|(width, height, format)| {
            RequestKind::Raw { width, height, format: PixelFormat::ALL[format] }
        }),
    ]
}

fn status() -> impl Strategy<Value = Status> {
    (0..Status::ALL.len()).prop_map(|i| Status::ALL[i])
}

fn body() -> impl Strategy<Value = Body> {
    let times = prop::collection::vec(prop::option::of(0..=DURATION_MAX_NS), WIRE_STAGES.len());
    prop_oneof![
        Just(Body::Welcome),
        (request_kind(), any::<u32>(), any::<u8>(), any::<[u8; 16]>()).prop_map(
            |(kind, batch, priority, trace)| {
                Body::Request(Request { kind, batch, priority, trace: TraceId(trace) })
            }
        ),
        (status(), times, prop::option::of(0..=DURATION_MAX_NS)).prop_map(
            |(status, ns, previous)| {
                let mut times = StageTimes::NONE;
                for (&stage, ns) in WIRE_STAGES.iter().zip(ns) {
                    times.put(stage, ns);
                }
                Body::Reply(Reply { status, times, reply_ns_previous: previous })
            }
        ),
        status().prop_map(|status| Body::Bye { status }),
    ]
}

fn frame() -> impl Strategy<Value = Frame> {
    (any::<u64>(), any::<u32>(), any::<u32>(), any::<u64>(), any::<u64>(), body()).prop_map(
        |(session, generation, slot, request, payload_bytes, body)| Frame {
            session: SessionId(session),
            generation: Generation(generation),
            slot: SlotIndex(slot),
            request,
            payload_bytes,
            body,
        },
    )
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_itself(frame in frame()) {
        prop_assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
    }

    #[test]
    fn the_length_of_the_tail_comes_back(frame in frame(), tail_bytes in 0_usize..2_000) {
        let bytes = Head { frame, tail_bytes }.encode();
        let may = matches!(frame.body, Body::Request(_) | Body::Reply(_)) || tail_bytes == 0;
        let fits = tail_bytes <= TAIL_BYTES_MAX && tail_bytes % 8 == 0;
        match Head::decode(&bytes) {
            Ok(head) => {
                prop_assert!(may && fits);
                prop_assert_eq!(head, Head { frame, tail_bytes });
            },
            Err(FrameError::Tail(_)) => prop_assert!(!may || !fits),
            Err(other) => prop_assert!(false, "{}", other),
        }
        prop_assert_eq!(Frame::decode(&bytes).is_ok(), tail_bytes == 0);
    }

    #[test]
    fn any_bytes_are_a_frame_or_an_error(mut bytes in prop::array::uniform32(any::<u32>()),
                                         signed: bool) {
        if signed {
            bytes[0] = MAGIC;
            bytes[1] = u32::from(VERSION) | (bytes[1] % 7) << 8 | (bytes[1] & 0x0f00) << 8;
        }
        let mut raw = [0_u8; FRAME_BYTES];
        for (chunk, word) in raw.chunks_exact_mut(4).zip(bytes) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        if let Ok(head) = Head::decode(&raw) {
            prop_assert_eq!(head.encode(), raw, "an accepted frame has one encoding");
        }
    }
}

#[test]
fn hello_carries_the_token() {
    let token = Token::new([9; 32]);
    let frame = Frame {
        session: SessionId(1),
        generation: Generation::FIRST,
        slot: SlotIndex(0),
        request: 0,
        payload_bytes: 0,
        body: Body::Hello { token },
    };
    let decoded = Frame::decode(&frame.encode()).expect("decodes");
    assert!(matches!(decoded.body, Body::Hello { token: got } if got.matches(&token)));
}

#[test]
fn each_wrong_field_is_named() {
    let good = Frame {
        session: SessionId(1),
        generation: Generation::FIRST,
        slot: SlotIndex(0),
        request: 0,
        payload_bytes: 0,
        body: Body::Welcome,
    }
    .encode();
    let damage = |at: usize, value: u8| {
        let mut bytes = good;
        bytes[at] = value;
        Frame::decode(&bytes).expect_err("damaged")
    };
    assert!(matches!(damage(0, 0), FrameError::Magic(_)));
    assert_eq!(damage(4, 1), FrameError::Version(1));
    assert_eq!(damage(5, 9), FrameError::Unknown { what: "frame kind", number: 9 });
    assert_eq!(damage(6, 8), FrameError::Tail(TailError::NotHere(KIND_WELCOME)));
    assert_eq!(damage(6, 9), FrameError::Tail(TailError::Length(9)));
    assert_eq!(damage(7, 8), FrameError::Tail(TailError::Length(2048)));
    assert_eq!(damage(100, 1), FrameError::Reserved);
}

#[test]
fn the_layout_is_what_the_document_says() {
    let mut times = StageTimes::NONE;
    times.set(Stage::Server, 0x0102);
    let reply = Reply { status: Status::Ok, times, reply_ns_previous: None };
    let bytes = Frame {
        session: SessionId(0x0A0B),
        generation: Generation(3),
        slot: SlotIndex(4),
        request: 5,
        payload_bytes: 6,
        body: Body::Reply(reply),
    }
    .encode();
    assert_eq!(&bytes[0..8], b"FRRY\x02\x04\x00\x00");
    assert_eq!(&bytes[8..10], &[0x0B, 0x0A]);
    assert_eq!((bytes[16], bytes[20], bytes[24], bytes[32]), (3, 4, 5, 6));
    assert_eq!(&bytes[44..50], &[0xff; 6]);
    assert_eq!(&bytes[122..128], &[2, 1, 0, 0, 0, 0]);
    let what = Request { trace: TraceId([7; 16]), priority: 9, ..Request::of(RequestKind::Tensor) };
    let request = Frame {
        session: SessionId(1),
        generation: Generation(1),
        slot: SlotIndex(0),
        request: 1,
        payload_bytes: 0,
        body: Body::Request(what),
    };
    let bytes = Head { frame: request, tail_bytes: 0x0110 }.encode();
    assert_eq!(&bytes[4..8], &[2, 3, 0x10, 1]);
    assert_eq!((bytes[40], bytes[42], bytes[44]), (3, 9, 1));
    assert_eq!(&bytes[56..72], &[7; 16]);
}
