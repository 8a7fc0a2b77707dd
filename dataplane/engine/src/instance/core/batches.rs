//! The batches of one instance: those in flight, and what its engine wants of them.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use ferry_core::panic_text;
use ferry_memory::SlotTable;

use super::Member;
use super::member::Rest;
use crate::batch::{BatchOptions, Bindings, Slots, bind_rows};
use crate::engine::{Engine, Job};

/// Batches in a row that failed while no request failed alone, after which none is made any more:
/// it is the batch that the model does not take, and each costs a run.
pub(super) const UNEXPLAINED_MAX: u32 = 3;

/// The batches of one instance.
#[derive(Debug, Default)]
pub(super) struct Batches {
    options: Option<BatchOptions>,
    /// How many may be in flight at once.
    at_once: usize,
    /// The sizes that the engine is ready for, if these are few.
    only: Option<Vec<u64>>,
    pub(super) bindings: Bindings,
    pub(super) slots: Slots,
    /// At most as many as the engine has jobs in flight.
    pub(super) in_flight: Vec<Batch>,
    /// Requests of batches that failed, to be run alone: at most those of one batch for each job of
    /// the engine.
    pub(super) alone: VecDeque<Member>,
    pub(super) unexplained: u32,
}

/// Requests that the engine has as one job.
#[derive(Debug)]
pub(super) struct Batch {
    /// Tells the job.
    pub(super) table: Arc<SlotTable>,
    pub(super) members: Members,
    pub(super) rows: u64,
    /// When the inputs were in place.
    pub(super) gathered: Instant,
}

/// The requests of a batch in flight.
#[derive(Debug)]
pub(super) enum Members {
    Here(Vec<Member>),
    /// The job has the requests, and what else is known of each is here.
    WithJob(Vec<Rest>),
}

impl Members {
    fn len(&self) -> usize {
        match self {
            Members::Here(members) => members.len(),
            Members::WithJob(rests) => rests.len(),
        }
    }

    /// The requests, out of the job if it has them.
    pub(super) fn take(self, job: &mut Job) -> Vec<Member> {
        match self {
            Members::Here(members) => members,
            Members::WithJob(rests) => {
                let guards = job.members.drain(..).map(|member| member.arrival);
                guards.zip(rests).map(|(guard, rest)| rest.with(guard)).collect()
            }
        }
    }
}

impl Batches {
    pub(super) fn new(options: Option<BatchOptions>) -> Batches {
        Batches { options, at_once: usize::MAX, ..Batches::default() }
    }

    /// Learns what a new engine wants of batches, and has it get ready for them.
    pub(super) fn meet(&mut self, label: &str, engine: &mut dyn Engine) {
        let Some(options) = &self.options else { return };
        self.at_once = engine.batches_at_once().max(1);
        let sizes = options.ladder();
        let signature = engine.signature();
        let bound = sizes.iter().map_while(|&rows| bind_rows(signature, rows).map(Arc::new));
        let bound: Vec<_> = bound.take_while(|it| options.has_elements_for(it)).collect();
        let ready = catch_unwind(AssertUnwindSafe(|| engine.ready_for(&bound)));
        let ready = ready.unwrap_or_else(|panic| {
            tracing::error!(instance = label, why = panic_text(&*panic), "not ready for batches");
            Some(0)
        });
        self.only = ready.map(|ready| sizes.into_iter().take(ready).collect());
        if let Some(only) = &self.only {
            tracing::info!(instance = label, sizes = ?only, "ready for batches");
        }
    }

    pub(super) fn at_once(&self) -> usize {
        self.at_once
    }

    /// The sizes that the engine is ready for, if these are few.
    pub(super) fn only(&self) -> Option<&Vec<u64>> {
        self.only.as_ref()
    }

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

    /// The engine is gone with all its `jobs`; how many requests went with them. Those that are here
    /// will run alone.
    pub(super) fn lose(&mut self, jobs: usize) -> usize {
        self.unexplained += u32::from(!self.in_flight.is_empty());
        let mut lost = jobs.saturating_sub(self.in_flight.len());
        for batch in self.in_flight.drain(..) {
            match batch.members {
                Members::Here(members) => self.alone.extend(members),
                Members::WithJob(rests) => lost += rests.len(),
            }
        }
        self.slots.clear();
        lost
    }
}
