//! A server and its clients, polled in turn by one thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{
    Body, Frame, Generation, RegionDescriptor, Reply, Request, RequestKind, SessionId, SlotLayout,
    StageTimes, Status, Tail, Token, WaitPolicy,
};
use ferry_memory::{PeerId, Slot, SlotTable, View};
use ferry_transport::link::{EVENTS_PER_POLL_MAX, SERVER};
use ferry_transport::{Admission, Event, Link, LinkError, Rejected, Transfer};

use super::{ClientEnd, Connect, ServerEnd};

/// No step takes longer unless something hangs.
pub(super) const WATCHDOG: Duration = Duration::from_secs(30);

/// Room for the payload sizes that are tried; the largest is no power of two and no page.
pub(super) const LAYOUT: SlotLayout =
    SlotLayout { slots: 4, request_bytes: 70_001, reply_bytes: 66_003 };

pub(super) fn admission(session: u64) -> Admission {
    Admission {
        session: SessionId(session),
        generation: Generation::FIRST,
        token: Token::new([session.to_le_bytes()[0]; Token::BYTES]),
        layout: LAYOUT,
        wait: WaitPolicy::Adaptive,
        placer: None,
    }
}

/// Bytes that differ by seed and by place.
pub(super) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

pub(super) fn put(view: View<'_>, bytes: &[u8]) {
    view.copy_in(0, bytes).unwrap_or_else(|error| panic!("fill a slot: {error}"));
}

pub(super) fn get(view: View<'_>, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    view.copy_out(0, &mut bytes).unwrap_or_else(|error| panic!("read a slot: {error}"));
    bytes
}

/// A frame that arrived.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) peer: PeerId,
    pub(super) frame: Frame,
    pub(super) slot: Slot,
    pub(super) tail: Tail,
}

impl Arrived {
    pub(super) fn len(&self) -> usize {
        usize::try_from(self.frame.payload_bytes).expect("the suite's payloads are short")
    }
}

/// What was seen at one end and not yet looked at.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) arrived: VecDeque<Arrived>,
    pub(super) sent: Vec<u64>,
    pub(super) joined: Vec<(PeerId, SessionId)>,
    pub(super) refused: Vec<ferry_transport::Refusal>,
    pub(super) gone: Vec<(Option<SessionId>, LinkError)>,
    /// Slots that came back with the end of the link.
    pub(super) dirty: Vec<Slot>,
}

impl Seen {
    pub(super) fn poll(&mut self, link: &mut dyn Link) {
        let mut events = Vec::new();
        link.poll(&mut events);
        let most = EVENTS_PER_POLL_MAX;
        assert!(events.len() <= most, "{} events in one poll, at most {most}", events.len());
        for event in events {
            match event {
                Event::Arrived { peer, frame, slot, tail, seen, visible } => {
                    assert!(visible >= seen, "visible before the doorbell was seen");
                    self.arrived.push_back(Arrived { peer, frame, slot, tail });
                }
                Event::Sent { request, .. } => self.sent.push(request),
                Event::Joined { peer, session } => self.joined.push((peer, session)),
                Event::Refused(refusal) => self.refused.push(refusal),
                Event::Gone { session, why, slots, .. } => {
                    self.gone.push((session, why));
                    self.dirty.extend(slots);
                }
            }
        }
    }
}

/// One client.
pub(super) struct Client {
    pub(super) admission: Admission,
    pub(super) link: Box<dyn Link>,
    pub(super) table: Arc<SlotTable>,
    pub(super) seen: Seen,
}

impl Client {
    pub(super) fn new(admission: Admission, end: ClientEnd) -> Client {
        Client { admission, link: end.link, table: end.table, seen: Seen::default() }
    }

    pub(super) fn slot(&self) -> Slot {
        self.table.acquire().expect("a slot is free")
    }

    /// An honest request frame.
    pub(super) fn frame(&self, request: u64, slot: &Slot, len: usize) -> Frame {
        let what = Request::of(RequestKind::Tensor);
        Frame {
            session: self.admission.session,
            generation: self.admission.generation,
            slot: slot.index(),
            request,
            payload_bytes: len as u64,
            body: Body::Request(what),
        }
    }

    pub(super) fn submit(&mut self, frame: Frame, slot: Slot) -> Result<(), Rejected> {
        self.link.submit(Transfer::new(SERVER, frame, slot))
    }

    /// Sends a request with this payload.
    pub(super) fn send(&mut self, request: u64, payload: &[u8]) {
        self.send_with(request, payload, Tail::NONE);
    }

    /// Sends a request with this payload and this tail.
    pub(super) fn send_with(&mut self, request: u64, payload: &[u8], tail: Tail) {
        let slot = self.slot();
        put(slot.request(), payload);
        let frame = self.frame(request, &slot, payload.len());
        let sent = self.link.submit(Transfer { tail, ..Transfer::new(SERVER, frame, slot) });
        sent.unwrap_or_else(|error| panic!("submit: {}", error.why));
    }
}

/// A listener with its clients.
pub(super) struct Pair {
    pub(super) server: ServerEnd,
    pub(super) seen: Seen,
    pub(super) clients: Vec<Client>,
}

impl Pair {
    pub(super) fn new(open: &dyn Fn() -> ServerEnd) -> Pair {
        Pair { server: open(), seen: Seen::default(), clients: Vec::new() }
    }

    /// A listener with one client.
    pub(super) fn connected(open: &dyn Fn() -> ServerEnd) -> Pair {
        let mut pair = Pair::new(open);
        pair.add(admission(1));
        pair
    }

    pub(super) fn admit(&mut self, admission: &Admission) -> RegionDescriptor {
        let admitted = self.server.listener.admit(admission.clone());
        admitted.unwrap_or_else(|error| panic!("admit: {error}"))
    }

    /// Admits a session and connects its client.
    pub(super) fn add(&mut self, admission: Admission) {
        let descriptor = self.admit(&admission);
        let end = self.try_connect(&admission, &descriptor);
        let end = end.unwrap_or_else(|error| panic!("connect: {error}"));
        self.clients.push(Client::new(admission.clone(), end));
        let joined = self.seen.joined.len();
        self.until("the client joined", |pair| {
            pair.seen.joined.iter().any(|it| it.1 == admission.session)
        });
        assert!(joined <= 1, "a client joins once");
        self.seen.joined.clear();
    }

    /// Connects on another thread while the listener is polled.
    pub(super) fn try_connect(
        &mut self,
        admission: &Admission,
        descriptor: &RegionDescriptor,
    ) -> Result<ClientEnd, String> {
        let Pair { server: ServerEnd { listener, connect }, seen, .. } = self;
        let connect: &Connect = connect;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || connect(admission, descriptor));
            let start = Instant::now();
            while !thread.is_finished() && start.elapsed() < WATCHDOG {
                seen.poll(&mut **listener);
                std::thread::yield_now();
            }
            thread.join().unwrap_or_else(|_| panic!("connect panicked"))
        })
    }

    pub(super) fn pump(&mut self) {
        self.seen.poll(&mut *self.server.listener);
        for client in &mut self.clients {
            client.seen.poll(&mut *client.link);
        }
        std::thread::yield_now();
    }

    /// Polls both ends until something is so.
    pub(super) fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Pair) -> bool) {
        let start = Instant::now();
        loop {
            self.pump();
            if holds(self) {
                return;
            }
            assert!(start.elapsed() < WATCHDOG, "waited in vain until {what}");
        }
    }

    /// Polls both ends for a while in which nothing is expected.
    pub(super) fn settle(&mut self) {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(30) {
            self.pump();
        }
    }

    /// The next request at the server.
    pub(super) fn next_request(&mut self) -> Arrived {
        self.until("a request arrived", |pair| !pair.seen.arrived.is_empty());
        self.seen.arrived.pop_front().expect("just seen")
    }

    /// The next reply at a client.
    pub(super) fn next_reply(&mut self, client: usize) -> Arrived {
        self.until("a reply arrived", |pair| !pair.clients[client].seen.arrived.is_empty());
        self.clients[client].seen.arrived.pop_front().expect("just seen")
    }

    /// Answers a request.
    pub(super) fn reply(&mut self, to: Arrived, payload: &[u8]) {
        let rejected = self.try_reply(to, payload);
        rejected.unwrap_or_else(|error| panic!("submit a reply: {}", error.why));
    }

    pub(super) fn try_reply(&mut self, to: Arrived, payload: &[u8]) -> Result<(), Rejected> {
        self.reply_with(to, payload, Tail::NONE)
    }

    pub(super) fn reply_with(
        &mut self,
        to: Arrived,
        payload: &[u8],
        tail: Tail,
    ) -> Result<(), Rejected> {
        put(to.slot.reply(), payload);
        let (times, reply_ns_previous) = (StageTimes::NONE, None);
        let body = Body::Reply(Reply { status: Status::Ok, times, reply_ns_previous });
        let frame = Frame { payload_bytes: payload.len() as u64, body, ..to.frame };
        self.server.listener.submit(Transfer { tail, ..Transfer::new(to.peer, frame, to.slot) })
    }

    /// One request and its reply, of these payloads.
    pub(super) fn round_trip(&mut self, client: usize, number: u64, ask: &[u8], answer: &[u8]) {
        self.clients[client].send(number, ask);
        let request = self.next_request();
        assert_eq!(request.frame.request, number);
        assert_eq!(get(request.slot.request(), request.len()), ask, "the request's payload");
        self.reply(request, answer);
        let reply = self.next_reply(client);
        assert_eq!(reply.frame.request, number);
        assert_eq!(get(reply.slot.reply(), reply.len()), answer, "the reply's payload");
    }
}
