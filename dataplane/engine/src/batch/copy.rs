//! Where the rows of a request lie in a batch, and the way there and back.

use ferry_core::{BoundSignature, BoundTensor};
use ferry_memory::{MemoryError, Slot, View, ViewMut};

/// Where the rows of `own` lie in the batch's tensor behind `at` rows, and how long they are: in
/// bytes, and outside of any memory where this machine cannot count them.
pub(crate) fn place(of_batch: &BoundTensor, own: &BoundTensor, at: u64) -> (usize, usize) {
    let rows = own.shape.first().copied().unwrap_or(1).max(1);
    (number(of_batch.offset + at * (own.bytes / rows)), number(own.bytes))
}

fn number(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Copies the inputs of a request behind `at` rows of the batch.
pub(crate) fn inputs(
    payload: &View<'_>,
    own: &BoundSignature,
    slot: &mut Slot,
    batch: &BoundSignature,
    at: u64,
) -> Result<(), MemoryError> {
    for (from, to) in own.inputs.iter().zip(&batch.inputs) {
        let (start, bytes) = place(to, from, at);
        let source = payload.part(number(from.offset), bytes)?;
        slot.request_mut().into_part(start, bytes)?.copy_from(&source, bytes)?;
    }
    Ok(())
}

/// The room for the only input of a request behind `at` rows of the batch.
pub(crate) fn first_input<'a>(
    own: &BoundSignature,
    slot: &'a mut Slot,
    batch: &BoundSignature,
    at: u64,
) -> Result<ViewMut<'a>, MemoryError> {
    let none = MemoryError::OutOfRange { at: 0, len: 1, bytes: 0 };
    let (own, of_batch) = own.inputs.first().zip(batch.inputs.first()).ok_or(none)?;
    let (start, bytes) = place(of_batch, own, at);
    slot.request_mut().into_part(start, bytes)
}

/// Copies the outputs of a request from behind `at` rows of the batch's `reply`; the length of its
/// own reply.
pub(crate) fn outputs(
    reply: &View<'_>,
    batch: &BoundSignature,
    at: u64,
    slot: &mut Slot,
    own: &BoundSignature,
) -> Result<usize, MemoryError> {
    for (from, to) in batch.outputs.iter().zip(&own.outputs) {
        let (start, bytes) = place(from, to, at);
        let source = reply.part(start, bytes)?;
        slot.reply_mut().into_part(number(to.offset), bytes)?.copy_from(&source, bytes)?;
    }
    Ok(number(own.reply_bytes()))
}
