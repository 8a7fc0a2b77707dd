//! One instance of a model: who runs it now, and what it has done.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use ferry_memory::{Departure, ReplyTo};

use crate::engine::Engine;
use crate::options::PoolOptions;
use crate::prepare::Preparation;
use crate::runs::Runs;

mod core;

pub(crate) use core::{Core, Member};

/// One instance: held by the thread that runs it, counted by all.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) label: String,
    core: Mutex<Core>,
    /// Tells its worker to look at it: a lane left a job in flight, or the engine broke.
    pub(crate) attention: AtomicBool,
    pub(crate) counters: Counters,
    /// Most jobs that its engine has in flight.
    pub(crate) depth: usize,
    /// The run that its engine is in.
    pub(crate) runs: Arc<Runs>,
}

/// Plain counters, each written by whoever holds the core; readers want no order among them.
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) alive: AtomicBool,
    pub(crate) in_flight: AtomicUsize,
    pub(crate) served: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) busy_ns: AtomicU64,
    /// What a run takes, a batch as one: as little as the last one took, or what those before it did
    /// where it took longer. 0 until one succeeded.
    pub(crate) run_ns: AtomicU64,
}

impl Counters {
    /// A run that succeeded kept the instance busy for so long.
    pub(crate) fn ran(&self, busy_ns: u64) {
        self.busy_ns.fetch_add(busy_ns, Ordering::Relaxed);
        let before = self.run_ns.load(Ordering::Relaxed);
        // Falls at once and rises slowly: a request must not be refused for one run that was long.
        let rise = busy_ns.saturating_sub(before) / 8;
        let run_ns = if before == 0 { busy_ns } else { busy_ns.min(before.saturating_add(rise)) };
        // Only the holder of the core writes it.
        self.run_ns.store(run_ns, Ordering::Relaxed);
    }
}

/// A reply, and whom it is for if the caller is not.
pub(crate) struct Ready {
    pub(crate) departure: Departure,
    pub(crate) reply_to: Option<Arc<dyn ReplyTo>>,
}

impl Ready {
    pub(crate) fn send(self) {
        if let Some(reply_to) = self.reply_to {
            reply_to.depart(self.departure);
        }
    }
}

impl Instance {
    pub(crate) fn new(
        label: String,
        engine: Box<dyn Engine>,
        preparation: Preparation,
        options: &PoolOptions,
    ) -> Instance {
        let PoolOptions { picture, run_at_most, batch, .. } = options;
        let runs = Arc::new(Runs::new(*run_at_most));
        let depth = engine.depth().max(1);
        let core = Core::new(
            label.clone(),
            engine,
            preparation,
            *picture,
            batch.clone(),
            Arc::clone(&runs),
        );
        let counters = Counters {
            alive: AtomicBool::new(true),
            in_flight: AtomicUsize::new(0),
            served: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            busy_ns: AtomicU64::new(0),
            run_ns: AtomicU64::new(0),
        };
        let attention = AtomicBool::new(false);
        Instance { label, core: Mutex::new(core), attention, counters, depth, runs }
    }

    /// Waits for the thread that runs it.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Core> {
        // Engines are called inside `catch_unwind`; should anything else panic, the counts below
        // are at worst off by the request that did it, and its guard answered it.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The core, if nobody runs it and it has nothing in flight.
    pub(crate) fn try_free(&self) -> Option<MutexGuard<'_, Core>> {
        let core = match self.core.try_lock() {
            Ok(core) => core,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        core.is_free().then_some(core)
    }
}
