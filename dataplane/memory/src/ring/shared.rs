//! A ring's cells in shared memory.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use ferry_core::session::SLOTS_MAX;

use super::{Cell, RingMemory};
use crate::backing::MemoryError;
use crate::region::Region;
use crate::word::{Word, cell_at};

/// Entries of a ring. Each slot of a session is in a ring at most once, so an honest peer never
/// finds it full.
pub const RING_ENTRIES: usize = SLOTS_MAX as usize;

/// Two cache lines: what one end polls and what the other writes never share one, and neither does
/// the line that the processor fetches beside it.
const LINE_BYTES: usize = 128;
const TAIL_AT: usize = 0;
const HEAD_AT: usize = LINE_BYTES;
const SLEEPING_AT: usize = 2 * LINE_BYTES;
const ENTRIES_AT: usize = 3 * LINE_BYTES;

/// Length of a ring in bytes.
pub const RING_BYTES: usize = ENTRIES_AT + RING_ENTRIES * size_of::<u64>();

const _: () = assert!(RING_ENTRIES.is_power_of_two() && RING_BYTES.is_multiple_of(LINE_BYTES));

/// A ring in shared memory, which it keeps mapped.
#[derive(Debug)]
pub struct SharedRing {
    tail: NonNull<AtomicU64>,
    head: NonNull<AtomicU64>,
    entries: NonNull<[AtomicU64; RING_ENTRIES]>,
    sleeping: Word,
}

// SAFETY: all cells are atomics in memory that `sleeping` keeps mapped.
unsafe impl Send for SharedRing {}
// SAFETY: as above.
unsafe impl Sync for SharedRing {}

/// The ring at the start of zeroed memory, of which nobody in this process reaches the rest.
///
/// # Errors
/// [`MemoryError::OutOfRange`] if it does not lie inside, [`MemoryError::Layout`] if it is not
/// aligned or not memory of the host.
pub fn ring_in(memory: Region) -> Result<SharedRing, MemoryError> {
    SharedRing::inside(&Arc::new(memory))
}

impl SharedRing {
    /// The ring at the start of `memory`, which is reached by rings and words alone.
    pub(super) fn inside(memory: &Arc<Region>) -> Result<SharedRing, MemoryError> {
        Ok(SharedRing {
            tail: cell_at(memory, TAIL_AT)?,
            head: cell_at(memory, HEAD_AT)?,
            entries: cell_at(memory, ENTRIES_AT)?,
            sleeping: Word::inside(memory, SLEEPING_AT)?,
        })
    }

    /// The flag, for an end that sleeps on it as on a futex.
    pub fn sleeper(&self) -> &Word {
        &self.sleeping
    }
}

impl RingMemory for SharedRing {
    type Index = AtomicU64;
    type Flag = AtomicU32;

    fn entries(&self) -> u64 {
        RING_ENTRIES as u64
    }

    fn tail(&self) -> &AtomicU64 {
        // SAFETY: checked for bounds and alignment when made, and kept mapped by `sleeping`.
        unsafe { self.tail.as_ref() }
    }

    fn head(&self) -> &AtomicU64 {
        // SAFETY: as in `tail`.
        unsafe { self.head.as_ref() }
    }

    fn sleeping(&self) -> &AtomicU32 {
        self.sleeping.cell()
    }

    fn entry(&self, at: u64) -> &AtomicU64 {
        // SAFETY: as in `tail`.
        let entries = unsafe { self.entries.as_ref() };
        // The remainder is below RING_ENTRIES, so that the cast keeps it.
        let at = usize::try_from(at % RING_ENTRIES as u64).unwrap_or(0);
        &entries[at]
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

impl Cell<u64> for AtomicU64 {
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }

    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.swap(value, order)
    }
}

impl Cell<u32> for AtomicU32 {
    fn load(&self, order: Ordering) -> u32 {
        self.load(order)
    }

    fn store(&self, value: u32, order: Ordering) {
        self.store(value, order);
    }

    fn swap(&self, value: u32, order: Ordering) -> u32 {
        self.swap(value, order)
    }
}
