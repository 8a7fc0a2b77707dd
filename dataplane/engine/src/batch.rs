//! Requests of several sessions that run as one: what may, and how they are put together.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ferry_core::{BoundSignature, BoundTensor, Dim, RequestKind, Signature};

use crate::queue::Work;

mod bindings;
pub(crate) mod copy;
mod pick;
mod slots;

pub(crate) use bindings::Bindings;
pub(crate) use pick::{Candidate, Picked, Picker};
pub(crate) use slots::Slots;

/// Most rows that a batch may be told to have: 1,024 requests of one row are as many as a batch
/// looks at, see `pick`.
pub const BATCH_ROWS_MAX: u64 = 1024;

/// Longest time that a batch may be told to wait: whoever waits for longer has given up.
pub const BATCH_DELAY_MAX: Duration = Duration::from_secs(10);

/// How requests that wait for one model are put together to a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    /// Most rows of a batch, all its requests together; 2 to [`BATCH_ROWS_MAX`].
    pub rows_max: u64,
    /// How long a batch waits for more, at most, from the arrival of its oldest request; at most
    /// [`BATCH_DELAY_MAX`]. It waits only for sessions that are likely to send: see
    /// `docs/MODELS.md`. 0: what waits already is a batch, and nothing waits for it.
    pub delay: Duration,
    /// Numbers of rows, rising, each at most `rows_max`: a batch is cut to the largest of these that
    /// the waiting requests fill, and one that has reached any of them waits no longer.
    pub preferred: Vec<u64>,
    /// Most elements of one tensor of a batch.
    pub elements_max: u64,
}

impl BatchOptions {
    /// Whether these make sense for a model with this signature.
    pub(crate) fn check(&self, signature: &Signature) -> Result<(), String> {
        let BatchOptions { rows_max, delay, preferred, .. } = self;
        if !(2..=BATCH_ROWS_MAX).contains(rows_max) {
            return Err(format!("max = {rows_max}; allowed are 2 to {BATCH_ROWS_MAX}"));
        }
        if *delay > BATCH_DELAY_MAX {
            let (given, max) = (delay.as_micros(), BATCH_DELAY_MAX.as_micros());
            return Err(format!("delay_us = {given}; allowed are 0 to {max}"));
        }
        let rise = preferred.is_sorted_by(|a, b| a < b);
        if !rise || preferred.iter().any(|rows| !(1..=*rows_max).contains(rows)) {
            return Err(format!("preferred = {preferred:?}; give rising sizes of 1 to {rows_max}"));
        }
        why_not_batched(signature).map_or(Ok(()), Err)
    }
}

/// Why requests to a model with this signature cannot be run as one; `None` if they can: every
/// input and output has the same open first dimension, and nothing else is as large as that. Whether
/// the rows mean nothing to each other, which a batch needs too, no signature tells.
pub fn why_not_batched(signature: &Signature) -> Option<String> {
    let Some(first) = signature.inputs.first() else {
        return Some("it has no inputs".to_owned());
    };
    let Some(Dim::Named(rows)) = first.shape.first() else {
        return Some(format!("the first dimension of input {first} is not open"));
    };
    if let Some(open) = signature.open_output() {
        return Some(format!("the shape of output {open} is known only when the model has run"));
    }
    for spec in signature.inputs.iter().chain(&signature.outputs) {
        let mut of_rows = spec.shape.iter().map(|dim| matches!(dim, Dim::Named(it) if it == rows));
        if of_rows.next() != Some(true) {
            return Some(format!("tensor {spec} does not begin with the dimension {rows}"));
        }
        if of_rows.any(|it| it) {
            return Some(format!("tensor {spec} has the dimension {rows} twice"));
        }
    }
    None
}

/// What the queue and the workers of a pool must know of batches.
#[derive(Debug)]
pub(crate) struct Batching {
    pub(crate) options: BatchOptions,
    /// The engine makes its input of raw pictures by itself, one at a time.
    raw_alone: bool,
    /// Batches failed again and again whose requests did not: none is made any more.
    off: AtomicBool,
}

impl Batching {
    pub(crate) fn new(options: BatchOptions, raw_alone: bool) -> Batching {
        Batching { options, raw_alone, off: AtomicBool::new(false) }
    }

    /// Makes no more batches; whether it made some until now.
    pub(crate) fn turn_off(&self) -> bool {
        !self.off.swap(true, Ordering::Relaxed)
    }

    /// Whether batches wait for more.
    pub(crate) fn waits(&self) -> bool {
        !self.options.delay.is_zero()
    }

    pub(crate) fn is_off(&self) -> bool {
        self.off.load(Ordering::Relaxed)
    }

    /// How many rows a batch that begins with `work` may have; `None` if it runs alone.
    pub(crate) fn rows_max(&self, work: &Work) -> Option<u64> {
        let rows = self.rows(work)?;
        let tensors = work.binding.inputs.iter().chain(&work.binding.outputs);
        let row = |tensor: &BoundTensor| tensor.bytes / tensor.dtype.bytes() / rows;
        let elements = tensors.map(row).max().unwrap_or(0).max(1);
        let most = self.options.rows_max.min(self.options.elements_max / elements);
        (rows <= most).then_some(most)
    }

    /// The rows of a request that may be one of a batch.
    fn rows(&self, work: &Work) -> Option<u64> {
        let arrival = &work.arrival;
        if self.raw_alone && matches!(arrival.what.kind, RequestKind::Raw { .. }) {
            return None;
        }
        // What lies in a device's memory would be copied out of it and in again.
        let (request, reply) = (arrival.slot.request(), arrival.slot.reply());
        request.host().and(reply.host())?;
        rows_of(&work.binding)
    }

    /// The rows of `work`, if it may run in a batch with `first`.
    pub(crate) fn rows_beside(&self, first: &Work, work: &Work) -> Option<u64> {
        let same_kind = first.arrival.what.kind.name() == work.arrival.what.kind.name();
        let alike =
            same_kind && first.memory == work.memory && alike(&first.binding, &work.binding);
        if alike { self.rows(work) } else { None }
    }
}

/// The first dimension, if all tensors share it and none has another shape than it was bound with.
/// Tensors without elements are run alone: what graphs do is shown for others.
pub(crate) fn rows_of(binding: &BoundSignature) -> Option<u64> {
    let rows = *binding.inputs.first()?.shape.first()?;
    let mut tensors = binding.inputs.iter().chain(&binding.outputs);
    let shared = tensors.all(|it| it.shape.first() == Some(&rows) && !it.open && it.bytes > 0);
    (shared && rows > 0).then_some(rows)
}

/// Whether two sessions of one model differ in nothing but the first dimension.
fn alike(a: &BoundSignature, b: &BoundSignature) -> bool {
    let same = |(a, b): (&BoundTensor, &BoundTensor)| a.shape.get(1..) == b.shape.get(1..);
    a.inputs.iter().zip(&b.inputs).all(same) && a.outputs.iter().zip(&b.outputs).all(same)
}
