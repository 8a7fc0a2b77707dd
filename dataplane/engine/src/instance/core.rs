//! What happens to a request in the hands of an instance.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ferry_core::{BoundSignature, RequestKind, Signature, Status, error_text, panic_text};
use ferry_memory::Region;

use super::{Counters, Ready};
use crate::clock::{StageClock, busy_ns, merge, ready_at};
use crate::engine::{Engine, EngineError, Finished, Job};
use crate::guard::{ArrivalGuard, Guarded};
use crate::options::{Picture, Rebuild};
use crate::prepare::{Preparation, Unfit};
use crate::queue::Work;
use crate::runs::{Cut, Runs};

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

/// What the thread that runs an instance holds.
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
        runs: Arc<Runs>,
    ) -> Core {
        preparation.place_with(engine.placer());
        runs.watch(engine.interrupt());
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

    pub(crate) fn is_broken(&self) -> bool {
        self.engine.is_none()
    }

    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    /// Starts a request, or runs it; the reply, if it is ready. If not, the request is in flight,
    /// or a panic lost it and its guard answered it.
    pub(crate) fn start(
        &mut self,
        counters: &Counters,
        work: Work,
        mut clock: StageClock,
    ) -> Option<Ready> {
        let Work { arrival, binding, memory, reply_to } = work;
        let mut guard = ArrivalGuard::new(arrival, reply_to, clock.times());
        let prepared = match self.prepare(&guard, &binding, &mut clock) {
            Ok(prepared) => prepared,
            Err(unfit) => {
                let Guarded { arrival, reply_to, .. } = guard.into_parts();
                counters.failed.fetch_add(1, Ordering::Relaxed);
                counters.busy_ns.fetch_add(busy_ns(&clock.times()), Ordering::Relaxed);
                let departure = arrival.fail(unfit.status, &unfit.text, clock.times());
                return Some(Ready { departure, reply_to });
            }
        };
        guard.set_times(clock.times(), clock.border());
        let engine = self.engine.as_mut()?;
        let job = Job { arrival: guard, binding, prepared, memory, placed: None };
        self.in_flight += 1;
        counters.in_flight.store(self.in_flight, Ordering::Relaxed);
        let submit = || catch_unwind(AssertUnwindSafe(|| engine.submit(job)));
        let (submitted, cut) = self.runs.watched(submit);
        let ready = match submitted {
            Ok(finished) => {
                let ran = Ran::Here(cut);
                let ready = finished.map(|finished| self.complete(counters, finished, ran));
                self.bury();
                ready
            }
            Err(panic) => {
                self.discard(counters, &panic_text(&*panic));
                None
            }
        };
        counters.in_flight.store(self.in_flight, Ordering::Relaxed);
        ready
    }

    /// Collects what is finished; says whether anything was.
    pub(crate) fn poll(&mut self, counters: &Counters, mut done: impl FnMut(Ready)) -> bool {
        let Some(engine) = &mut self.engine else { return false };
        let mut finished = std::mem::take(&mut self.finished);
        let polled = catch_unwind(AssertUnwindSafe(|| engine.poll(&mut finished)));
        let any = !finished.is_empty() || polled.is_err();
        for one in finished.drain(..) {
            done(self.complete(counters, one, Ran::Elsewhere));
        }
        self.finished = finished;
        self.bury();
        if let Err(panic) = polled {
            self.discard(counters, &panic_text(&*panic));
        }
        counters.in_flight.store(self.in_flight, Ordering::Relaxed);
        any
    }

    /// Drops the engine; the guards of what it had in flight answer for it.
    pub(crate) fn discard(&mut self, counters: &Counters, why: &str) {
        let lost = std::mem::take(&mut self.in_flight);
        self.lost = false;
        tracing::error!(instance = %self.label, lost, why, "engine discarded");
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

    fn prepare(
        &mut self,
        arrival: &ArrivalGuard,
        binding: &BoundSignature,
        clock: &mut StageClock,
    ) -> Result<Option<Region>, Unfit> {
        if self.raw_by_engine && matches!(arrival.what.kind, RequestKind::Raw { .. }) {
            return Ok(None);
        }
        let preparation = &mut self.preparation;
        let prepared =
            catch_unwind(AssertUnwindSafe(|| preparation.prepare(arrival, binding, clock)));
        prepared.unwrap_or_else(|panic| {
            tracing::error!(instance = %self.label, why = panic_text(&*panic), "preparation panicked");
            // Its buffers may be half-changed. What it was made of was valid at the start.
            if let Ok(mut fresh) = Preparation::new(self.picture) {
                fresh.place_with(self.preparation.placer());
                self.preparation = fresh;
            }
            let text = "preparing the picture panicked: see the server's log".to_owned();
            Err(Unfit { status: Status::EngineFailed, text })
        })
    }

    fn complete(&mut self, counters: &Counters, finished: Finished, ran: Ran) -> Ready {
        let Finished { job: Job { arrival, binding, prepared, placed, .. }, outcome } = finished;
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(region) = prepared {
            self.preparation.give_back(region);
        }
        let Guarded { arrival, reply_to, mut times, since } = arrival.into_parts();
        let mut departure = match outcome {
            Ok(of_engine) => {
                self.rebuilds = 0;
                merge(&mut times, &of_engine);
                counters.served.fetch_add(1, Ordering::Relaxed);
                let room = arrival.slot.reply().bytes();
                let bytes = placed.as_ref().map_or(binding.reply_bytes(), |placed| placed.bytes());
                let bytes = usize::try_from(bytes).unwrap_or(room);
                let mut departure = arrival.depart(bytes.min(room), times);
                if matches!(ran, Ran::Here(_)) {
                    // Its stages begin at `since` and leave no gap.
                    departure.ready = departure.ready.min(ready_at(since, &of_engine));
                }
                departure
            }
            Err(error) => {
                counters.failed.fetch_add(1, Ordering::Relaxed);
                if matches!(error, EngineError::Lost(_)) && !self.lost {
                    tracing::error!(instance = %self.label, %error, "engine given up");
                    self.lost = true;
                }
                let (status, text) = match (&error, ran) {
                    (_, Ran::Here(Some(cut))) => {
                        tracing::warn!(instance = %self.label, ?cut, %error, "run interrupted");
                        cut.answer()
                    }
                    (EngineError::ReplyTooLarge(_), _) => {
                        (Status::ReplyTooLarge, error_text(&error))
                    }
                    _ => (Status::EngineFailed, error_text(&error)),
                };
                arrival.fail(status, &text, times)
            }
        };
        departure.outputs = placed.map(|placed| Box::new(placed.shapes));
        counters.busy_ns.fetch_add(busy_ns(&departure.times), Ordering::Relaxed);
        Ready { departure, reply_to }
    }
}
