//! The slots of requests without a session. One that is over leaves its memory to the next of its
//! tenant: the pages of new memory are made and zeroed one by one when they are touched, which takes
//! longer than a tensor's copy.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferry_core::SlotLayout;
use ferry_memory::{MemoryError, Slot, SlotTable};

use crate::serving::call::reply_of;
use crate::tenants::{Reservation, Tenant};

/// Most slots that wait for a request: more than one machine's clients have in flight.
const SPARE_MAX: usize = 64;

/// Most bytes of them: one for the longest message and a reply as long.
const SPARE_BYTES_MAX: usize = 256 << 20;

/// Slots that wait for a request, the one that was used last at the end.
#[derive(Debug, Default)]
pub(super) struct Spares(Mutex<VecDeque<Spare>>);

#[derive(Debug)]
struct Spare {
    /// Whose bytes may still be in it: nobody else gets it.
    tenant: Arc<Tenant>,
    table: Arc<SlotTable>,
}

impl Spare {
    fn bytes(&self) -> usize {
        SlotTable::bytes(self.table.layout()).unwrap_or(usize::MAX)
    }
}

impl Spares {
    fn spares(&self) -> MutexGuard<'_, VecDeque<Spare>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A table with this layout, of which the caller is the only holder.
    ///
    /// # Errors
    /// [`MemoryError`] if the layout is wrong or memory is short.
    pub(super) fn take(
        &self,
        tenant: &Arc<Tenant>,
        layout: SlotLayout,
    ) -> Result<Arc<SlotTable>, MemoryError> {
        let fits = |it: &Spare| Arc::ptr_eq(&it.tenant, tenant) && *it.table.layout() == layout;
        let mut spares = self.spares();
        // What was used last is warm.
        let found = spares.iter().rposition(fits).and_then(|at| spares.remove(at));
        drop(spares);
        found.map_or_else(|| SlotTable::private(layout), |spare| Ok(spare.table))
    }

    fn give(&self, spare: Spare) {
        if spare.bytes() > SPARE_BYTES_MAX {
            return;
        }
        let mut spares = self.spares();
        spares.push_back(spare);
        let mut bytes = spares.iter().map(Spare::bytes).fold(0, usize::saturating_add);
        let mut too_many = Vec::new();
        while spares.len() > SPARE_MAX || bytes > SPARE_BYTES_MAX {
            let Some(oldest) = spares.pop_front() else { break };
            bytes = bytes.saturating_sub(oldest.bytes());
            too_many.push(oldest);
        }
        // Memory is given back to the system while nobody waits.
        drop(spares);
    }
}

/// A reply that lies in its slot until it is sent. Its tenant pays for it.
pub(super) struct Reply {
    /// `None` once it is over.
    pub(super) slot: Option<Slot>,
    pub(super) bytes: usize,
    pub(super) tenant: Arc<Tenant>,
    /// `None`: its memory is not the server's.
    pub(super) spares: Option<Arc<Spares>>,
    pub(super) _held: Reservation,
}

impl AsRef<[u8]> for Reply {
    fn as_ref(&self) -> &[u8] {
        self.slot.as_ref().map(|slot| reply_of(slot, self.bytes)).unwrap_or_default()
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        let table = Arc::clone(slot.table());
        drop(slot);
        if let Some(spares) = &self.spares {
            spares.give(Spare { tenant: Arc::clone(&self.tenant), table });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenants::Quota;

    fn layout(bytes: u64) -> SlotLayout {
        SlotLayout { slots: 1, request_bytes: bytes, reply_bytes: bytes }
    }

    fn reply(spares: &Arc<Spares>, tenant: &Arc<Tenant>, bytes: u64) -> Reply {
        let table = spares.take(tenant, layout(bytes)).unwrap();
        let slot = Some(table.acquire().unwrap());
        let held = tenant.reserve(1, bytes).unwrap();
        let (tenant, spares) = (Arc::clone(tenant), Some(Arc::clone(spares)));
        Reply { slot, bytes: 1, tenant, spares, _held: held }
    }

    #[test]
    fn memory_comes_back_to_its_tenant_alone_and_by_its_layout() {
        let spares = Arc::new(Spares::default());
        let [a, b] = ["a", "b"].map(|name| Tenant::new(name, Quota::default()));
        let first = reply(&spares, &a, 100);
        let address = first.as_ref().as_ptr();
        let second = reply(&spares, &a, 100);
        assert_ne!(second.as_ref().as_ptr(), address, "it is in use");
        drop(first);
        let of_b = reply(&spares, &b, 100);
        let longer = reply(&spares, &a, 10_000);
        assert!(of_b.as_ref().as_ptr() != address && longer.as_ref().as_ptr() != address);
        assert_eq!(reply(&spares, &a, 100).as_ref().as_ptr(), address);
        assert_eq!(a.held().sessions, 2, "what waits is nobody's");
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_bytes() {
        let spares = Arc::new(Spares::default());
        let tenant = Tenant::new("t", Quota { bytes: u64::MAX, ..Quota::default() });
        let many: Vec<Reply> = (0..SPARE_MAX + 5).map(|_| reply(&spares, &tenant, 1)).collect();
        drop(many);
        assert_eq!(spares.spares().len(), SPARE_MAX);
        let half = SPARE_BYTES_MAX as u64 / 4;
        for _ in 0..3 {
            let two = [reply(&spares, &tenant, half), reply(&spares, &tenant, half)];
            drop(two);
        }
        let bytes: usize = spares.spares().iter().map(Spare::bytes).sum();
        assert!(bytes <= SPARE_BYTES_MAX, "{bytes}");
        let before = spares.spares().len();
        drop(reply(&spares, &tenant, 4 * half));
        assert_eq!(spares.spares().len(), before, "it alone would be too much");
    }
}
