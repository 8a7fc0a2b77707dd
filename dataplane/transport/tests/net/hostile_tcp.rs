//! Peers of the `tcp` link that are slow, broken or hostile.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ferry_core::{
    Body, FRAME_BYTES, Frame, FrameError, Generation, Head, Reply, Request, RequestKind, SessionId,
    SlotIndex, SlotLayout, StageTimes, Status,
};
use ferry_memory::PeerId;
use ferry_transport::{Event, Link, LinkError, Listener, Refusal, TcpListenerLink, TcpOptions};
use proptest::prelude::*;

use crate::common::*;
use crate::{tcp, tcp_connect};

const SMALL: SlotLayout = SlotLayout { slots: 4, request_bytes: 3000, reply_bytes: 3000 };

fn raw(server: &dyn Listener) -> TcpStream {
    let stream = TcpStream::connect(server.endpoint().address).unwrap();
    stream.set_read_timeout(Some(WATCHDOG)).unwrap();
    stream
}

fn frame(session: u64, generation: Generation, body: Body) -> Frame {
    let (session, slot) = (SessionId(session), SlotIndex(0));
    Frame { session, generation, slot, request: 0, payload_bytes: 0, body }
}

fn hello(session: u64, generation: Generation) -> Vec<u8> {
    frame(session, generation, Body::Hello { token: token(session) }).encode().to_vec()
}

fn request(session: u64, generation: Generation, slot: u32, payload_bytes: u64) -> Frame {
    let body = Body::Request(Request::of(RequestKind::Tensor));
    Frame { slot: SlotIndex(slot), payload_bytes, ..frame(session, generation, body) }
}

fn read_frame(stream: &mut TcpStream) -> Frame {
    let mut header = [0; FRAME_BYTES];
    stream.read_exact(&mut header).unwrap();
    Frame::decode(&header).unwrap()
}

/// Joins by hand.
fn raw_member(server: &mut dyn Listener, events: &mut Vec<Event>, session: u64) -> TcpStream {
    server.admit(admission(session, FIRST, SMALL)).unwrap();
    let mut stream = raw(server);
    stream.write_all(&hello(session, FIRST)).unwrap();
    until(server, events, take_joined);
    assert_eq!(read_frame(&mut stream).body, Body::Welcome);
    stream
}

#[test]
fn bytes_that_come_one_by_one_are_a_request_all_the_same() {
    let (mut server, mut events) = (tcp(), Vec::new());
    let mut stream = raw_member(&mut *server, &mut events, 1);
    stream.set_nodelay(true).unwrap();
    let mut bytes = request(1, FIRST, 2, 40).encode().to_vec();
    bytes.extend(pattern(40, 9));
    for byte in bytes {
        assert!(take_arrived(&mut events).is_none(), "not complete");
        stream.write_all(&[byte]).unwrap();
        server.poll(&mut events);
    }
    let landed = until(&mut *server, &mut events, take_arrived);
    assert!(requested(&landed) == pattern(40, 9));
    assert_eq!(landed.slot.index(), SlotIndex(2));
}

#[test]
fn each_breach_is_reported_and_ends_the_connection() {
    let breaches: [fn(&mut Frame); 7] = [
        |frame| frame.session = SessionId(99),
        |frame| frame.generation = Generation(7),
        |frame| frame.slot = SlotIndex(4),
        |frame| frame.slot = SlotIndex(u32::MAX),
        |frame| frame.payload_bytes = 3001,
        |frame| frame.payload_bytes = u64::MAX,
        |frame| frame.body = Body::Welcome,
    ];
    let (mut server, mut events) = (tcp(), Vec::new());
    for (session, breach) in (1..).zip(breaches) {
        let mut stream = raw_member(&mut *server, &mut events, session);
        let mut broken = request(session, FIRST, 0, 10);
        breach(&mut broken);
        stream.write_all(&broken.encode()).unwrap();
        let gone = until(&mut *server, &mut events, take_gone);
        let Event::Gone { why: LinkError::Protocol(_), session: of, .. } = gone else {
            panic!("{gone:?}")
        };
        assert_eq!(of, Some(SessionId(session)));
        assert!(matches!(read_frame(&mut stream).body, Body::Bye { .. }), "told");
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "closed");
        assert_eq!(refusals(&events), 1);
        events.clear();
    }
}

#[test]
fn tails_are_checked_before_a_payload_byte_and_may_come_byte_by_byte() {
    let (mut server, mut events) = (tcp(), Vec::new());
    let head =
        |session, tail_bytes| Head { frame: request(session, FIRST, 0, 4), tail_bytes }.encode();
    let bad: [&[u8]; 3] = [&[0; 8], &[1, 0, 5, 0, 0, 0, 0, 0], &[9, 0, 1, 0, 0, 0, 0, 1]];
    for (session, tail) in (1..).zip(bad) {
        let mut stream = raw_member(&mut *server, &mut events, session);
        stream.write_all(&[&head(session, tail.len()), tail, b"evil"].concat()).unwrap();
        let gone = until(&mut *server, &mut events, take_gone);
        assert!(matches!(gone, Event::Gone { why: LinkError::Protocol(_), .. }), "{gone:?}");
        let refused =
            |event: &Event| matches!(event, Event::Refused(Refusal::Frame(FrameError::Tail(_))));
        assert!(events.iter().any(refused), "{events:?}");
        assert!(take_arrived(&mut events).is_none());
        assert!(matches!(read_frame(&mut stream).body, Body::Bye { .. }), "told");
        events.clear();
    }
    let mut stream = raw_member(&mut *server, &mut events, 9);
    stream.set_nodelay(true).unwrap();
    let unknown = [9, 0, 4, 0, 1, 2, 3, 4];
    for byte in [&head(9, 8)[..], &unknown, b"good"].concat() {
        assert!(take_arrived(&mut events).is_none(), "not complete");
        stream.write_all(&[byte]).unwrap();
        server.poll(&mut events);
    }
    let landed = until(&mut *server, &mut events, take_arrived);
    assert_eq!(requested(&landed), b"good");
}

#[test]
fn a_slot_that_is_in_use_cannot_be_written_again() {
    let (mut server, mut events) = (tcp(), Vec::new());
    let mut stream = raw_member(&mut *server, &mut events, 1);
    let once = [&request(1, FIRST, 0, 4).encode()[..], b"once"].concat();
    let twice = [&request(1, FIRST, 0, 4).encode()[..], b"evil"].concat();
    stream.write_all(&[once, twice].concat()).unwrap();
    let landed = until(&mut *server, &mut events, take_arrived);
    until(&mut *server, &mut events, take_gone);
    assert_eq!(requested(&landed), b"once");
    let refused = |event: &Event| matches!(event, Event::Refused(Refusal::Slot { slot: 0, .. }));
    assert!(events.iter().any(refused), "{events:?}");
}

#[test]
fn silent_strangers_are_few_and_do_not_stay() {
    let hello_within = Duration::from_millis(100);
    let options = TcpOptions { unproven_max: 4, hello_within, ..TcpOptions::default() };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut server = TcpListenerLink::new(listener, options).unwrap();
    server.admit(admission(1, FIRST, SMALL)).unwrap();
    let (mut at_server, mut at_client) = (Vec::new(), Vec::new());
    let strangers: Vec<TcpStream> = (0..30).map(|_| raw(&server)).collect();
    // Some say half a word.
    for mut stranger in strangers.iter().step_by(2) {
        stranger.write_all(&hello(1, FIRST)[..100]).unwrap();
    }
    let joined = join(&mut server, &mut at_server, tcp_connect, 1, FIRST, SMALL);
    let (mut client, table) = joined.unwrap();
    send(&mut *client, &table, 1, 1, b"x");
    exchange(&mut server, &mut at_server, &mut *client, &mut at_client, |_| vec![1]);
    let mut gone = 0;
    until(&mut server, &mut at_server, |events| {
        while let Some(Event::Gone { session, .. }) = take_gone(events) {
            assert_eq!(session, None);
            gone += 1;
        }
        (gone == strangers.len()).then_some(())
    });
}

#[test]
fn a_peer_that_dies_in_a_payload_leaves_nothing_behind() {
    let (mut server, mut events) = (tcp(), Vec::new());
    let mut stream = raw_member(&mut *server, &mut events, 1);
    stream.write_all(&request(1, FIRST, 0, 3000).encode()).unwrap();
    stream.write_all(&[7; 100]).unwrap();
    server.poll(&mut events);
    drop(stream);
    let gone = until(&mut *server, &mut events, take_gone);
    assert!(matches!(gone, Event::Gone { why: LinkError::Closed, .. }), "{gone:?}");
    assert!(take_arrived(&mut events).is_none());
    server.admit(admission(1, Generation(2), SMALL)).unwrap();
    let again = join(&mut *server, &mut events, tcp_connect, 1, Generation(2), SMALL);
    assert!(again.is_ok());
}

#[test]
fn what_comes_after_an_eviction_reaches_nobody() {
    let (mut server, mut events) = (tcp(), Vec::new());
    let mut stream = raw_member(&mut *server, &mut events, 1);
    stream.write_all(&request(1, FIRST, 0, 3000).encode()).unwrap();
    stream.write_all(&[7; 1500]).unwrap();
    for _ in 0..10 {
        server.poll(&mut events);
        server.park(Duration::from_millis(1));
    }
    server.evict(SessionId(1), Status::SessionEnded);
    server.admit(admission(1, Generation(2), SMALL)).unwrap();
    let joined = join(&mut *server, &mut events, tcp_connect, 1, Generation(2), SMALL);
    let (_client, _table) = joined.unwrap();
    assert_eq!(read_frame(&mut stream).body, Body::Bye { status: Status::SessionEnded });
    // The kernel may say that nobody listens; either way nobody does.
    let _refused = stream.write_all(&[7; 1500]);
    for _ in 0..10 {
        server.poll(&mut events);
        server.park(Duration::from_millis(1));
    }
    assert!(take_arrived(&mut events).is_none(), "{events:?}");
}

#[test]
fn who_does_not_read_its_replies_holds_up_nobody_else() {
    let layout = layout(8, 10, 4_000_000);
    let (mut server, mut at_server) = (tcp(), Vec::new());
    let mut at_client = Vec::new();
    server.admit(admission(1, FIRST, layout)).unwrap();
    server.admit(admission(2, FIRST, layout)).unwrap();
    let slow = join(&mut *server, &mut at_server, tcp_connect, 1, FIRST, layout);
    let (mut slow, slow_table) = slow.unwrap();
    let fast = join(&mut *server, &mut at_server, tcp_connect, 2, FIRST, layout);
    let (mut fast, fast_table) = fast.unwrap();
    for request in 0..8 {
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
    let unsent = 58 - at_server.iter().filter(|event| matches!(event, Event::Sent { .. })).count();
    assert!(unsent > 0, "32 MB do not fit the socket's buffers");
    for request in 0..8 {
        let landed =
            exchange(&mut *server, &mut at_server, &mut *slow, &mut at_client, |_| unreachable!());
        assert!(replied(&landed) == pattern(4_000_000, request));
    }
}

#[test]
fn a_flood_waits_for_its_turn() {
    let (mut server, mut events) = (tcp(), Vec::new());
    let layout = layout(64, 1, 1);
    let mut streams = Vec::new();
    // More connections than are swept, so that both ways of finding the ready ones are used.
    for session in 1..=6 {
        server.admit(admission(session, FIRST, layout)).unwrap();
        let mut stream = raw(&*server);
        stream.write_all(&hello(session, FIRST)).unwrap();
        streams.push((until(&mut *server, &mut events, take_joined), stream));
        if session != 2 && session != 6 {
            continue;
        }
        events.clear();
        let flood: Vec<u8> = (0..64).flat_map(|at| request(1, FIRST, at, 0).encode()).collect();
        streams[0].1.write_all(&flood).unwrap();
        let (modest, stream) = streams.last_mut().unwrap();
        stream.write_all(&request(session, FIRST, 0, 0).encode()).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let order = arrivals(&mut *server, &mut events, 65);
        let at = order.iter().position(|peer| peer == modest).unwrap();
        assert!(at < 32, "came {at}th behind a flood");
        events.clear();
    }
}

/// Who sent the next requests, in order; drops them, which frees their slots.
fn arrivals(server: &mut dyn Link, events: &mut Vec<Event>, count: usize) -> Vec<PeerId> {
    let mut order = Vec::new();
    until(server, events, |events| {
        assert!(refusals(events) == 0, "{events:?}");
        while let Some(landed) = take_arrived(events) {
            order.push(landed.peer);
        }
        (order.len() == count).then_some(())
    });
    order
}

/// A change to a valid stream of bytes.
#[derive(Clone, Debug)]
enum Damage {
    Flip(usize, u8),
    Cut(usize),
    Insert(usize, Vec<u8>),
    Repeat(usize, usize),
}

impl Damage {
    fn apply(&self, stream: &mut Vec<u8>) {
        let len = stream.len().max(1);
        match self {
            Damage::Flip(at, with) => {
                if let Some(byte) = stream.get_mut(at % len) {
                    *byte ^= with;
                }
            }
            Damage::Cut(at) => stream.truncate(at % len),
            Damage::Insert(at, bytes) => {
                let at = (at % len).min(stream.len());
                stream.splice(at..at, bytes.iter().copied());
            }
            Damage::Repeat(at, bytes) => {
                let at = (at % len).min(stream.len());
                let end = (at + bytes % 300).min(stream.len());
                stream.extend_from_within(at..end);
            }
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let bytes = proptest::collection::vec(any::<u8>(), 1..200);
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, with)| Damage::Flip(at, with)),
        // Most fields that mean something are in the second header.
        (128..256_usize, any::<u8>()).prop_map(|(at, with)| Damage::Flip(at, with)),
        any::<usize>().prop_map(Damage::Cut),
        (any::<usize>(), bytes).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        (any::<usize>(), any::<usize>()).prop_map(|(at, bytes)| Damage::Repeat(at, bytes)),
    ]
}

fn valid_stream(generation: Generation) -> Vec<u8> {
    let mut stream = hello(1, generation);
    for slot in 0..4 {
        let bytes = 1000 * u64::from(slot);
        stream.extend(request(1, generation, slot, bytes).encode());
        stream.extend(pattern(1000 * slot as usize, u64::from(slot)));
    }
    stream
}

/// Counts the leases of session 1 over all cases.
static LEASES: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(1));

/// Feeds a stream to a server; nothing may arrive that is not of the live lease.
fn feed(make: impl FnOnce(Generation) -> Vec<u8>, chunk: usize) {
    thread_local! {
        static SERVER: std::cell::RefCell<Box<dyn Listener>> = std::cell::RefCell::new(tcp());
    }
    SERVER.with_borrow_mut(|server| {
        let generation = Generation(LEASES.fetch_add(1, Ordering::Relaxed));
        server.admit(admission(1, generation, SMALL)).unwrap();
        let mut stream = raw(&**server);
        let mut events = Vec::new();
        for piece in make(generation).chunks(chunk.max(1)) {
            if stream.write_all(piece).is_err() {
                break;
            }
            server.poll(&mut events);
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap_or_default();
        let started = Instant::now();
        while take_gone(&mut events).is_none() {
            assert!(started.elapsed() < WATCHDOG, "the connection stays: {events:?}");
            server.park(Duration::from_millis(5));
            server.poll(&mut events);
        }
        while let Some(landed) = take_arrived(&mut events) {
            assert_eq!(landed.frame.session, SessionId(1));
            assert_eq!(landed.frame.generation, generation);
            assert!(requested(&landed).len() <= 3000);
            assert!(landed.slot.index().0 < 4);
        }
        server.evict(SessionId(1), Status::SessionEnded);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..Default::default() })]

    #[test]
    fn random_bytes_harm_nobody(
        bytes in proptest::collection::vec(any::<u8>(), 0..2000),
        chunk in 1..700_usize,
    ) {
        feed(|_| bytes, chunk);
    }

    #[test]
    fn random_bytes_after_a_hello_harm_nobody(
        bytes in proptest::collection::vec(any::<u8>(), 0..2000),
        chunk in 1..700_usize,
    ) {
        feed(|generation| [hello(1, generation), bytes].concat(), chunk);
    }

    #[test]
    fn damaged_streams_harm_nobody(
        damages in proptest::collection::vec(damage(), 0..6),
        chunk in 1..3000_usize,
    ) {
        feed(|generation| {
            let mut stream = valid_stream(generation);
            damages.iter().for_each(|damage| damage.apply(&mut stream));
            stream
        }, chunk);
    }
}

#[test]
fn a_client_trusts_its_server_no_further() {
    let reply = Reply { status: Status::Ok, times: StageTimes::NONE, reply_ns_previous: None };
    let lies: [fn(&mut Frame); 7] = [
        |frame| frame.session = SessionId(2),
        |frame| frame.generation = Generation(2),
        |frame| frame.slot = SlotIndex(1),
        |frame| frame.slot = SlotIndex(70),
        |frame| frame.request += 1,
        |frame| frame.payload_bytes = 3001,
        |frame| frame.body = Body::Welcome,
    ];
    for lie in lies {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let endpoint = ferry_core::Endpoint::new(ferry_core::LinkKind::Tcp, address);
        let connecting = std::thread::Builder::new()
            .spawn(move || tcp_connect(&endpoint, SessionId(1), FIRST, token(1), SMALL))
            .unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let greeting = read_frame(&mut stream);
        stream.write_all(&Frame { body: Body::Welcome, ..greeting }.encode()).unwrap();
        let (mut client, table) = connecting.join().unwrap().unwrap();
        send(&mut *client, &table, 1, 5, b"ask");
        let mut answer = read_frame(&mut stream);
        answer.body = Body::Reply(reply);
        answer.payload_bytes = 0;
        lie(&mut answer);
        stream.write_all(&answer.encode()).unwrap();
        let mut events = Vec::new();
        let gone = until(&mut *client, &mut events, take_gone);
        let Event::Gone { why: LinkError::Protocol(_), slots, .. } = gone else {
            panic!("{gone:?}")
        };
        assert_eq!((slots.len(), refusals(&events)), (1, 1));
        assert!(take_arrived(&mut events).is_none());
    }
}
