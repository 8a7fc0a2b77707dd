//! The tokens that change hands between a lane and whatever serves a request.
//!
//! Links and engines never meet: a lane hands over an [`Arrival`] and gets back a [`Departure`].

use std::time::Instant;

use ferry_core::{
    Generation, OutputShapes, Request, SessionId, Stage, StageTimes, Status, nanos, without_middle,
};

use crate::slots::Slot;

/// Names a peer on one link; never given to a second one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u64);

/// A request that landed: checked against its session, visible, and held by nobody else.
#[derive(Debug)]
pub struct Arrival {
    /// Who sent it, on the link that it came by.
    pub peer: PeerId,
    /// The session that it belongs to.
    pub session: SessionId,
    /// The lease under which it was sent.
    pub generation: Generation,
    /// Its number within the session.
    pub request: u64,
    /// What the payload is.
    pub what: Request,
    /// Length of the payload, at most the slot's request half.
    pub payload_bytes: usize,
    /// Where the payload is and the reply goes.
    pub slot: Slot,
    /// When the doorbell was seen.
    pub seen: Instant,
    /// When the header had been checked and the write was visible.
    pub visible: Instant,
}

impl Arrival {
    /// Ends the request: the slot's reply half holds `payload_bytes` bytes of outputs.
    pub fn depart(self, payload_bytes: usize, times: StageTimes) -> Departure {
        self.into_departure(Status::Ok, payload_bytes, times)
    }

    /// Ends the request with a text instead of outputs. What does not fit the slot's reply half is
    /// left out of the text's middle.
    pub fn fail(mut self, status: Status, text: &str, times: StageTimes) -> Departure {
        let text = without_middle(text, self.slot.reply().bytes());
        // A device that refuses the copy leaves the status without its text.
        let copied = self.slot.reply_mut().copy_in(0, text.as_bytes());
        let bytes = if copied.is_ok() { text.len() } else { 0 };
        self.into_departure(status, bytes, times)
    }

    fn into_departure(
        self,
        status: Status,
        payload_bytes: usize,
        mut times: StageTimes,
    ) -> Departure {
        let ready = Instant::now();
        if times == StageTimes::NONE {
            // Answered by the first thread that looked at it: until then it only waited.
            times.set(Stage::Queue, between_ns(self.visible, ready));
        }
        Departure {
            peer: self.peer,
            session: self.session,
            generation: self.generation,
            request: self.request,
            what: self.what,
            request_bytes: self.payload_bytes,
            status,
            payload_bytes,
            outputs: None,
            times,
            slot: self.slot,
            seen: self.seen,
            visible: self.visible,
            ready,
        }
    }
}

/// A reply that is ready to be sent.
#[derive(Debug)]
pub struct Departure {
    /// Whom it is for.
    pub peer: PeerId,
    /// The session that it belongs to.
    pub session: SessionId,
    /// The lease under which the request came.
    pub generation: Generation,
    /// The request's number within the session.
    pub request: u64,
    /// What the request's payload was.
    pub what: Request,
    /// Length of the request's payload.
    pub request_bytes: usize,
    /// How it ended.
    pub status: Status,
    /// Length of the payload in the slot's reply half.
    pub payload_bytes: usize,
    /// The shapes of the outputs; `None` where they are those that the session agreed.
    pub outputs: Option<Box<OutputShapes>>,
    /// The stages that were timed on the way; [`close`](Departure::close) adds the rest.
    pub times: StageTimes,
    /// Holds the payload.
    pub slot: Slot,
    /// When the doorbell was seen.
    pub seen: Instant,
    /// When the header had been checked and the write was visible.
    pub visible: Instant,
    /// When the reply was there.
    pub ready: Instant,
}

impl Departure {
    /// Ends the server's time, which is from the doorbell to the submit of the reply: to be called
    /// once, by whoever submits it, at that moment. `woken` is when that thread began to run, if it
    /// slept when the reply became ready.
    ///
    /// Nobody else adds `receive`, `outbox` or `server`, so that they mean the same for every link,
    /// and in rows of clients and of the server.
    pub fn close(&mut self, now: Instant, woken: Option<Instant>) {
        let taken = woken.map_or(self.ready, |woken| woken.clamp(self.ready, now.max(self.ready)));
        if woken.is_some() {
            self.times.add(Stage::Wake, between_ns(self.ready, taken));
        }
        self.times.set(Stage::Outbox, between_ns(taken, now));
        self.times.set(Stage::Receive, between_ns(self.seen, self.visible));
        self.times.set(Stage::Server, between_ns(self.seen, now));
    }
}

/// Nanoseconds from `from` to `to`; 0 if `to` is earlier.
pub fn between_ns(from: Instant, to: Instant) -> u64 {
    nanos(to.saturating_duration_since(from))
}

/// Where a departure goes when it is not ready at once.
pub trait ReplyTo: Send + Sync + std::fmt::Debug {
    /// Takes the reply. Must not block. A receiver that is gone drops it, and the slot is free.
    fn depart(&self, departure: Departure);

    /// Whether nobody will hear the reply any more, as far as is known: a request that still waits
    /// need not run then. It departs all the same.
    fn is_gone(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ferry_core::{RequestKind, SlotLayout};

    use super::*;
    use crate::slots::SlotTable;

    const MS: Duration = Duration::from_millis(1);

    fn arrival(seen: Instant) -> Arrival {
        let layout = SlotLayout { slots: 1, request_bytes: 10, reply_bytes: 10 };
        Arrival {
            peer: PeerId(1),
            session: SessionId(2),
            generation: Generation(3),
            request: 4,
            what: Request { priority: 7, ..Request::of(RequestKind::Tensor) },
            payload_bytes: 5,
            slot: SlotTable::private(layout).unwrap().acquire().unwrap(),
            seen,
            visible: seen + MS,
        }
    }

    /// A departure that was ready 3 ms after its doorbell; `queue` and `infer` were timed.
    fn departure(seen: Instant) -> Departure {
        let mut times = StageTimes::NONE;
        times.set(Stage::Queue, 500_000);
        times.set(Stage::Infer, 1_400_000);
        let mut departure = arrival(seen).depart(6, times);
        departure.ready = seen + 3 * MS;
        departure
    }

    #[test]
    fn what_a_record_needs_departs_with_the_reply() {
        let departure = departure(Instant::now());
        assert_eq!((departure.request, departure.what.priority), (4, 7));
        assert_eq!((departure.request_bytes, departure.payload_bytes), (5, 6));
    }

    #[test]
    fn the_parts_of_a_closed_departure_and_what_nobody_claims_are_the_server() {
        let seen = Instant::now();
        let mut awake = departure(seen);
        awake.close(seen + 10 * MS, None);
        let of = |departure: &Departure, stage| departure.times.of(stage);
        assert_eq!(of(&awake, Stage::Receive), Some(1_000_000));
        assert_eq!(of(&awake, Stage::Outbox), Some(7_000_000));
        assert_eq!(of(&awake, Stage::Wake), None);
        assert_eq!(of(&awake, Stage::Server), Some(10_000_000));
        assert_eq!(awake.times.unattributed(), Some(100_000));
        let mut slept = departure(seen);
        slept.close(seen + 10 * MS, Some(seen + 8 * MS));
        assert_eq!(of(&slept, Stage::Wake), Some(5_000_000));
        assert_eq!(of(&slept, Stage::Outbox), Some(2_000_000));
        assert_eq!(slept.times.unattributed(), Some(100_000));
        // A thread that ran before is not one that was woken for it, nor one that runs later.
        for woken in [seen, seen + 20 * MS] {
            let mut odd = departure(seen);
            odd.close(seen + 10 * MS, Some(woken));
            let both = of(&odd, Stage::Wake).unwrap() + of(&odd, Stage::Outbox).unwrap();
            assert_eq!(both, 7_000_000);
        }
    }

    #[test]
    fn what_is_answered_at_once_only_waited() {
        let seen = Instant::now() - 5 * MS;
        let mut refused = arrival(seen).fail(Status::Overloaded, "no", StageTimes::NONE);
        refused.close(refused.ready + MS, None);
        assert!(refused.times.of(Stage::Queue).is_some());
        assert_eq!(refused.times.unattributed(), Some(0));
    }
}
