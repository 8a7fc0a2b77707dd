//! An arrival that is answered even if its holder loses it.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use ferry_core::{StageTimes, Status};
use ferry_memory::{Arrival, Departure, ReplyTo};

/// An [`Arrival`] on its way through an engine.
///
/// A panic unwinds through the engine and drops the jobs that it holds, and an engine that is
/// discarded drops those in flight. Each must be answered all the same, or its client would wait
/// for ever: a guard that is dropped and not taken apart departs with [`Status::EngineFailed`].
pub struct ArrivalGuard {
    /// `None` only while the guard is being taken apart.
    arrival: Option<Arrival>,
    reply_to: Option<Arc<dyn ReplyTo>>,
    times: StageTimes,
    since: Instant,
}

impl ArrivalGuard {
    /// Guards `arrival`: should it be lost, `reply_to` gets the answer, with `times`.
    pub fn new(arrival: Arrival, reply_to: Arc<dyn ReplyTo>, times: StageTimes) -> ArrivalGuard {
        let since = arrival.visible;
        ArrivalGuard { arrival: Some(arrival), reply_to: Some(reply_to), times, since }
    }

    /// Ends the request as [`Arrival::depart`] does.
    pub fn depart(self, payload_bytes: usize, times: StageTimes) -> Departure {
        self.into_parts().arrival.depart(payload_bytes, times)
    }

    /// Ends the request as [`Arrival::fail`] does.
    pub fn fail(self, status: Status, text: &str, times: StageTimes) -> Departure {
        self.into_parts().arrival.fail(status, text, times)
    }

    /// The arrival, which nobody answers for any more. For engines run by hand.
    pub fn into_arrival(self) -> Arrival {
        self.into_parts().arrival
    }

    /// When the last stage before the engine's ended: an engine that computes on the calling thread
    /// begins its first stage here, and leaves no gap between its stages. Nobody's time is left
    /// over then.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Notes the stages that are over, and when the last one ended.
    pub(crate) fn set_times(&mut self, times: StageTimes, since: Instant) {
        (self.times, self.since) = (times, since);
    }

    pub(crate) fn into_parts(mut self) -> Guarded {
        Guarded {
            arrival: self.arrival.take().expect(TAKEN),
            reply_to: self.reply_to.take(),
            times: self.times,
            since: self.since,
        }
    }
}

/// What a guard held.
pub(crate) struct Guarded {
    pub(crate) arrival: Arrival,
    pub(crate) reply_to: Option<Arc<dyn ReplyTo>>,
    pub(crate) times: StageTimes,
    pub(crate) since: Instant,
}

/// Why the `Option` of a guard that somebody can reach is never `None`.
const TAKEN: &str = "only `into_parts` and `drop` take the arrival, and both end the guard";

impl From<Arrival> for ArrivalGuard {
    /// An arrival that nobody waits for: lost, it is only dropped. For engines run by hand.
    fn from(arrival: Arrival) -> ArrivalGuard {
        let (since, times) = (arrival.visible, StageTimes::NONE);
        ArrivalGuard { arrival: Some(arrival), reply_to: None, times, since }
    }
}

impl Deref for ArrivalGuard {
    type Target = Arrival;

    fn deref(&self) -> &Arrival {
        self.arrival.as_ref().expect(TAKEN)
    }
}

impl Drop for ArrivalGuard {
    fn drop(&mut self) {
        let (Some(arrival), Some(reply_to)) = (self.arrival.take(), self.reply_to.take()) else {
            return;
        };
        let text = "the engine lost the request, most likely in a panic: see the server's log";
        reply_to.depart(arrival.fail(Status::EngineFailed, text, self.times));
    }
}

impl fmt::Debug for ArrivalGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArrivalGuard")
            .field("arrival", &self.arrival)
            .field("times", &self.times)
            .finish_non_exhaustive()
    }
}
