//! The tokens that change hands between a lane and whatever serves a request.
//!
//! Links and engines never meet: a lane hands over an [`Arrival`] and gets back a [`Departure`].

use std::time::Instant;

use ferry_core::{Generation, Request, SessionId, StageTimes, Status};

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

    /// Ends the request with a text instead of outputs. The text is cut to the slot's reply half.
    pub fn fail(mut self, status: Status, text: &str, times: StageTimes) -> Departure {
        let mut end = text.len().min(self.slot.reply().bytes());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        // A device that refuses the copy leaves the status without its text.
        let copied = self.slot.reply_mut().copy_in(0, &text.as_bytes()[..end]);
        self.into_departure(status, if copied.is_ok() { end } else { 0 }, times)
    }

    fn into_departure(self, status: Status, payload_bytes: usize, times: StageTimes) -> Departure {
        Departure {
            peer: self.peer,
            session: self.session,
            generation: self.generation,
            request: self.request,
            status,
            payload_bytes,
            times,
            slot: self.slot,
            seen: self.seen,
            visible: self.visible,
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
    /// How it ended.
    pub status: Status,
    /// Length of the payload in the slot's reply half.
    pub payload_bytes: usize,
    /// The stages that were timed on the way; the lane adds `receive` and `server`.
    pub times: StageTimes,
    /// Holds the payload.
    pub slot: Slot,
    /// When the doorbell was seen.
    pub seen: Instant,
    /// When the header had been checked and the write was visible.
    pub visible: Instant,
}

/// Where a departure goes when it is not ready at once.
pub trait ReplyTo: Send + Sync + std::fmt::Debug {
    /// Takes the reply. Must not block. A receiver that is gone drops it, and the slot is free.
    fn depart(&self, departure: Departure);
}
