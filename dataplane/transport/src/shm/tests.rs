//! What a hostile process at the other end achieves: nothing but its own end.

mod apart;
mod client_side;
mod forged;
mod strangers;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ferry_core::{
    Body, Endpoint, Frame, FrameError, Generation, Head, LinkKind, Reply, Request, RequestKind,
    SessionId, SlotIndex, SlotLayout, StageTimes, Status, Token, WaitPolicy,
};
use ferry_memory::ring::{Producer, SharedRing};
use ferry_memory::{Bell, PeerId, Region, SharedBacking, Slot};

use super::layout::{Headers, SessionLayout, SessionMemory, Slots, Way};
use super::wire::{self, Welcome};
use super::*;
use crate::admitted::{Admission, Refusal, no_hello};
use crate::link::{Event, Events, Link, LinkError, Listener, Transfer};

const LAYOUT: SlotLayout = SlotLayout { slots: 4, request_bytes: 5000, reply_bytes: 100 };
const WATCHDOG: Duration = Duration::from_secs(30);

fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("ferry-unit-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn admission(session: u64) -> Admission {
    Admission {
        session: SessionId(session),
        generation: Generation(3),
        token: Token::new([9; Token::BYTES]),
        layout: LAYOUT,
        wait: WaitPolicy::Adaptive,
        placer: None,
    }
}

fn request(slot: u32, number: u64) -> Frame {
    let what = Request::of(RequestKind::Tensor);
    Frame {
        session: SessionId(1),
        generation: Generation(3),
        slot: SlotIndex(slot),
        request: number,
        payload_bytes: 5,
        body: Body::Request(what),
    }
}

/// A listener that is polled by hand.
struct Server {
    listener: ShmListener,
    events: Events,
}

impl Server {
    fn new() -> Server {
        let listener = ShmListener::bind(&unique_name()).unwrap();
        Server { listener, events: Vec::new() }
    }

    fn with_session() -> Server {
        let mut server = Server::new();
        server.listener.admit(admission(1)).unwrap();
        server
    }

    /// Polls, and now and then parks, until an event is as wanted; returns it.
    fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        let start = Instant::now();
        loop {
            if let Some(at) = self.events.iter().position(&wanted) {
                return self.events.remove(at);
            }
            assert!(start.elapsed() < WATCHDOG, "waited in vain; so far {:?}", self.events);
            self.listener.poll(&mut self.events);
            if self.events.is_empty() {
                self.listener.park(Duration::from_millis(5));
            }
        }
    }

    /// Polls often enough for everything that is there to be seen.
    fn settle(&mut self) {
        for _ in 0..10 {
            self.listener.park(Duration::from_millis(1));
            self.listener.poll(&mut self.events);
        }
    }

    fn refused(&mut self) -> Refusal {
        match self.until(|event| matches!(event, Event::Refused(_))) {
            Event::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }

    fn gone(&mut self) -> (Option<SessionId>, LinkError) {
        match self.until(|event| matches!(event, Event::Gone { .. })) {
            Event::Gone { session, why, .. } => (session, why),
            other => panic!("{other:?}"),
        }
    }

    fn arrived(&mut self) -> (PeerId, Frame, Slot) {
        match self.until(|event| matches!(event, Event::Arrived { .. })) {
            Event::Arrived { peer, frame, slot, .. } => (peer, frame, slot),
            other => panic!("{other:?}"),
        }
    }

    fn reply(&mut self, (peer, frame, slot): (PeerId, Frame, Slot)) -> Result<(), LinkError> {
        let times = StageTimes::NONE;
        let body = Body::Reply(Reply { status: Status::Ok, times, reply_ns_previous: None });
        let transfer = Transfer::new(peer, Frame { body, ..frame }, slot);
        self.listener.submit(transfer).map_err(|rejected| rejected.why)
    }

    fn connect(&self) -> OwnedFd {
        let name = self.listener.endpoint().address;
        let socket = wire::socket().unwrap();
        rustix::net::connect(&socket, &wire::address(&name).unwrap()).unwrap();
        wire::set_patience(&socket, WATCHDOG).unwrap();
        socket
    }
}

fn hello(admission: &Admission) -> Frame {
    let body = Body::Hello { token: admission.token };
    wire::bare(admission.session, admission.generation, body)
}

/// A client that has proved its session and does what it likes.
struct Hostile {
    socket: OwnedFd,
    bell: Bell,
    headers: Headers,
    requests: Producer<SharedRing>,
}

impl Hostile {
    fn join(server: &mut Server) -> Hostile {
        let socket = server.connect();
        wire::send(socket.as_fd(), &hello(&admission(1))).unwrap();
        server.until(|event| matches!(event, Event::Joined { .. }));
        let Ok(Welcome::Accepted(_, [memfd, bell])) = wire::receive_welcome(&socket) else {
            panic!("no welcome")
        };
        let layout = SessionLayout::new(LAYOUT).unwrap();
        let backing = SharedBacking::import(memfd, layout.bytes(), LAYOUT).unwrap();
        let memory = SessionMemory::new(Region::whole(backing), &layout, Slots::InMemfd(None));
        let signals = memory.unwrap().signals;
        let (headers, requests) = (signals.headers, Producer::new(signals.requests));
        Hostile { socket, bell: Bell::from(bell), headers, requests }
    }

    fn send(&mut self, entry: u64, cell: u32, header: &[u8; 128]) {
        self.send_with(entry, cell, header, &[]);
    }

    fn send_with(&mut self, entry: u64, cell: u32, header: &[u8; 128], tail: &[u8]) {
        self.headers.write(SlotIndex(cell), Way::Request, [header, tail]).unwrap();
        self.requests.push(entry).unwrap();
        if self.requests.must_wake() {
            self.bell.ring();
        }
    }

    /// What the server said before it hung up.
    fn last_word(&self) -> Option<Status> {
        match wire::receive(self.socket.as_fd()) {
            wire::Received::Message(Ok(Frame { body: Body::Bye { status }, .. })) => Some(status),
            _ => None,
        }
    }
}
