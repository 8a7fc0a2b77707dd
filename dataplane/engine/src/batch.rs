//! Requests of several sessions that run as one: what may, and how they are put together.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ferry_core::{BoundSignature, BoundTensor, Dim, RequestKind, Signature, TensorSpec};

use crate::queue::Work;

mod bindings;
pub(crate) mod copy;
mod pick;
mod slots;

pub(crate) use bindings::Bindings;
pub(crate) use pick::{Candidate, Picked, Picker, Sizes};
pub(crate) use slots::{Lengths, Slots};

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
    /// The sizes that an engine is got ready for, where it cannot have any, rising: with powers of
    /// two, what waits fills more than half of the largest that it fills.
    pub(crate) fn ladder(&self) -> Vec<u64> {
        let powers = std::iter::successors(Some(1_u64), |rows| rows.checked_mul(2));
        let mut sizes: Vec<u64> = powers.take_while(|rows| *rows < self.rows_max).collect();
        sizes.extend(self.preferred.iter().chain([&self.rows_max]));
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    /// Whether no tensor has too many elements.
    pub(crate) fn has_elements_for(&self, batch: &BoundSignature) -> bool {
        let mut tensors = batch.inputs.iter().chain(&batch.outputs);
        tensors.all(|tensor| tensor.bytes / tensor.dtype.bytes() <= self.elements_max)
    }

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

/// What the engines of a model want of its batches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ways {
    /// They make their input of raw pictures by themselves, one at a time.
    pub(crate) raw_alone: bool,
    /// They bring inputs together by themselves, also those that lie in a device's memory.
    pub(crate) gathers: bool,
    /// The sizes that they are ready for, if these are few.
    pub(crate) only: Option<Vec<u64>>,
}

/// What the queue and the workers of a pool must know of batches.
#[derive(Debug)]
pub(crate) struct Batching {
    pub(crate) options: BatchOptions,
    ways: Ways,
    /// Batches failed again and again whose requests did not: none is made any more.
    off: AtomicBool,
}

impl Batching {
    pub(crate) fn new(options: BatchOptions, ways: Ways) -> Batching {
        Batching { options, ways, off: AtomicBool::new(false) }
    }

    /// How many rows a batch of at most `max` may have.
    pub(crate) fn sizes(&self, max: u64) -> Sizes<'_> {
        Sizes { max, preferred: &self.options.preferred, only: self.ways.only.as_deref() }
    }

    /// Whether urgent requests run in batches: where a device is ready for few sizes it is not for
    /// theirs, and they are few.
    pub(crate) fn takes_urgent(&self) -> bool {
        self.ways.only.is_none()
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
        if self.ways.raw_alone && matches!(arrival.what.kind, RequestKind::Raw { .. }) {
            return None;
        }
        // What lies in a device's memory would be copied out of it and in again.
        if !self.ways.gathers {
            let (request, reply) = (arrival.slot.request(), arrival.slot.reply());
            request.host().and(reply.host())?;
        }
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

/// A binding to `rows` rows, of a model that has no other open dimension.
pub(crate) fn bind_rows(signature: &Signature, rows: u64) -> Option<BoundSignature> {
    let shape = |spec: &TensorSpec| {
        let dims = spec.shape.iter().enumerate().map(|(at, dim)| match dim {
            _ if at == 0 => Some(rows),
            Dim::Fixed(size) => Some(*size),
            Dim::Named(_) | Dim::Any => None,
        });
        Some((spec.name.clone(), dims.collect::<Option<Vec<u64>>>()?))
    };
    let shapes: Vec<_> = signature.inputs.iter().map(shape).collect::<Option<_>>()?;
    let bound = signature.bind(&shapes).ok()?;
    (rows_of(&bound) == Some(rows)).then_some(bound)
}

/// Whether two sessions of one model differ in nothing but the first dimension.
fn alike(a: &BoundSignature, b: &BoundSignature) -> bool {
    let same = |(a, b): (&BoundTensor, &BoundTensor)| a.shape.get(1..) == b.shape.get(1..);
    a.inputs.iter().zip(&b.inputs).all(same) && a.outputs.iter().zip(&b.outputs).all(same)
}
