//! How a payload that came inside a call gets into its slot.

use std::ptr::from_ref;

use bytes::Bytes;
use ferry_core::{BoundSignature, RequestKind};
use ferry_memory::{MemoryError, Slot};

/// Lends the payload to the slot where it can be read as it lies in the call's message, else
/// copies it. Pictures and bytes can always be read; where the elements of an input are wider, the
/// message has them at an address that suits them only by chance.
///
/// # Errors
/// [`MemoryError::OutOfRange`] if the session has no room for so much.
pub(crate) fn place(
    slot: &mut Slot,
    binding: &BoundSignature,
    kind: RequestKind,
    payload: &Bytes,
) -> Result<(), MemoryError> {
    // What is lent obeys the same bound as what is copied.
    slot.request().part(0, payload.len())?;
    if !payload.is_empty() && is_usable(binding, kind, payload) {
        slot.lend_request(payload.clone());
        return Ok(());
    }
    slot.request().copy_in(0, payload)
}

fn is_usable(binding: &BoundSignature, kind: RequestKind, payload: &[u8]) -> bool {
    let RequestKind::Tensor = kind else { return true };
    let address = from_ref(payload).addr();
    let suits =
        |bytes: u64| usize::try_from(bytes).is_ok_and(|bytes| address.is_multiple_of(bytes));
    binding.inputs.iter().all(|input| suits(input.dtype.bytes()))
}

#[cfg(test)]
mod tests {
    use ferry_core::{BoundTensor, DType, SlotLayout};
    use ferry_memory::SlotTable;

    use super::*;

    fn binding(dtype: DType) -> BoundSignature {
        let (name, shape) = ("x".to_owned(), vec![64 / dtype.bytes()]);
        let input = BoundTensor { name, dtype, shape, offset: 0, bytes: 64, open: false };
        BoundSignature { inputs: vec![input], outputs: Vec::new() }
    }

    fn slot() -> Slot {
        let layout = SlotLayout { slots: 1, request_bytes: 64, reply_bytes: 64 };
        SlotTable::private(layout).unwrap().acquire().unwrap()
    }

    /// Two payloads of 64 bytes: one at an address that is a multiple of 4, one that is not.
    fn payloads() -> [Bytes; 2] {
        let message = Bytes::from((0..=70).collect::<Vec<u8>>());
        let at = message.as_ptr().align_offset(4);
        [message.slice(at..at + 64), message.slice(at + 1..at + 65)]
    }

    #[test]
    fn what_can_be_read_where_it_lies_is_not_copied() {
        let [aligned, odd] = payloads();
        let lent = |dtype, kind, payload: &Bytes| {
            let mut slot = slot();
            place(&mut slot, &binding(dtype), kind, payload).unwrap();
            let bytes = slot.request_bytes().unwrap();
            assert_eq!(bytes, payload);
            std::ptr::eq(bytes.as_ptr(), payload.as_ptr())
        };
        assert!(lent(DType::U8, RequestKind::Tensor, &odd));
        assert!(lent(DType::F32, RequestKind::Tensor, &aligned));
        assert!(!lent(DType::F32, RequestKind::Tensor, &odd));
        assert!(lent(DType::F32, RequestKind::Jpeg, &odd));
    }

    #[test]
    fn more_than_the_session_has_room_for_is_refused() {
        let payload = Bytes::from(vec![1; 65]);
        let placed = place(&mut slot(), &binding(DType::U8), RequestKind::Tensor, &payload);
        assert!(matches!(placed, Err(MemoryError::OutOfRange { .. })), "{placed:?}");
    }
}
