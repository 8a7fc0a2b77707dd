//! What a pool has done and is doing.

use std::sync::atomic::Ordering;

use crate::instance::Counters;

/// Counts of one pool since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Requests that wait for an instance now.
    pub queued: usize,
    /// Requests in the engines now.
    pub in_flight: usize,
    /// Requests that the model answered. Pings are not counted: they never reach it.
    pub served: u64,
    /// Requests that were malformed, or failed on the way or in the engine.
    pub failed: u64,
    /// Requests that were well-formed and did not run: the queue was full, the pool draining, no
    /// instance left, or one of the next two.
    pub refused: u64,
    /// Of these, those that did not run because their deadlines had passed, or would have.
    pub late: u64,
    /// Of these, those that did not run because their callers had gone, or their sessions ended.
    pub cancelled: u64,
    /// Of each instance.
    pub instances: Vec<InstanceStats>,
}

/// Counts of one instance since the pool was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceStats {
    /// Whether its worker runs. It ends when the pool drains, or when the engine panicked and
    /// could not be rebuilt.
    pub alive: bool,
    /// Requests in its engine now.
    pub in_flight: usize,
    /// Requests that it answered.
    pub served: u64,
    /// Requests that failed in its hands.
    pub failed: u64,
    /// Stages of the requests that it ended, without their waiting, in nanoseconds. With several
    /// in flight at once, more than has passed.
    pub busy_ns: u64,
}

impl InstanceStats {
    pub(crate) fn of(counters: &Counters) -> InstanceStats {
        InstanceStats {
            alive: counters.alive.load(Ordering::Acquire),
            in_flight: counters.in_flight.load(Ordering::Relaxed),
            served: counters.served.load(Ordering::Relaxed),
            failed: counters.failed.load(Ordering::Relaxed),
            busy_ns: counters.busy_ns.load(Ordering::Relaxed),
        }
    }
}
