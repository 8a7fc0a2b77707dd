//! Who uses a model that is in memory: it stays there for as long.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ferry_core::nanos;

use super::Served;
use super::residency::Hold;

/// What a model is used for now, and when it was last.
#[derive(Debug)]
pub(super) struct Uses {
    calls: AtomicU64,
    sessions: AtomicU64,
    began: Instant,
    /// Since it began.
    last_ns: AtomicU64,
    /// Until when it is not asked to make room once more.
    spared_until: Mutex<Option<Instant>>,
}

impl Default for Uses {
    fn default() -> Uses {
        Uses {
            calls: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            began: Instant::now(),
            last_ns: AtomicU64::new(0),
            spared_until: Mutex::default(),
        }
    }
}

impl Uses {
    fn of(&self, user: User) -> &AtomicU64 {
        match user {
            User::Call => &self.calls,
            User::Session => &self.sessions,
        }
    }

    fn note(&self) {
        self.last_ns.fetch_max(nanos(self.began.elapsed()), Ordering::Relaxed);
    }

    /// When it was used last; when it was loaded, if it never was.
    pub(super) fn last(&self) -> Instant {
        self.began + Duration::from_nanos(self.last_ns.load(Ordering::Relaxed))
    }

    /// It did not make room in time: nobody waits for it again that soon.
    pub(super) fn spare(&self, until: Instant) {
        *self.spared_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    /// What keeps it in memory. What its pool has in flight for callers that went away counts.
    pub(super) fn hold(&self, served: &Served) -> Hold {
        let spared = *self.spared_until.lock().unwrap_or_else(PoisonError::into_inner);
        let is_spared = spared.is_some_and(|until| Instant::now() < until);
        if self.sessions.load(Ordering::Acquire) > 0 {
            return Hold::Protected;
        }
        let stats = served.pool.stats();
        match self.calls.load(Ordering::Acquire) == 0 && stats.queued + stats.in_flight == 0 {
            true => Hold::Idle,
            false if is_spared => Hold::Protected,
            false => Hold::Busy,
        }
    }
}

/// Who uses a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    /// Requests without a session: they end by themselves.
    Call,
    /// A session, for as long as it is open.
    Session,
}

/// A model that somebody uses. It is not unloaded to make room while this lives.
#[derive(Debug)]
pub struct Used {
    served: Arc<Served>,
    user: User,
}

impl Used {
    /// For a request. Only where the model cannot go meanwhile: while what lists it is locked, or
    /// while no other model can be loaded.
    pub(super) fn by_call(served: &Arc<Served>) -> Used {
        Used::by(Arc::clone(served), User::Call)
    }

    fn by(served: Arc<Served>, user: User) -> Used {
        served.uses.of(user).fetch_add(1, Ordering::AcqRel);
        served.uses.note();
        Used { served, user }
    }

    /// The same model, for a session.
    pub fn by_session(&self) -> Used {
        Used::by(Arc::clone(&self.served), User::Session)
    }
}

impl Clone for Used {
    fn clone(&self) -> Used {
        Used::by(Arc::clone(&self.served), self.user)
    }
}

impl Deref for Used {
    type Target = Arc<Served>;

    fn deref(&self) -> &Arc<Served> {
        &self.served
    }
}

impl Drop for Used {
    fn drop(&mut self) {
        self.served.uses.note();
        self.served.uses.of(self.user).fetch_sub(1, Ordering::AcqRel);
    }
}
