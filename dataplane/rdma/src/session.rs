//! A session at the server.

use std::time::Instant;

use ferry_core::{
    Body, Frame, FrameError, Generation, Head, SessionId, SlotIndex, Status, Tail, nanos,
};
use ferry_memory::Slot;
use ferry_transport::admitted::is_goodbye;
use ferry_transport::{Admitted, Event, LinkError, Refusal, Rejected, Transfer};

use crate::areas::{Area, read_immediate};
use crate::wire::Wire;

/// How far the client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stand {
    /// It has not proved the session yet.
    Expected,
    /// It has, and does not know yet that it is welcome: the answer may have no way back. It can
    /// still attach again, with another address.
    Greeted,
    /// It knows.
    Joined,
    /// It is gone, and the lease is spent.
    Gone,
}

/// A session with its wire.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) admitted: Admitted,
    pub(crate) wire: Wire,
    pub(crate) stand: Stand,
    /// Replies under way, by slot: the device still reads their memory.
    replies: Vec<Option<UnderWay>>,
    /// Requests that came before the completion of the last reply in their slot, which they
    /// prove to have arrived.
    early: Vec<Option<Request>>,
}

#[derive(Debug)]
struct UnderWay {
    request: u64,
    since: Instant,
    _slot: Slot,
}

/// A request that was found good.
#[derive(Debug)]
struct Request {
    frame: Frame,
    tail: Tail,
    seen: Instant,
}

/// What a write of the peer means.
#[expect(
    clippy::large_enum_variant,
    reason = "moved once per frame; a box would be an allocation per request"
)]
pub(crate) enum Heard {
    Event(Event),
    Hello,
    Goodbye(Status),
    Nothing,
    Refused(Refusal),
    /// The memory of the session is of no more use.
    Broken(LinkError),
}

impl Session {
    pub(crate) fn new(admitted: Admitted, wire: Wire) -> Session {
        let slots = admitted.admission.layout.slots as usize;
        let replies = std::iter::repeat_with(|| None).take(slots).collect();
        let early = std::iter::repeat_with(|| None).take(slots).collect();
        Session { admitted, wire, stand: Stand::Expected, replies, early }
    }

    pub(crate) fn id(&self) -> SessionId {
        self.admitted.admission.session
    }

    pub(crate) fn generation(&self) -> Generation {
        self.admitted.admission.generation
    }

    fn breach(&self, what: &'static str) -> Heard {
        Heard::Refused(Refusal::Breach { session: self.id(), what })
    }

    /// The peer has written `bytes` bytes and this immediate.
    pub(crate) fn hear(&mut self, immediate: u32, bytes: u32, seen: Instant) -> Heard {
        let (area, is_of_lease) = read_immediate(immediate, self.generation());
        let session = self.id();
        let Some(header) = self.wire.header(area) else {
            let Area::Slot(slot) = area else { return Heard::Nothing };
            return Heard::Refused(Refusal::Slot { session, slot: slot.0 });
        };
        let head = match Head::decode(&header) {
            Ok(head) => head,
            Err(error) => return Heard::Refused(error.into()),
        };
        let Head { frame, tail_bytes } = head;
        if u64::from(bytes) != self.wire.told_bytes(&head) {
            return self.breach("the length of a write is not that of its frame");
        }
        if !is_of_lease && frame.generation == self.generation() {
            return self.breach("an immediate names another generation than its frame");
        }
        match area {
            Area::Control => self.hear_control(&frame),
            Area::Slot(_) if self.stand == Stand::Expected => {
                self.breach("a request before the hello")
            }
            Area::Slot(slot) => match self.wire.tail(area, tail_bytes) {
                Ok(tail) => self.hear_request(slot, Request { frame, tail, seen }),
                Err(error) => Heard::Refused(FrameError::from(error).into()),
            },
        }
    }

    fn hear_control(&mut self, frame: &Frame) -> Heard {
        if self.stand == Stand::Joined {
            return match is_goodbye(frame, &self.admitted) {
                Some(status) => Heard::Goodbye(status),
                None => Heard::Refused(Refusal::Kind(self.id())),
            };
        }
        let (session, admission) = (self.id(), &self.admitted.admission);
        let Body::Hello { token } = &frame.body else {
            return Heard::Refused(Refusal::Kind(session));
        };
        if frame.session != session || !admission.token.matches(token) {
            return Heard::Refused(Refusal::Credentials(frame.session));
        }
        if frame.generation != admission.generation {
            let (named, now) = (frame.generation, admission.generation);
            return Heard::Refused(Refusal::Generation { session, named, now });
        }
        if frame.payload_bytes != 0 {
            let bytes = frame.payload_bytes;
            return Heard::Refused(Refusal::Length { session, bytes, bytes_max: 0 });
        }
        self.stand = Stand::Greeted;
        Heard::Hello
    }

    fn hear_request(&mut self, slot: SlotIndex, request: Request) -> Heard {
        let frame = &request.frame;
        if let Err(refusal) = self.admitted.check(frame) {
            return Heard::Refused(refusal);
        }
        if frame.slot != slot {
            return Heard::Refused(Refusal::Slot { session: self.id(), slot: frame.slot.0 });
        }
        if self.replies[slot.at()].is_none() {
            return self.accept(request);
        }
        match self.early[slot.at()].replace(request) {
            None => Heard::Nothing,
            Some(_) => Heard::Refused(Refusal::Slot { session: self.id(), slot: slot.0 }),
        }
    }

    fn accept(&self, request: Request) -> Heard {
        let Request { frame, tail, seen } = request;
        let slot = match self.admitted.accept(&frame) {
            Ok(slot) => slot,
            Err(refusal) => return Heard::Refused(refusal),
        };
        if self.wire.is_apart()
            && let Err(error) = slot.request().make_visible()
        {
            return Heard::Broken(LinkError::os("make a payload visible", error));
        }
        let (peer, visible) = (self.admitted.peer, Instant::now());
        Heard::Event(Event::Arrived { peer, frame, slot, tail, seen, visible })
    }

    /// The reply in a slot is complete: its slot is free, and a request that waited for that is
    /// let in.
    pub(crate) fn sent(&mut self, slot: u32) -> (Option<Event>, Heard) {
        let at = slot as usize;
        let sent = self.replies.get_mut(at).and_then(Option::take).map(|reply| Event::Sent {
            peer: self.admitted.peer,
            request: reply.request,
            elapsed_ns: nanos(reply.since.elapsed()),
        });
        let waited = self.early.get_mut(at).and_then(Option::take);
        let heard = waited.map_or(Heard::Nothing, |request| self.accept(request));
        (sent, heard)
    }

    /// Sends a reply.
    pub(crate) fn reply(&mut self, transfer: Transfer) -> Result<(), Rejected> {
        let reject = |transfer: Transfer, why| Rejected { transfer: Box::new(transfer), why };
        if self.stand != Stand::Joined || self.wire.is_closing() {
            let why = LinkError::NoPeer(transfer.peer);
            return Err(reject(transfer, why));
        }
        let Transfer { frame, slot, tail, .. } = &transfer;
        let payload = usize::try_from(frame.payload_bytes).unwrap_or(usize::MAX);
        if !std::sync::Arc::ptr_eq(slot.table(), &self.admitted.table) {
            return Err(reject(transfer, LinkError::os("send", "the slot is of another session")));
        }
        if payload > slot.reply().bytes() {
            return Err(reject(transfer, LinkError::os("send", "the payload is not in the slot")));
        }
        let (area, since) = (Area::Slot(slot.index()), Instant::now());
        if let Err(why) = self.wire.send(frame, tail, payload, area) {
            return Err(reject(transfer, why));
        }
        let (request, at) = (frame.request, slot.index().at());
        self.replies[at] = Some(UnderWay { request, since, _slot: transfer.slot });
        Ok(())
    }

    /// A frame that belongs to no request.
    pub(crate) fn control(&self, body: Body) -> Frame {
        let (session, generation) = (self.id(), self.generation());
        Frame { session, generation, slot: SlotIndex(0), request: 0, payload_bytes: 0, body }
    }

    /// The lease is over: no slot is given out, and the peer's key is taken back. What is still
    /// under way keeps its slots until the wire is closed.
    pub(crate) fn end(&mut self, bye: Option<Status>) {
        self.admitted.table.retire();
        let bye = bye.map(|status| self.control(Body::Bye { status }));
        let is_known = matches!(self.stand, Stand::Joined | Stand::Greeted);
        let told = is_known.then_some(bye).flatten();
        self.stand = Stand::Gone;
        self.wire.close(told.as_ref());
    }

    /// As [`end`](Session::end) for a queue pair that has failed.
    pub(crate) fn fail(&mut self) {
        self.admitted.table.retire();
        self.stand = Stand::Gone;
        self.wire.abandon();
    }

    /// The client knows that it is welcome, if it did not before.
    pub(crate) fn join(&mut self) -> Option<Event> {
        if self.stand != Stand::Greeted {
            return None;
        }
        self.stand = Stand::Joined;
        Some(Event::Joined { peer: self.admitted.peer, session: self.id() })
    }

    pub(crate) fn gone(&self, why: LinkError) -> Event {
        let (peer, session) = (self.admitted.peer, Some(self.id()));
        Event::Gone { peer, session, why, slots: Vec::new() }
    }
}
