//! What the tests of several links share: a server in this thread, clients beside it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{
    Body, Endpoint, Frame, Generation, Reply, Request, RequestKind, SessionId, SlotLayout,
    StageTimes, Status, Token, WaitPolicy,
};
use ferry_memory::{PeerId, Slot, SlotTable};
use ferry_transport::link::SERVER;
use ferry_transport::{Admission, ConnectError, Event, Link, Listener, Transfer};

/// Only ever reached when something hangs.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(60);

pub(crate) const FIRST: Generation = Generation::FIRST;

pub(crate) type Connected = Result<(Box<dyn Link>, Arc<SlotTable>), ConnectError>;

/// How a test connects to the link under test.
pub(crate) type Connect = fn(&Endpoint, SessionId, Generation, Token, SlotLayout) -> Connected;

pub(crate) fn token(session: u64) -> Token {
    let mut bytes = [0x5a; Token::BYTES];
    bytes[..8].copy_from_slice(&session.to_le_bytes());
    Token::new(bytes)
}

pub(crate) fn layout(slots: u32, request_bytes: u64, reply_bytes: u64) -> SlotLayout {
    SlotLayout { slots, request_bytes, reply_bytes }
}

pub(crate) fn admission(session: u64, generation: Generation, layout: SlotLayout) -> Admission {
    let (wait, token) = (WaitPolicy::Block, token(session));
    Admission { session: SessionId(session), generation, token, layout, wait, placer: None }
}

/// Connects with the right token in a thread of its own while `server` is polled here.
pub(crate) fn join(
    server: &mut dyn Listener,
    events: &mut Vec<Event>,
    connect: Connect,
    session: u64,
    generation: Generation,
    layout: SlotLayout,
) -> Connected {
    join_by(server, events, move |endpoint| {
        connect(endpoint, SessionId(session), generation, token(session), layout)
    })
}

/// Connects in a thread of its own while `server` is polled here.
pub(crate) fn join_by(
    server: &mut dyn Listener,
    events: &mut Vec<Event>,
    connect: impl FnOnce(&Endpoint) -> Connected + Send + 'static,
) -> Connected {
    let endpoint = server.endpoint();
    let connecting = std::thread::Builder::new()
        .name("connect".into())
        .spawn(move || connect(&endpoint))
        .unwrap();
    let started = Instant::now();
    while !connecting.is_finished() {
        assert!(started.elapsed() < WATCHDOG, "connecting hangs");
        server.poll(events);
        server.park(Duration::from_millis(1));
    }
    connecting.join().unwrap()
}

/// Polls until `done` says so.
pub(crate) fn until<T>(
    link: &mut dyn Link,
    events: &mut Vec<Event>,
    mut done: impl FnMut(&mut Vec<Event>) -> Option<T>,
) -> T {
    let started = Instant::now();
    loop {
        link.poll(events);
        if let Some(found) = done(events) {
            return found;
        }
        assert!(started.elapsed() < WATCHDOG, "waited in vain; events: {events:?}");
        link.park(Duration::from_millis(5));
    }
}

/// What an [`Event::Arrived`] holds.
pub(crate) struct Landed {
    pub(crate) peer: PeerId,
    pub(crate) frame: Frame,
    pub(crate) slot: Slot,
}

pub(crate) fn take_arrived(events: &mut Vec<Event>) -> Option<Landed> {
    let at = events.iter().position(|event| matches!(event, Event::Arrived { .. }))?;
    match events.remove(at) {
        Event::Arrived { peer, frame, slot, tail: _, seen, visible } => {
            assert!(seen <= visible);
            Some(Landed { peer, frame, slot })
        }
        _ => None,
    }
}

pub(crate) fn take_gone(events: &mut Vec<Event>) -> Option<Event> {
    let at = events.iter().position(|event| matches!(event, Event::Gone { .. }))?;
    Some(events.remove(at))
}

pub(crate) fn take_joined(events: &mut Vec<Event>) -> Option<PeerId> {
    let joined = |event: &Event| match event {
        Event::Joined { peer, .. } => Some(*peer),
        _ => None,
    };
    let (at, peer) = events.iter().enumerate().find_map(|(i, e)| Some((i, joined(e)?)))?;
    events.remove(at);
    Some(peer)
}

pub(crate) fn refusals(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::Refused(_))).count()
}

/// Bytes that differ from place to place and from seed to seed.
pub(crate) fn pattern(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(bytes);
    out
}

pub(crate) fn request_frame(
    session: u64,
    generation: Generation,
    slot: &Slot,
    request: u64,
) -> Frame {
    let body = Body::Request(Request::of(RequestKind::Tensor));
    let (session, slot) = (SessionId(session), slot.index());
    Frame { session, generation, slot, request, payload_bytes: 0, body }
}

/// Fills a free slot and submits it.
pub(crate) fn send(
    client: &mut dyn Link,
    table: &Arc<SlotTable>,
    session: u64,
    request: u64,
    payload: &[u8],
) {
    let mut slot = table.acquire().expect("a free slot");
    slot.request_bytes_mut().unwrap()[..payload.len()].copy_from_slice(payload);
    let mut frame = request_frame(session, FIRST, &slot, request);
    frame.payload_bytes = payload.len() as u64;
    client.submit(Transfer::new(SERVER, frame, slot)).expect("submitted");
}

/// Answers with `payload`.
pub(crate) fn answer(server: &mut dyn Link, landed: Landed, payload: &[u8]) {
    let Landed { peer, frame, mut slot } = landed;
    slot.reply_bytes_mut().unwrap()[..payload.len()].copy_from_slice(payload);
    let reply = Reply { status: Status::Ok, times: StageTimes::NONE, reply_ns_previous: None };
    let payload_bytes = payload.len() as u64;
    let frame = Frame { payload_bytes, body: Body::Reply(reply), ..frame };
    server.submit(Transfer::new(peer, frame, slot)).expect("submitted");
}

/// The payload of a request that landed.
pub(crate) fn requested(landed: &Landed) -> &[u8] {
    let bytes = usize::try_from(landed.frame.payload_bytes).unwrap();
    &landed.slot.request_bytes().unwrap()[..bytes]
}

/// The payload of a reply that landed.
pub(crate) fn replied(landed: &Landed) -> &[u8] {
    let bytes = usize::try_from(landed.frame.payload_bytes).unwrap();
    &landed.slot.reply_bytes().unwrap()[..bytes]
}

/// Polls both ends until the client has a reply.
pub(crate) fn exchange(
    server: &mut dyn Listener,
    server_events: &mut Vec<Event>,
    client: &mut dyn Link,
    client_events: &mut Vec<Event>,
    mut reply: impl FnMut(&Landed) -> Vec<u8>,
) -> Landed {
    let started = Instant::now();
    loop {
        server.poll(server_events);
        while let Some(landed) = take_arrived(server_events) {
            let payload = reply(&landed);
            answer(server, landed, &payload);
        }
        client.poll(client_events);
        if let Some(landed) = take_arrived(client_events) {
            return landed;
        }
        assert!(
            started.elapsed() < WATCHDOG,
            "no reply; server {server_events:?}, client {client_events:?}"
        );
    }
}
