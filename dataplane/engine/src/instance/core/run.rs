//! What happens to a request that runs alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use ferry_core::{RequestKind, Status, error_text, panic_text};
use ferry_memory::Region;

use super::{Core, Member, Ran};
use crate::clock::{busy_ns, merge, ready_at};
use crate::engine::{EngineError, Finished, Job};
use crate::guard::{ArrivalGuard, Guarded};
use crate::instance::{Counters, Ready};
use crate::prepare::{Preparation, Unfit};

impl Core {
    /// Starts a request, or runs it; the reply, if it is ready. If not, the request is in flight,
    /// or a panic lost it and its guard answered it.
    pub(crate) fn start(&mut self, counters: &Counters, member: Member) -> Option<Ready> {
        let Member { mut guard, binding, memory, mut clock } = member;
        let prepared = if self.is_prepared_by_engine(&guard) {
            Ok(None)
        } else {
            self.prepare(|preparation| preparation.prepare(&guard, &binding, &mut clock))
        };
        guard.set_times(clock.times(), clock.border());
        let prepared: Option<Region> = match prepared {
            Ok(prepared) => prepared,
            Err(unfit) => return Some(self.refuse(counters, guard, &unfit)),
        };
        let job =
            Job { arrival: guard, binding, prepared, memory, placed: None, members: Vec::new() };
        let (finished, ran) = self.submit(counters, job)?;
        let ready = self.complete(counters, finished, ran);
        self.settle(counters);
        Some(ready)
    }

    /// Collects what is finished; says whether anything was.
    pub(crate) fn poll(&mut self, counters: &Counters, mut done: impl FnMut(Ready)) -> bool {
        let Some(engine) = &mut self.engine else { return false };
        let mut finished = std::mem::take(&mut self.finished);
        let polled = catch_unwind(AssertUnwindSafe(|| engine.poll(&mut finished)));
        let any = !finished.is_empty() || polled.is_err();
        for one in finished.drain(..) {
            self.finish(counters, one, Ran::Elsewhere, &mut done);
        }
        self.finished = finished;
        self.settle(counters);
        if let Err(panic) = polled {
            self.discard(counters, &panic_text(&*panic));
        }
        any
    }

    /// Hands a job to the engine; what came back, unless it is in flight or a panic lost it.
    pub(super) fn submit(&mut self, counters: &Counters, job: Job) -> Option<(Finished, Ran)> {
        let engine = self.engine.as_mut()?;
        self.in_flight += 1;
        let requests = self.in_flight + self.batches.more_in_flight();
        counters.in_flight.store(requests, Ordering::Relaxed);
        let submit = || catch_unwind(AssertUnwindSafe(|| engine.submit(job)));
        let (submitted, cut) = self.runs.watched(submit);
        match submitted {
            Ok(finished) => finished.map(|finished| (finished, Ran::Here(cut))),
            Err(panic) => {
                self.discard(counters, &panic_text(&*panic));
                None
            }
        }
    }

    /// After jobs have come back: drops an engine that is lost, and counts what is in flight.
    pub(super) fn settle(&mut self, counters: &Counters) {
        self.bury();
        let requests = self.in_flight + self.batches.more_in_flight();
        counters.in_flight.store(requests, Ordering::Relaxed);
    }

    pub(super) fn is_prepared_by_engine(&self, arrival: &ArrivalGuard) -> bool {
        self.raw_by_engine && matches!(arrival.what.kind, RequestKind::Raw { .. })
    }

    /// Runs what makes an input of a picture; a panic in it fails the picture's request alone.
    pub(super) fn prepare<T>(
        &mut self,
        make: impl FnOnce(&mut Preparation) -> Result<T, Unfit>,
    ) -> Result<T, Unfit> {
        let preparation = &mut self.preparation;
        let prepared = catch_unwind(AssertUnwindSafe(|| make(preparation)));
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

    /// Answers a request that never reached the model.
    pub(super) fn refuse(&self, counters: &Counters, guard: ArrivalGuard, unfit: &Unfit) -> Ready {
        let Guarded { arrival, reply_to, times, .. } = guard.into_parts();
        counters.failed.fetch_add(1, Ordering::Relaxed);
        counters.busy_ns.fetch_add(busy_ns(&times), Ordering::Relaxed);
        Ready { departure: arrival.fail(unfit.status, &unfit.text, times), reply_to }
    }

    pub(super) fn complete(&mut self, counters: &Counters, finished: Finished, ran: Ran) -> Ready {
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
                counters.ran(busy_ns(&times));
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
                counters.busy_ns.fetch_add(busy_ns(&times), Ordering::Relaxed);
                self.batches.explained();
                let (status, text) = self.failure(&error, ran);
                arrival.fail(status, &text, times)
            }
        };
        departure.outputs = placed.map(|placed| Box::new(placed.shapes));
        Ready { departure, reply_to }
    }

    /// What a run that failed is answered with. An engine that lost its device is given up.
    pub(super) fn failure(&mut self, error: &EngineError, ran: Ran) -> (Status, String) {
        if matches!(error, EngineError::Lost(_)) && !self.lost {
            tracing::error!(instance = %self.label, %error, "engine given up");
            self.lost = true;
        }
        match (error, ran) {
            (_, Ran::Here(Some(cut))) => {
                tracing::warn!(instance = %self.label, ?cut, %error, "run interrupted");
                cut.answer()
            }
            (EngineError::Input(_), _) => (Status::BadRequest, error_text(error)),
            (EngineError::ReplyTooLarge(_), _) => (Status::ReplyTooLarge, error_text(error)),
            _ => (Status::EngineFailed, error_text(error)),
        }
    }
}
