//! How the store is doing, readable at any time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Whether the store can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// The last write succeeded.
    Good,
    /// The last write failed; it is repeated until it succeeds.
    Failing,
    /// The writer has ended: whatever is recorded now is lost.
    Stopped,
}

/// How the store is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreHealth {
    /// Whether it can be written.
    pub state: StoreState,
    /// Request rows stored.
    pub rows_written: u64,
    /// Request rows lost, for whatever reason.
    pub rows_lost: u64,
    /// Events (sessions, refusals, samples, models) lost.
    pub events_lost: u64,
    /// Request rows that wait to be stored.
    pub queue_len: usize,
    /// What went wrong last; `None` once the store is well again.
    pub last_error: Option<String>,
}

/// The live counters behind [`StoreHealth`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) rows_written: AtomicU64,
    pub(crate) rows_lost: AtomicU64,
    pub(crate) events_lost: AtomicU64,
    stopped: AtomicBool,
    failure: Mutex<Option<String>>,
}

impl Counters {
    /// Notes how the last write went; whether that is a change of state.
    pub(crate) fn note(&self, failure: Option<String>) -> bool {
        let mut last = self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let changed = last.is_some() != failure.is_some();
        *last = failure;
        changed
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    pub(crate) fn read(&self, queue_len: usize) -> StoreHealth {
        let last_error =
            self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let state = match (&last_error, self.stopped()) {
            (_, true) => StoreState::Stopped,
            (Some(_), false) => StoreState::Failing,
            (None, false) => StoreState::Good,
        };
        StoreHealth {
            state,
            rows_written: self.rows_written.load(Ordering::Relaxed),
            rows_lost: self.rows_lost.load(Ordering::Relaxed),
            events_lost: self.events_lost.load(Ordering::Relaxed),
            queue_len,
            last_error,
        }
    }
}
