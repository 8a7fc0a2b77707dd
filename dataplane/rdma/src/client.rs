//! The client's end.

mod link;
mod setup;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{Body, Frame, FrameError, Head, SlotIndex, Tail, nanos};
use ferry_memory::Slot;
use ferry_transport::connect::Own;
use ferry_transport::event::EventWaker;
use ferry_transport::link::{EVENTS_PER_POLL_MAX, SERVER};
use ferry_transport::{
    Capabilities, Event, Events, Link, LinkError, Refusal, Rejected, Transfer, Waker,
};

use crate::areas::{Area, read_immediate};
use crate::health::Health;
use crate::port::Port;
use crate::verbs::{Completion, CompletionQueue, Operation};
use crate::wait::{CAPABILITIES, sleep};
use crate::wire::{Task, Wire, read_task_id};

/// How long a client with requests in flight hears nothing before it asks the server's device
/// whether it is there. A write that is not acknowledged fails by itself; a host that dies between
/// its acknowledgement and its reply would otherwise be waited for until the request's timeout.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// How long the end of a client waits for its goodbye to be sent and its queue pair to be flushed.
const DROP_WITHIN: Duration = Duration::from_secs(1);

/// The client's end of the `rdma` link: one queue pair for one session.
#[derive(Debug)]
pub struct RdmaClient {
    // Dropped first: its queue pair belongs to what follows.
    wire: Wire,
    queue: Arc<CompletionQueue>,
    port: Port,
    own: Own,
    slots: Arc<ferry_memory::SlotTable>,
    /// Requests whose completion is still to come, by slot.
    posted: Vec<Option<Posted>>,
    /// Replies that came before the completion of their request's write.
    early: Vec<Option<Reply>>,
    /// The server's answer to the hello.
    welcome: Option<Result<Frame, FrameError>>,
    is_joined: bool,
    /// Requests without a reply.
    in_flight: usize,
    /// When the device had something last.
    heard: Instant,
    /// The server's device was asked whether it is there.
    is_touching: bool,
    health: Health,
    gone: bool,
    scratch: Vec<Completion>,
    pending: VecDeque<Event>,
    waker: Arc<EventWaker>,
}

/// A reply that was found good but for its request.
#[derive(Debug)]
struct Reply {
    frame: Frame,
    tail: Tail,
    seen: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Posted {
    request: u64,
    since: Instant,
}

impl RdmaClient {
    fn drain(&mut self) {
        while !self.gone && self.pending.len() < EVENTS_PER_POLL_MAX {
            let mut scratch = std::mem::take(&mut self.scratch);
            let polled = self.queue.poll(&mut scratch);
            let seen = Instant::now();
            for completion in scratch.drain(..) {
                self.complete(&completion, seen);
            }
            self.scratch = scratch;
            match polled {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => return self.end(error.into()),
            }
        }
    }

    fn complete(&mut self, completion: &Completion, seen: Instant) {
        let (serial, task) = read_task_id(completion.id);
        if serial != self.wire.serial() || self.gone {
            return;
        }
        self.heard = seen;
        if let Err(why) = self.wire.complete(task, completion) {
            let why = self.health.explain(why, self.port.device());
            self.wire.abandon();
            return self.end(why);
        }
        match (task, completion.operation) {
            (Task::Receive, Operation::WrittenWithImmediate(immediate)) => {
                self.hear(immediate, completion.bytes, seen);
            }
            (Task::Receive, _) => self.breach("a message that is not a write with an immediate"),
            (Task::Slot(slot), _) => self.sent(slot),
            (Task::Touch, _) => self.is_touching = false,
            (Task::Payload(_) | Task::Control | Task::Window, _) => {}
        }
    }

    /// The server has written `bytes` bytes and this immediate.
    fn hear(&mut self, immediate: u32, bytes: u32, seen: Instant) {
        let (area, is_of_lease) = read_immediate(immediate, self.own.generation);
        let Some(header) = self.wire.header(area).filter(|_| is_of_lease) else {
            return self.breach("an immediate that names no slot of this lease");
        };
        let head = Head::decode(&header);
        if !self.is_joined {
            if area == Area::Control {
                // Neither of the two answers to a hello has a tail.
                self.welcome = Some(head.map(|head| head.frame));
            }
            return;
        }
        let head = match head {
            Ok(head) => head,
            Err(error) => return self.refuse(error.into()),
        };
        let Head { frame, tail_bytes } = head;
        if u64::from(bytes) != self.wire.told_bytes(&head) {
            return self.breach("the length of a write is not that of its frame");
        }
        match area {
            Area::Control => match frame.body {
                Body::Bye { status } if self.own.is_of_lease(&frame) => {
                    self.end(LinkError::Bye(status));
                }
                _ => self.breach("a control frame that is no goodbye"),
            },
            Area::Slot(slot) => match self.wire.tail(area, tail_bytes) {
                Ok(tail) => self.hear_reply(slot, Reply { frame, tail, seen }),
                Err(error) => self.refuse(FrameError::from(error).into()),
            },
        }
    }

    fn hear_reply(&mut self, slot: SlotIndex, reply: Reply) {
        if reply.frame.slot != slot {
            return self.breach("an immediate names another slot than its frame");
        }
        if self.posted.get(slot.at()).is_some_and(Option::is_some) {
            // The device has still to say that it is done with the request's memory.
            self.early[slot.at()] = Some(reply);
            return;
        }
        self.arrive(reply);
    }

    fn arrive(&mut self, reply: Reply) {
        let Reply { frame, tail, seen } = reply;
        match self.own.accept(&frame) {
            Ok(slot) => {
                let (peer, visible) = (SERVER, Instant::now());
                self.in_flight = self.in_flight.saturating_sub(1);
                self.pending.push_back(Event::Arrived { peer, frame, slot, tail, seen, visible });
            }
            Err(refusal) => self.refuse(refusal),
        }
    }

    /// The write of a request is complete.
    fn sent(&mut self, slot: u32) {
        let at = slot as usize;
        if let Some(posted) = self.posted.get_mut(at).and_then(Option::take) {
            let elapsed_ns = nanos(posted.since.elapsed());
            let request = posted.request;
            self.pending.push_back(Event::Sent { peer: SERVER, request, elapsed_ns });
        }
        if let Some(reply) = self.early.get_mut(at).and_then(Option::take) {
            self.arrive(reply);
        }
    }

    fn breach(&mut self, what: &'static str) {
        self.refuse(Refusal::Breach { session: self.own.session, what });
    }

    fn refuse(&mut self, refusal: Refusal) {
        let why = LinkError::Protocol(refusal.to_string());
        self.pending.push_back(Event::Refused(refusal));
        self.end(why);
    }

    /// The connection is of no more use: gives back every slot in flight.
    fn end(&mut self, why: LinkError) {
        if self.gone {
            return;
        }
        self.gone = true;
        self.wire.close(None);
        if !self.is_joined {
            // Another way may be tried.
            return;
        }
        let slots: Vec<Slot> = self.own.abandon().collect();
        let session = Some(self.own.session);
        self.pending.push_back(Event::Gone { peer: SERVER, session, why, slots });
    }

    fn check_health(&mut self) {
        if let Some(why) = self.health.check(self.port.device(), self.port.number) {
            self.wire.abandon();
            self.end(why);
        }
    }

    fn post(&mut self, transfer: Transfer) -> Result<(), Rejected> {
        let reject = |transfer: Transfer, why| Rejected { transfer: Box::new(transfer), why };
        if self.gone {
            return Err(reject(transfer, LinkError::Closed));
        }
        if transfer.peer != SERVER {
            let why = LinkError::NoPeer(transfer.peer);
            return Err(reject(transfer, why));
        }
        let Transfer { frame, slot, tail, .. } = &transfer;
        if !Arc::ptr_eq(slot.table(), &self.slots) {
            return Err(reject(transfer, LinkError::os("send", "the slot is of another session")));
        }
        let payload = usize::try_from(frame.payload_bytes).unwrap_or(usize::MAX);
        if payload > slot.request().bytes() {
            return Err(reject(transfer, LinkError::os("send", "the payload is not in the slot")));
        }
        let (from, since) = (slot.index(), Instant::now());
        let sent = self.wire.send(frame, tail, payload, Area::Slot(from));
        if let Err(why) = sent {
            return Err(reject(transfer, why));
        }
        let request = transfer.frame.request;
        self.posted[from.at()] = Some(Posted { request, since });
        self.own.keep(request, transfer.slot);
        if self.in_flight == 0 {
            self.heard = since;
        }
        self.in_flight += 1;
        Ok(())
    }

    /// Asks whether the server is there, after a silence.
    fn break_silence(&mut self) {
        let is_waiting = self.in_flight > 0 && !self.is_touching && !self.gone;
        if is_waiting && self.heard.elapsed() >= SILENCE_MAX {
            match self.wire.touch() {
                Ok(()) => self.is_touching = true,
                Err(why) => self.end(why),
            }
        }
    }
}
