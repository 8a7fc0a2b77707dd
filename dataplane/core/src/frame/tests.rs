use proptest::prelude::*;

use super::*;
use crate::stage::Stage;

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
    let times = prop::collection::vec(prop::option::of(0..u64::MAX - 1), WIRE_STAGES.len());
    prop_oneof![
        Just(Body::Welcome),
        (request_kind(), any::<u32>(), any::<u8>())
            .prop_map(|(kind, batch, priority)| Body::Request(Request { kind, batch, priority })),
        (status(), times, prop::option::of(0..u64::MAX)).prop_map(|(status, ns, previous)| {
            let mut times = StageTimes::NONE;
            for (&stage, ns) in WIRE_STAGES.iter().zip(ns) {
                times.put(stage, ns);
            }
            Body::Reply(Reply { status, times, reply_ns_previous: previous })
        }),
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
    fn any_bytes_are_a_frame_or_an_error(mut bytes in prop::array::uniform32(any::<u32>()),
                                         signed: bool) {
        if signed {
            bytes[0] = MAGIC;
            bytes[1] = u32::from(VERSION) | (bytes[1] % 7) << 16;
        }
        let mut raw = [0_u8; FRAME_BYTES];
        for (chunk, word) in raw.chunks_exact_mut(4).zip(bytes) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        if let Ok(frame) = Frame::decode(&raw) {
            prop_assert_eq!(frame.encode(), raw, "an accepted frame has one encoding");
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
    assert_eq!(damage(4, 2), FrameError::Version(2));
    assert_eq!(damage(6, 9), FrameError::Unknown { what: "frame kind", number: 9 });
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
    assert_eq!(&bytes[0..8], b"FRRY\x01\x00\x04\x00");
    assert_eq!(&bytes[8..10], &[0x0B, 0x0A]);
    assert_eq!((bytes[16], bytes[20], bytes[24], bytes[32]), (3, 4, 5, 6));
    assert_eq!(&bytes[120..128], &[2, 1, 0, 0, 0, 0, 0, 0]);
}
