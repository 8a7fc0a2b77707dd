//! What happens to requests that run as one.
//!
//! Their inputs are gathered in a slot of the pool's own, which goes to the engine as any other
//! request does, and the outputs are scattered to the slots that the requests came in. If the run
//! fails, each request runs once more, alone, so that only the one that made it fail is answered
//! with an error.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use ferry_core::{
    BoundSignature, Generation, MemoryChoice, Request, RequestKind, SessionId, Stage, StageTimes,
    Status, error_text,
};
use ferry_memory::{Arrival, MemoryError, PeerId, Slot, SlotTable};

use super::{Core, Cut, Member, Ran};
use crate::batch::{Bindings, Slots, copy, rows_of};
use crate::clock::{busy_ns, ready_at};
use crate::engine::{EngineError, Finished, Job};
use crate::guard::{ArrivalGuard, Guarded};
use crate::instance::{Counters, Ready};
use crate::prepare::Unfit;

/// Batches in a row that failed while no request failed alone, after which none is made any more:
/// it is the batch that the model does not take, and each costs a run.
const UNEXPLAINED_MAX: u32 = 3;

/// The batches of one instance.
#[derive(Debug, Default)]
pub(super) struct Batches {
    bindings: Bindings,
    slots: Slots,
    /// At most as many as the engine has jobs in flight.
    in_flight: Vec<Batch>,
    /// Requests of batches that failed, to be run alone: at most those of one batch for each job of
    /// the engine.
    pub(super) alone: VecDeque<Member>,
    unexplained: u32,
}

/// Requests that the engine has as one job.
#[derive(Debug)]
pub(super) struct Batch {
    /// Tells the job.
    table: Arc<SlotTable>,
    members: Vec<Member>,
    rows: u64,
    /// When the inputs were in place.
    gathered: Instant,
}

impl Batches {
    /// The batch that `job` is, if it is one.
    pub(super) fn take(&mut self, job: &Job) -> Option<Batch> {
        let is_it = |batch: &Batch| Arc::ptr_eq(&batch.table, job.arrival.slot.table());
        let at = self.in_flight.iter().position(is_it)?;
        Some(self.in_flight.swap_remove(at))
    }

    /// Requests in flight beyond one for each job.
    pub(super) fn more_in_flight(&self) -> usize {
        self.in_flight.iter().map(|batch| batch.members.len().saturating_sub(1)).sum()
    }

    /// A request failed alone: it may be what made its batch fail.
    pub(super) fn explained(&mut self) {
        self.unexplained = 0;
    }

    /// The engine is gone with all its jobs; how many of them were batches. Their requests will run
    /// alone.
    pub(super) fn lose(&mut self) -> usize {
        let lost = self.in_flight.len();
        self.unexplained += u32::from(lost > 0);
        self.alone.extend(self.in_flight.drain(..).flat_map(|batch| batch.members));
        self.slots.clear();
        lost
    }
}

impl Core {
    /// The next request that was in a batch that failed.
    pub(crate) fn next_alone(&mut self) -> Option<Member> {
        let mut member = self.batches.alone.pop_front()?;
        // The run that failed was for its batch.
        member.clock.end(Stage::Batch);
        Some(member)
    }

    /// Whether no more batches are to be made.
    pub(crate) fn doubts_batches(&self) -> bool {
        self.batches.unexplained >= UNEXPLAINED_MAX
    }

    /// Whether requests are to be run alone.
    pub(crate) fn has_alone(&self) -> bool {
        !self.batches.alone.is_empty()
    }

    /// Starts requests as one job, or runs it. `done` gets the replies that are ready.
    pub(crate) fn start_batch(
        &mut self,
        counters: &Counters,
        members: Vec<Member>,
        done: &mut dyn FnMut(Ready),
    ) {
        let Gathered { job, members, rows } = match self.gather(counters, members, done) {
            Ok(gathered) => gathered,
            Err(members) => return self.batches.alone.extend(members),
        };
        let (table, gathered) = (Arc::clone(job.arrival.slot.table()), job.arrival.since());
        self.batches.in_flight.push(Batch { table, members, rows, gathered });
        if let Some((finished, ran)) = self.submit(counters, job) {
            self.finish(counters, finished, ran, done);
            self.settle(counters);
        }
    }

    /// Ends a job, of one request or of a batch.
    pub(super) fn finish(
        &mut self,
        counters: &Counters,
        finished: Finished,
        ran: Ran,
        done: &mut dyn FnMut(Ready),
    ) {
        match self.batches.take(&finished.job) {
            None => done(self.complete(counters, finished, ran)),
            Some(batch) => self.complete_batch(counters, batch, finished, ran, done),
        }
    }

    /// Puts the inputs in place, one request after the other. A request whose input cannot be made
    /// is answered. Gives the requests back if they cannot be run as one.
    fn gather(
        &mut self,
        counters: &Counters,
        members: Vec<Member>,
        done: &mut dyn FnMut(Ready),
    ) -> Result<Gathered, Vec<Member>> {
        let all = rows_in(&members);
        let Some((mut slot, binding)) = self.room_for(&members, all) else { return Err(members) };
        let mut rows = 0;
        let mut gathered = Vec::with_capacity(members.len());
        for mut member in members {
            // Until now it waited for those before it.
            member.clock.end(Stage::Gather);
            match self.gather_one(&mut slot, &binding, rows, &mut member) {
                Ok(()) => {
                    rows += rows_in(std::slice::from_ref(&member));
                    gathered.push(member);
                }
                Err(unfit) => {
                    let Member { mut guard, clock, .. } = member;
                    guard.set_times(clock.times(), clock.border());
                    done(self.refuse(counters, guard, &unfit));
                }
            }
        }
        // Behind an input without the rows of those that failed, the next would begin elsewhere.
        let moved = rows < all && binding.inputs.len() > 1;
        let binding = self.bind(&gathered, rows).filter(|_| gathered.len() > 1 && !moved);
        let Some(binding) = binding else {
            self.batches.slots.give_back(slot);
            return Err(gathered);
        };
        let now = Instant::now();
        for member in &mut gathered {
            member.clock.end_at(Stage::Gather, now);
            member.guard.set_times(member.clock.times(), now);
        }
        Ok(Gathered { job: job(slot, binding, &gathered, now), members: gathered, rows })
    }

    /// A slot for a batch of so many rows, and what lies where in it.
    fn room_for(&mut self, members: &[Member], rows: u64) -> Option<(Slot, Arc<BoundSignature>)> {
        let binding = self.bind(members, rows)?;
        let placer = self.preparation.placer();
        match self.batches.slots.take(&binding, placer.as_deref()) {
            Ok(slot) => Some((slot, binding)),
            Err(error) => {
                let why = error_text(&error);
                tracing::warn!(instance = %self.label, rows, why, "no memory for a batch");
                None
            }
        }
    }

    fn bind(&mut self, members: &[Member], rows: u64) -> Option<Arc<BoundSignature>> {
        let (engine, first) = (self.engine.as_ref()?, members.first()?);
        self.batches.bindings.of(engine.signature(), &first.binding, rows)
    }

    /// Puts the input of one request in place, behind `at` rows.
    fn gather_one(
        &mut self,
        slot: &mut Slot,
        binding: &BoundSignature,
        at: u64,
        member: &mut Member,
    ) -> Result<(), Unfit> {
        let Member { guard, binding: own, clock, .. } = member;
        let failed = |error: MemoryError| Unfit::memory(&error);
        if guard.what.kind == RequestKind::Tensor {
            let payload = guard.slot.request().part(0, guard.payload_bytes).map_err(failed)?;
            return copy::inputs(&payload, own, slot, binding, at).map_err(failed);
        }
        let into = copy::first_input(own, slot, binding, at).map_err(failed)?;
        self.prepare(|preparation| preparation.prepare_into(guard, own, clock, into))
    }

    fn complete_batch(
        &mut self,
        counters: &Counters,
        batch: Batch,
        finished: Finished,
        ran: Ran,
        done: &mut dyn FnMut(Ready),
    ) {
        let ended = Instant::now();
        self.in_flight = self.in_flight.saturating_sub(1);
        let Finished { job, outcome } = finished;
        let outcome = match outcome {
            Ok(_) if job.placed.is_some() => {
                // It will not be another time, either.
                self.batches.unexplained = UNEXPLAINED_MAX;
                Err(EngineError::Run("a batch has outputs of other shapes than its rows".into()))
            }
            outcome => outcome,
        };
        match outcome {
            Ok(of_engine) => {
                (self.rebuilds, self.batches.unexplained) = (0, 0);
                let ended = match ran {
                    // Its stages begin when the inputs are in place and leave no gap.
                    Ran::Here(_) => ended.min(ready_at(batch.gathered, &of_engine)),
                    Ran::Elsewhere => ended,
                };
                scatter(counters, &job, &of_engine, ended, batch, done);
            }
            Err(error) => self.fall_apart(counters, batch, &error, ran, done),
        }
        self.batches.slots.give_back(job.arrival.into_arrival().slot);
    }

    /// A batch failed: its requests will run alone, if there is any use in it.
    fn fall_apart(
        &mut self,
        counters: &Counters,
        batch: Batch,
        error: &EngineError,
        ran: Ran,
        done: &mut dyn FnMut(Ready),
    ) {
        let is_over = ran == Ran::Here(Some(Cut::Closing)) || matches!(error, EngineError::Lost(_));
        if !is_over {
            let (rows, why) = (batch.rows, error_text(error));
            tracing::debug!(instance = %self.label, rows, why, "a batch failed");
            self.batches.unexplained += 1;
            self.batches.alone.extend(batch.members);
            return;
        }
        let (status, text) = self.failure(error, ran);
        for Member { guard, .. } in batch.members {
            done(self.refuse(counters, guard, &Unfit { status, text: text.clone() }));
        }
    }
}

/// Inputs in place.
struct Gathered {
    job: Job,
    members: Vec<Member>,
    rows: u64,
}

/// The job that a batch is to its engine. Nobody waits for it but the members, which are answered
/// one by one, so that a panic loses nothing that must be answered.
fn job(slot: Slot, binding: Arc<BoundSignature>, members: &[Member], now: Instant) -> Job {
    let first = members.first();
    let what = Request {
        batch: u32::try_from(rows_in(members)).unwrap_or(u32::MAX),
        priority: first.map_or(0, |member| member.guard.what.priority),
        ..Request::of(RequestKind::Tensor)
    };
    let arrival = Arrival {
        peer: PeerId(0),
        session: first.map_or(SessionId(0), |member| member.guard.session),
        generation: Generation::FIRST,
        request: 0,
        what,
        payload_bytes: usize::try_from(binding.request_bytes()).unwrap_or(usize::MAX),
        slot,
        seen: now,
        visible: now,
    };
    let memory = first.map_or(MemoryChoice::Auto, |member| member.memory);
    Job { arrival: ArrivalGuard::from(arrival), binding, prepared: None, memory, placed: None }
}

fn rows_in(members: &[Member]) -> u64 {
    members.iter().filter_map(|member| rows_of(&member.binding)).sum()
}

/// Gives each request its rows of the outputs, and answers it before the next one gets its own.
fn scatter(
    counters: &Counters,
    job: &Job,
    of_engine: &StageTimes,
    ended: Instant,
    batch: Batch,
    done: &mut dyn FnMut(Ready),
) {
    let (mut at, mut last) = (0, StageTimes::NONE);
    for mut member in batch.members {
        let rows = rows_in(std::slice::from_ref(&member));
        member.clock.merge(of_engine, ended);
        member.clock.set_batch_rows(batch.rows);
        let (batch, own) = (job.arrival.slot.reply(), &member.binding);
        let copied = copy::outputs(&batch, &job.binding, at, &mut member.guard.slot, own);
        at += rows;
        member.clock.end(Stage::Scatter);
        let Member { guard, clock, .. } = member;
        let (times, ready) = (clock.times(), clock.border());
        let Guarded { arrival, reply_to, .. } = guard.into_parts();
        let (counter, mut departure) = match copied {
            Ok(bytes) => (&counters.served, arrival.depart(bytes, times)),
            Err(error) => {
                let text = error_text(&error);
                (&counters.failed, arrival.fail(Status::EngineFailed, &text, times))
            }
        };
        departure.ready = ready;
        counter.fetch_add(1, Ordering::Relaxed);
        last = times;
        done(Ready { departure, reply_to });
    }
    // The last one's stages are those of all: what came before it is in its gathering.
    counters.ran(busy_ns(&last));
}
