//! Memory of the pool's own in which batches are put together and computed.

use std::sync::Arc;

use ferry_core::{BoundSignature, SlotLayout};
use ferry_memory::{HeapBacking, MemoryError, PeerAccess, Placer, Region, Slot, SlotTable};

/// The slots of one instance that no batch is in. One is made when there is none that is large
/// enough, in place of one that is not: there are never more than the engine has jobs in flight.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    free: Vec<Arc<SlotTable>>,
}

/// How long the halves of a slot are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lengths {
    request: u64,
    reply: u64,
}

impl Lengths {
    /// Of a slot that stands for a batch whose bytes are elsewhere.
    pub(crate) const TOKEN: Lengths = Lengths { request: 1, reply: 1 };

    pub(crate) fn of(binding: &BoundSignature) -> Lengths {
        Lengths { request: binding.request_bytes(), reply: binding.reply_bytes() }
    }
}

impl Slots {
    /// A slot with room for so many bytes, in memory that `placer` knows.
    pub(crate) fn take(
        &mut self,
        Lengths { request, reply }: Lengths,
        placer: Option<&dyn Placer>,
    ) -> Result<Slot, MemoryError> {
        let has_room = |table: &Arc<SlotTable>| {
            let SlotLayout { request_bytes, reply_bytes, .. } = *table.layout();
            request <= request_bytes && reply <= reply_bytes
        };
        let table = match self.free.iter().position(has_room) {
            Some(at) => self.free.swap_remove(at),
            None => {
                self.free.pop();
                // In steps of two, so that batches that grow row by row do not each make one.
                let [request_bytes, reply_bytes] = [request, reply].map(u64::next_power_of_two);
                make(SlotLayout { slots: 1, request_bytes, reply_bytes }, placer)?
            }
        };
        let none = || MemoryError::Layout { what: "a slot of a batch that is held already".into() };
        table.acquire().ok_or_else(none)
    }

    /// Takes back a slot that a batch has left.
    pub(crate) fn give_back(&mut self, slot: Slot) {
        self.free.push(Arc::clone(slot.table()));
    }

    /// Forgets what there is: it was made for an engine that is gone.
    pub(crate) fn clear(&mut self) {
        self.free.clear();
    }
}

/// Pages cost nothing until a batch touches them, but those that a device knows.
fn make(layout: SlotLayout, placer: Option<&dyn Placer>) -> Result<Arc<SlotTable>, MemoryError> {
    let plain = Region::whole(HeapBacking::new(SlotTable::bytes(&layout)?)?);
    let region = match placer {
        Some(placer) => placer.register(plain)?,
        None => plain,
    };
    SlotTable::over(layout, PeerAccess::None, region)
}

#[cfg(test)]
mod tests {
    use ferry_core::{DType, Dim, Signature, TensorSpec};

    use super::*;

    fn bound(rows: u64) -> BoundSignature {
        let shape = vec![Dim::Named("n".to_owned()), Dim::Fixed(1000)];
        let spec = TensorSpec { name: "t".to_owned(), dtype: DType::U8, shape };
        let signature = Signature { inputs: vec![spec.clone()], outputs: vec![spec] };
        signature.bind(&[("t".to_owned(), vec![rows, 1000])]).unwrap()
    }

    #[test]
    fn a_slot_is_used_again_and_a_larger_one_takes_its_place() {
        let mut slots = Slots::default();
        for (rows, room) in [(3, 4096), (4, 4096), (2, 4096), (9, 16_384), (3, 16_384)] {
            let slot = slots.take(Lengths::of(&bound(rows)), None).unwrap();
            assert_eq!((slot.request().bytes(), slot.reply().bytes()), (room, room), "{rows} rows");
            assert!(slot.request_bytes().is_some(), "nobody else reaches it");
            slots.give_back(slot);
            assert_eq!(slots.free.len(), 1);
        }
        let both = [3, 3].map(|rows| slots.take(Lengths::of(&bound(rows)), None).unwrap());
        both.into_iter().for_each(|slot| slots.give_back(slot));
        assert_eq!(slots.free.len(), 2);
        slots.clear();
        assert!(slots.free.is_empty());
    }
}
