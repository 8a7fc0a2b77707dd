//! Bounds how long one run of a model may take, where its engine can be interrupted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ferry_core::Status;

use crate::engine::Interrupt;
use crate::instance::Instance;

/// Longest run where nobody says otherwise: no model that answers a request takes as long on a busy
/// machine, and one that never ends gives its instance back within minutes.
pub const RUN_AT_MOST: Duration = Duration::from_secs(120);

/// Why a run was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// It took longer than this.
    Overdue(Duration),
    /// The pool ends and does not wait for it.
    Closing,
}

impl Cut {
    /// What its request is answered with.
    pub(crate) fn answer(self) -> (Status, String) {
        match self {
            Cut::Overdue(at_most) => {
                let text = format!(
                    "the run was ended after run_seconds_max = {}: send less in one request, or \
                     raise run_seconds_max in the model's TOML",
                    at_most.as_secs_f64()
                );
                (Status::EngineFailed, text)
            }
            Cut::Closing => {
                let text = "the run was ended, because the model is unloaded or the server ends: \
                            use another server, or try later";
                (Status::Draining, text.to_owned())
            }
        }
    }
}

/// The run that one instance is in.
#[derive(Debug)]
pub(crate) struct Runs {
    at_most: Duration,
    /// Whether the engine can be interrupted: read for every request, so that others pay nothing.
    is_watched: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    interrupt: Option<Arc<dyn Interrupt>>,
    /// When the run under way has to be over.
    due: Option<Instant>,
    /// Why it was interrupted.
    cut: Option<Cut>,
    /// No run is waited for any more.
    closing: bool,
}

impl State {
    /// Interrupts the run under way. The lock is held, so that it cannot be the next one.
    fn cut(&mut self, why: Cut) {
        if let Some(interrupt) = &self.interrupt
            && self.cut.is_none()
        {
            interrupt.interrupt();
            self.cut = Some(why);
        }
    }
}

impl Runs {
    pub(crate) fn new(at_most: Duration) -> Runs {
        Runs { at_most, is_watched: AtomicBool::new(false), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says how the engine is interrupted that runs from now on.
    pub(crate) fn watch(&self, interrupt: Option<Arc<dyn Interrupt>>) {
        self.is_watched.store(interrupt.is_some(), Ordering::Relaxed);
        self.state().interrupt = interrupt;
    }

    /// Whether its engine can be interrupted.
    pub(crate) fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    /// Runs `run`, and says why it was interrupted, if it was.
    pub(crate) fn watched<T>(&self, run: impl FnOnce() -> T) -> (T, Option<Cut>) {
        if !self.is_watched() {
            return (run(), None);
        }
        {
            let mut state = self.state();
            state.due = Instant::now().checked_add(self.at_most);
            if state.closing {
                state.cut(Cut::Closing);
            }
        }
        let result = run();
        let mut state = self.state();
        state.due = None;
        let cut = state.cut.take();
        if let (Some(_), Some(interrupt)) = (cut, &state.interrupt) {
            interrupt.resume();
        }
        (result, cut)
    }

    /// Interrupts a run that is overdue; when the one under way is due, if it is not.
    fn look(&self, now: Instant) -> Option<Instant> {
        let mut state = self.state();
        let due = state.due.filter(|_| state.cut.is_none())?;
        if due > now {
            return Some(due);
        }
        state.cut(Cut::Overdue(self.at_most));
        None
    }

    /// Interrupts the run under way, and all later ones.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closing = true;
        if state.due.is_some() {
            state.cut(Cut::Closing);
        }
    }
}

/// Tells the thread that looks after a pool's runs to end.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    ended: Mutex<bool>,
    told: Condvar,
}

impl Watch {
    /// Interrupts runs of these instances that take longer than `at_most`, until the pool ends.
    pub(crate) fn keep(&self, instances: &[Instance], at_most: Duration) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        while !*ended {
            let now = Instant::now();
            let due = instances.iter().filter_map(|instance| instance.runs.look(now)).min();
            // A run that begins after this look is due no earlier than after `at_most`.
            let wait = due.map_or(at_most, |due| due.duration_since(now).min(at_most));
            let woken = self.told.wait_timeout(ended, wait);
            ended = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(crate) fn end(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.told.notify_all();
    }
}
