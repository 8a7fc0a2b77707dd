//! Peers of the `zmq` link that break its rules.

use std::time::Duration;

use ferry_core::{
    Body, FRAME_BYTES, Frame, Generation, Head, Request, RequestKind, SessionId, SlotIndex,
    SlotLayout, Status,
};
use ferry_transport::{AdmitError, Event, LinkError, Listener, ZmqListenerLink, ZmqOptions};
use proptest::prelude::*;

use crate::common::*;
use crate::{zmq as zmq_server, zmq_connect};

const SMALL: SlotLayout = SlotLayout { slots: 4, request_bytes: 3000, reply_bytes: 3000 };

struct RawPeer {
    socket: zmq::Socket,
}

impl RawPeer {
    fn new(server: &dyn Listener) -> RawPeer {
        let socket = zmq::Context::new().socket(zmq::DEALER).unwrap();
        socket.set_linger(0).unwrap();
        socket.set_rcvtimeo(i32::try_from(WATCHDOG.as_millis()).unwrap()).unwrap();
        socket.connect(&server.endpoint().address).unwrap();
        RawPeer { socket }
    }

    fn send(&self, parts: &[&[u8]]) {
        self.socket.send_multipart(parts, 0).unwrap();
    }

    fn receive(&self) -> Frame {
        let part = self.socket.recv_bytes(0).unwrap();
        Frame::decode(&<[u8; FRAME_BYTES]>::try_from(&part[..]).unwrap()).unwrap()
    }

    /// The next frame that is no question whether the peer lives: the server asks all of them with
    /// a welcome when one has gone, which clients overlook.
    fn answer(&self) -> Frame {
        loop {
            let frame = self.receive();
            if frame.body != Body::Welcome {
                return frame;
            }
        }
    }

    fn member(server: &mut dyn Listener, events: &mut Vec<Event>, session: u64) -> RawPeer {
        server.admit(admission(session, FIRST, SMALL)).unwrap();
        let peer = RawPeer::new(server);
        peer.send(&[&hello(session)]);
        until(server, events, take_joined);
        assert_eq!(peer.receive().body, Body::Welcome);
        peer
    }
}

fn frame(session: u64, body: Body) -> Frame {
    let (session, slot, generation) = (SessionId(session), SlotIndex(0), FIRST);
    Frame { session, generation, slot, request: 0, payload_bytes: 0, body }
}

fn hello(session: u64) -> [u8; FRAME_BYTES] {
    frame(session, Body::Hello { token: token(session) }).encode()
}

fn request(session: u64, payload_bytes: u64) -> Frame {
    let body = Body::Request(Request::of(RequestKind::Tensor));
    Frame { payload_bytes, ..frame(session, body) }
}

#[test]
fn each_breach_is_reported_and_ends_the_peer() {
    let ten = [7; 10];
    let header = |change: fn(&mut Frame)| {
        move |session| {
            let mut frame = request(session, 10);
            change(&mut frame);
            frame.encode()
        }
    };
    let bad_headers: [&dyn Fn(u64) -> [u8; FRAME_BYTES]; 5] = [
        &header(|frame| frame.session = SessionId(99)),
        &header(|frame| frame.generation = Generation(2)),
        &header(|frame| frame.slot = SlotIndex(4)),
        &header(|frame| frame.payload_bytes = 3001),
        &header(|frame| frame.body = Body::Welcome),
    ];
    let (mut server, mut events) = (zmq_server(), Vec::new());
    let mut breach = |session: u64, parts: &[&[u8]]| {
        let peer = RawPeer::member(&mut *server, &mut events, session);
        peer.send(parts);
        let gone = until(&mut *server, &mut events, take_gone);
        let Event::Gone { why: LinkError::Protocol(_), session: of, .. } = gone else {
            panic!("{gone:?}")
        };
        assert_eq!((of, refusals(&events)), (Some(SessionId(session)), 1));
        assert!(take_arrived(&mut events).is_none());
        assert!(matches!(peer.answer().body, Body::Bye { .. }));
        // Its identity is a stranger's now.
        peer.send(&[&request(session, 10).encode(), &ten]);
        assert!(matches!(
            until(&mut *server, &mut events, |events| {
                (refusals(events) == 2).then(|| peer.answer())
            })
            .body,
            Body::Bye { .. }
        ));
        assert!(take_arrived(&mut events).is_none());
        events.clear();
    };
    for (session, bad) in (1..).zip(bad_headers) {
        breach(session, &[&bad(session), &ten]);
    }
    breach(11, &[&request(11, 10).encode()]);
    breach(12, &[&request(12, 10).encode(), &[7; 9]]);
    breach(13, &[&request(13, 10).encode(), &[7; 11]]);
    breach(14, &[&request(14, 10).encode(), &ten, &[]]);
    breach(15, &[&request(15, 0).encode(), &[]]);
    breach(16, &[&request(16, 10).encode()[..127], &ten]);
    breach(17, &[&[], &request(17, 10).encode(), &ten]);
    breach(18, &[&hello(18)]);
    let head = |session, tail_bytes| Head { frame: request(session, 10), tail_bytes }.encode();
    breach(19, &[&[&head(19, 8)[..], &[0; 8]].concat(), &ten]);
    breach(20, &[&head(20, 8), &ten]);
    breach(21, &[&[&head(21, 0)[..], &[9, 0, 4, 0, 0, 0, 0, 0]].concat(), &ten]);
    breach(22, &[&[&head(22, 1920)[..], &[0; 1928]].concat(), &ten]);
}

#[test]
fn an_identity_speaks_for_its_own_session_only() {
    let (mut server, mut events) = (zmq_server(), Vec::new());
    let victim = RawPeer::member(&mut *server, &mut events, 1);
    let attacker = RawPeer::member(&mut *server, &mut events, 2);
    let stranger = RawPeer::new(&*server);
    stranger.send(&[&request(1, 4).encode(), b"evil"]);
    attacker.send(&[&request(1, 4).encode(), b"evil"]);
    until(&mut *server, &mut events, |events| (refusals(events) == 2).then_some(()));
    victim.send(&[&request(1, 4).encode(), b"good"]);
    let landed = until(&mut *server, &mut events, take_arrived);
    assert_eq!(requested(&landed), b"good");
    answer(&mut *server, landed, b"");
    assert!(matches!(victim.answer().body, Body::Reply(_)));
    assert!(matches!(attacker.answer().body, Body::Bye { .. }));
    assert!(matches!(stranger.answer().body, Body::Bye { status: Status::BadRequest }));
}

#[test]
fn what_is_longer_than_any_slot_is_not_even_received() {
    let options = ZmqOptions { request_bytes_max: 3000, ..ZmqOptions::default() };
    let any = "127.0.0.1:0".parse().unwrap();
    let mut server = ZmqListenerLink::bind(any, options).unwrap();
    let long = layout(1, 3001, 10);
    assert!(matches!(server.admit(admission(9, FIRST, long)), Err(AdmitError::Memory(_))));
    let mut events = Vec::new();
    let peer = RawPeer::member(&mut server, &mut events, 1);
    peer.send(&[&request(1, 3000).encode(), &vec![1; 3001]]);
    let gone = until(&mut server, &mut events, take_gone);
    assert!(matches!(gone, Event::Gone { why: LinkError::Closed, .. }), "{gone:?}");
    assert!(take_arrived(&mut events).is_none());
    let _other = RawPeer::member(&mut server, &mut events, 2);
}

#[test]
fn a_peer_that_dies_without_a_word_is_found_out() {
    let (mut server, mut events) = (zmq_server(), Vec::new());
    let dead = RawPeer::member(&mut *server, &mut events, 1);
    let alive = RawPeer::member(&mut *server, &mut events, 2);
    drop(dead);
    let gone = until(&mut *server, &mut events, take_gone);
    let Event::Gone { why: LinkError::Closed, session, .. } = gone else { panic!("{gone:?}") };
    assert_eq!(session, Some(SessionId(1)));
    alive.send(&[&request(2, 0).encode()]);
    until(&mut *server, &mut events, take_arrived);
    assert!(take_gone(&mut events).is_none(), "only the dead one is");
    assert_eq!(alive.receive().body, Body::Welcome, "was asked whether it lives");
}

#[test]
fn who_does_not_read_its_replies_holds_up_nobody_else() {
    let layout = layout(16, 10, 4_000_000);
    let (mut server, mut at_server) = (zmq_server(), Vec::new());
    let mut at_client = Vec::new();
    server.admit(admission(1, FIRST, layout)).unwrap();
    server.admit(admission(2, FIRST, layout)).unwrap();
    let slow = join(&mut *server, &mut at_server, zmq_connect, 1, FIRST, layout);
    let (mut slow, slow_table) = slow.unwrap();
    let fast = join(&mut *server, &mut at_server, zmq_connect, 2, FIRST, layout);
    let (mut fast, fast_table) = fast.unwrap();
    for request in 0..16 {
        send(&mut *slow, &slow_table, 1, request, b"big");
    }
    for request in 0..50 {
        send(&mut *fast, &fast_table, 2, request, b"small");
        let landed = exchange(&mut *server, &mut at_server, &mut *fast, &mut at_client, |landed| {
            match requested(landed) {
                b"big" => pattern(4_000_000, landed.frame.request),
                _ => vec![1],
            }
        });
        assert_eq!(landed.frame.request, request);
    }
    for request in 0..16 {
        let landed = exchange(&mut *server, &mut at_server, &mut *slow, &mut at_client, |landed| {
            assert_eq!(requested(landed), b"big");
            pattern(4_000_000, landed.frame.request)
        });
        assert!(replied(&landed) == pattern(4_000_000, request));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() })]

    #[test]
    fn random_messages_harm_nobody(
        joins in any::<bool>(),
        messages in proptest::collection::vec(
            proptest::collection::vec(
                prop_oneof![
                    proptest::collection::vec(any::<u8>(), 0..200),
                    (0..128_usize, any::<u8>()).prop_map(|(at, with)| {
                        let mut header = request(1, 5).encode().to_vec();
                        header[at] ^= with;
                        header
                    }),
                    Just(vec![1; 5]),
                ],
                1..4,
            ),
            1..6,
        ),
    ) {
        let (mut server, mut events) = (zmq_server(), Vec::new());
        let peer = if joins {
            RawPeer::member(&mut *server, &mut events, 1)
        } else {
            server.admit(admission(1, FIRST, SMALL)).unwrap();
            RawPeer::new(&*server)
        };
        for message in &messages {
            peer.send(&message.iter().map(|part| &part[..]).collect::<Vec<_>>());
        }
        let honest = RawPeer::member(&mut *server, &mut events, 2);
        honest.send(&[&request(2, 4).encode(), b"good"]);
        let mut honest_landed = false;
        while !honest_landed {
            let landed = until(&mut *server, &mut events, take_arrived);
            prop_assert!(joins || landed.frame.session == SessionId(2));
            prop_assert_eq!(landed.frame.generation, FIRST);
            honest_landed = landed.frame.session == SessionId(2);
            if honest_landed {
                prop_assert_eq!(requested(&landed), b"good");
            } else {
                prop_assert_eq!(landed.frame.session, SessionId(1));
                prop_assert_eq!(requested(&landed).len() as u64, landed.frame.payload_bytes);
            }
        }
        server.park(Duration::ZERO);
    }
}
