//! What happens to requests that run as one.
//!
//! Their inputs are gathered in a slot of the pool's own, which goes to the engine as any other
//! request does, and the outputs are scattered to the slots that the requests came in. An engine
//! that gathers by itself gets the requests instead, see [`Job::members`]. If the run fails, each
//! request runs once more, alone, so that only the one that made it fail is answered with an error.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use ferry_core::{
    BoundSignature, Generation, MemoryChoice, Request, RequestKind, SessionId, Stage, StageTimes,
    Status, error_text,
};
use ferry_memory::{Arrival, MemoryError, PeerId, Slot};

use super::batches::{Batch, Members, UNEXPLAINED_MAX};
use super::{Core, Cut, Member, Ran};
use crate::batch::{Lengths, copy, rows_of};
use crate::clock::{busy_ns, ready_at};
use crate::engine::{EngineError, Finished, Job, JobMember};
use crate::guard::{ArrivalGuard, Guarded};
use crate::instance::{Counters, Ready};
use crate::prepare::Unfit;

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
        let are_tensors = members.iter().all(|it| it.guard.what.kind == RequestKind::Tensor);
        if are_tensors && self.engine.as_ref().is_some_and(|engine| engine.gathers()) {
            return self.hand_over(members, all);
        }
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
        let job = job(slot, binding, &gathered, now);
        Ok(Gathered { job, members: Members::Here(gathered), rows })
    }

    /// Gives the requests to an engine that gathers by itself.
    fn hand_over(&mut self, members: Vec<Member>, rows: u64) -> Result<Gathered, Vec<Member>> {
        let Some(binding) = self.bind(&members, rows) else { return Err(members) };
        let Some(slot) = self.slot(Lengths::TOKEN, rows) else { return Err(members) };
        let now = Instant::now();
        let mut job = job(slot, binding, &members, now);
        let (mut rests, mut rows_at) = (Vec::with_capacity(members.len()), 0);
        for mut member in members {
            member.clock.end_at(Stage::Gather, now);
            member.guard.set_times(member.clock.times(), now);
            let (arrival, rest) = member.apart();
            let binding = Arc::clone(&rest.binding);
            let own = rows_of(&binding).unwrap_or(0);
            job.members.push(JobMember { arrival, binding, rows_at });
            rows_at += own;
            rests.push(rest);
        }
        Ok(Gathered { job, members: Members::WithJob(rests), rows })
    }

    /// A slot for a batch of so many rows, and what lies where in it.
    fn room_for(&mut self, members: &[Member], rows: u64) -> Option<(Slot, Arc<BoundSignature>)> {
        let binding = self.bind(members, rows)?;
        let slot = self.slot(Lengths::of(&binding), rows)?;
        Some((slot, binding))
    }

    fn slot(&mut self, lengths: Lengths, rows: u64) -> Option<Slot> {
        let placer = self.preparation.placer();
        match self.batches.slots.take(lengths, placer.as_deref()) {
            Ok(slot) => Some(slot),
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
        let Finished { mut job, outcome } = finished;
        let by_engine = matches!(batch.members, Members::WithJob(_));
        let Batch { members, rows, gathered, .. } = batch;
        let members = members.take(&mut job);
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
                    Ran::Here(_) => ended.min(ready_at(gathered, &of_engine)),
                    Ran::Elsewhere => ended,
                };
                let from = (!by_engine).then_some(&job);
                scatter(counters, from, &of_engine, ended, (members, rows), done);
            }
            Err(error) => self.fall_apart(counters, (members, rows), &error, ran, done),
        }
        self.batches.slots.give_back(job.arrival.into_arrival().slot);
    }

    /// A batch failed: its requests will run alone, if there is any use in it.
    fn fall_apart(
        &mut self,
        counters: &Counters,
        (members, rows): (Vec<Member>, u64),
        error: &EngineError,
        ran: Ran,
        done: &mut dyn FnMut(Ready),
    ) {
        let is_over = ran == Ran::Here(Some(Cut::Closing)) || matches!(error, EngineError::Lost(_));
        if !is_over {
            let why = error_text(error);
            tracing::debug!(instance = %self.label, rows, why, "a batch failed");
            self.batches.unexplained += 1;
            self.batches.alone.extend(members);
            return;
        }
        let (status, text) = self.failure(error, ran);
        for Member { guard, .. } in members {
            done(self.refuse(counters, guard, &Unfit { status, text: text.clone() }));
        }
    }
}

/// Inputs in place.
struct Gathered {
    job: Job,
    members: Members,
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
    let (arrival, members) = (ArrivalGuard::from(arrival), Vec::new());
    Job { arrival, binding, prepared: None, memory, placed: None, members }
}

fn rows_in(members: &[Member]) -> u64 {
    members.iter().filter_map(|member| rows_of(&member.binding)).sum()
}

/// Gives each request its rows of the outputs, and answers it before the next one gets its own.
/// They are `from` the job's slot; the engine took them there already if there is none.
fn scatter(
    counters: &Counters,
    from: Option<&Job>,
    of_engine: &StageTimes,
    ended: Instant,
    (members, all): (Vec<Member>, u64),
    done: &mut dyn FnMut(Ready),
) {
    let (mut at, mut last) = (0, StageTimes::NONE);
    for mut member in members {
        let rows = rows_in(std::slice::from_ref(&member));
        member.clock.merge(of_engine, ended);
        member.clock.set_batch_rows(all);
        let own = &member.binding;
        let copied = match from {
            None => Ok(usize::try_from(own.reply_bytes()).unwrap_or(usize::MAX)),
            Some(job) => {
                let batch = job.arrival.slot.reply();
                copy::outputs(&batch, &job.binding, at, &mut member.guard.slot, own)
            }
        };
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
