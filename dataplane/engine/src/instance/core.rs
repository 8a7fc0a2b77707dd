//! What the thread that runs an instance holds: its engine, and what is in its hands.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ferry_core::{Signature, error_text, panic_text};

use self::batches::Batches;
use super::Counters;
use crate::batch::{BatchOptions, Ways};
use crate::engine::{Engine, Finished};
use crate::options::{Picture, Rebuild};
use crate::prepare::Preparation;
use crate::queue::Room;
use crate::runs::{Cut, Runs};

mod batched;
mod batches;
mod member;
mod run;

pub(crate) use member::Member;

/// Most rebuilds in a row with no request served between them: a model that always panics, or one
/// that a client can make panic, must not be loaded for ever.
const REBUILDS_IN_A_ROW_MAX: u32 = 3;

/// Where an engine did its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ran {
    /// On the thread that called it, until it was done or interrupted.
    Here(Option<Cut>),
    /// On a device, whose clock timed it.
    Elsewhere,
}

/// See the module.
pub(crate) struct Core {
    label: String,
    /// `None` from a panic to the rebuild.
    engine: Option<Box<dyn Engine>>,
    depth: usize,
    /// Whether the engine makes its input of raw pictures by itself.
    raw_by_engine: bool,
    preparation: Preparation,
    picture: Option<Picture>,
    in_flight: usize,
    rebuilds: u32,
    /// Its worker is gone: nothing may be started that only the worker could finish.
    closed: bool,
    finished: Vec<Finished>,
    /// The engine's device is gone: it takes nothing more, and is dropped with its last job.
    lost: bool,
    runs: Arc<Runs>,
    batches: Batches,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("label", &self.label)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

impl Core {
    pub(super) fn new(
        label: String,
        mut engine: Box<dyn Engine>,
        mut preparation: Preparation,
        picture: Option<Picture>,
        batch: Option<BatchOptions>,
        runs: Arc<Runs>,
    ) -> Core {
        preparation.place_with(engine.placer());
        runs.watch(engine.interrupt());
        let mut batches = Batches::new(batch);
        batches.meet(&label, &mut *engine);
        Core {
            label,
            depth: engine.depth().max(1),
            raw_by_engine: picture.is_some_and(|picture| engine.prepares(&picture)),
            engine: Some(engine),
            preparation,
            picture,
            in_flight: 0,
            rebuilds: 0,
            closed: false,
            finished: Vec::new(),
            lost: false,
            runs,
            batches,
        }
    }

    /// Whether a lane may start a request on it.
    pub(super) fn is_free(&self) -> bool {
        self.engine.is_some() && !self.lost && self.in_flight == 0 && !self.closed
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn has_room(&self) -> bool {
        self.engine.is_some() && !self.lost && self.in_flight < self.depth
    }

    /// What of a batched model it has room for.
    pub(crate) fn room(&self) -> Room {
        if !self.has_room() {
            Room::Nothing
        } else if self.in_flight == 0 {
            Room::Idle
        } else if self.in_flight < self.batches.at_once() {
            Room::Busy
        } else {
            Room::Urgent
        }
    }

    /// What its engine wants of batches.
    pub(crate) fn ways(&self) -> Ways {
        Ways {
            raw_alone: self.raw_by_engine,
            gathers: self.engine.as_ref().is_some_and(|engine| engine.gathers()),
            only: self.batches.only().cloned(),
        }
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.engine.is_none()
    }

    /// Takes nothing from now on; what waits to run alone is answered.
    pub(crate) fn close(&mut self, counters: &Counters) {
        self.closed = true;
        let lost = u64::try_from(self.batches.alone.len()).unwrap_or(u64::MAX);
        counters.failed.fetch_add(lost, Ordering::Relaxed);
        self.batches.alone.clear();
    }

    /// Drops the engine; the guards of what it had in flight answer for it. What was in a batch that
    /// was put together here runs once more, alone.
    pub(crate) fn discard(&mut self, counters: &Counters, why: &str) {
        let jobs = std::mem::take(&mut self.in_flight);
        let lost = self.batches.lose(jobs);
        if lost > 0 {
            self.batches.explained();
        }
        self.lost = false;
        tracing::error!(instance = %self.label, jobs, why, "engine discarded");
        counters.failed.fetch_add(u64::try_from(lost).unwrap_or(u64::MAX), Ordering::Relaxed);
        counters.in_flight.store(0, Ordering::Relaxed);
        let engine = self.engine.take();
        if catch_unwind(AssertUnwindSafe(|| drop(engine))).is_err() {
            tracing::error!(instance = %self.label, "engine panicked while it was dropped");
        }
    }

    /// Drops an engine that lost its device, once nothing of it is in flight.
    fn bury(&mut self) {
        if !self.lost || self.in_flight > 0 {
            return;
        }
        self.lost = false;
        let engine = self.engine.take();
        if catch_unwind(AssertUnwindSafe(|| drop(engine))).is_err() {
            tracing::error!(instance = %self.label, "engine panicked while it was dropped");
        }
    }

    /// Makes a new engine in place of one that is gone; says whether there is one now.
    pub(crate) fn rebuild(&mut self, rebuild: Option<&Rebuild>, like: &Signature) -> bool {
        let Some(rebuild) = rebuild else { return false };
        if self.rebuilds >= REBUILDS_IN_A_ROW_MAX {
            tracing::error!(instance = %self.label, rebuilds = self.rebuilds, "given up");
            return false;
        }
        self.rebuilds += 1;
        let why = match catch_unwind(AssertUnwindSafe(|| rebuild.load())) {
            Ok(Ok(mut engine)) if engine.signature() == like => {
                self.depth = engine.depth().max(1);
                self.raw_by_engine = self.picture.is_some_and(|it| engine.prepares(&it));
                self.preparation.place_with(engine.placer());
                self.runs.watch(engine.interrupt());
                self.batches.meet(&self.label, &mut *engine);
                self.engine = Some(engine);
                tracing::warn!(instance = %self.label, "engine rebuilt");
                return true;
            }
            Ok(Ok(_)) => "its signature is another one: the model's file was changed".to_owned(),
            Ok(Err(error)) => error_text(&error),
            Err(panic) => panic_text(&*panic),
        };
        tracing::error!(instance = %self.label, why, "engine not rebuilt");
        false
    }
}
