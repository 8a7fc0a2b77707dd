//! One mapping that is handed out in parts: what is costly per mapping, such as registering it
//! with a device, is paid once for many sessions.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use ferry_core::Placement;

use crate::backing::{Backing, MemoryError};
use crate::heap::HeapBacking;
use crate::region::{Region, RegionAddress};
use crate::slots::HALF_ALIGN_BYTES;

/// Memory of this process that is handed out in parts. Clones are the same arena.
#[derive(Clone, Debug)]
pub struct Arena {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The mapping: where it is, for parts, and for what knows all of it.
    base: NonNull<u8>,
    whole: RegionAddress,
    /// Free ranges by their start; neighbours are always merged.
    free: Mutex<BTreeMap<usize, usize>>,
}

impl Arena {
    /// Maps `bytes` bytes, rounded up to pages.
    ///
    /// # Errors
    /// [`MemoryError::Os`] if the system has no such room, [`MemoryError::Layout`] for 0 bytes.
    pub fn new(bytes: usize) -> Result<Arena, MemoryError> {
        let bytes = round(bytes)?;
        let whole = HeapBacking::new(bytes)?;
        let (base, whole) = (whole.base(), Region::whole(whole).address());
        let free = Mutex::new(BTreeMap::from([(0, bytes)]));
        Ok(Arena { shared: Arc::new(Shared { base, whole, free }) })
    }

    /// All of it, to be registered once.
    pub fn whole(&self) -> RegionAddress {
        self.shared.whole.clone()
    }

    /// A part of its own, zeroed and page-aligned; `None` if no gap is long enough. It goes back
    /// when the last region over it is dropped.
    ///
    /// # Errors
    /// [`MemoryError::Layout`] for 0 bytes.
    pub fn part(&self, bytes: usize) -> Result<Option<Region>, MemoryError> {
        let bytes = round(bytes)?;
        let Some(at) = self.shared.take(bytes) else { return Ok(None) };
        let mut part = Region::whole(Part { shared: Arc::clone(&self.shared), at, bytes });
        // What an earlier holder left is nobody else's business.
        let zeros = [0_u8; HALF_ALIGN_BYTES];
        for at in (0..bytes).step_by(zeros.len()) {
            part.view_mut().copy_in(at, &zeros)?;
        }
        Ok(Some(part))
    }

    /// Bytes that nobody holds.
    pub fn free_bytes(&self) -> usize {
        self.shared.free().values().sum()
    }

    /// Bytes in all.
    pub fn bytes(&self) -> usize {
        self.shared.whole.bytes()
    }
}

fn round(bytes: usize) -> Result<usize, MemoryError> {
    let whole = bytes.checked_next_multiple_of(HALF_ALIGN_BYTES).filter(|&whole| whole > 0);
    whole.ok_or_else(|| MemoryError::Layout { what: format!("an arena of {bytes} bytes") })
}

// SAFETY: `base` is the start of what `whole` keeps mapped; parts of it are reached through `Part`.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    fn free(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, usize>> {
        // Nothing in the locked sections panics half-way.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// First fit: sessions of one model are all of one size, so gaps fit what comes next.
    fn take(&self, bytes: usize) -> Option<usize> {
        let mut free = self.free();
        let (at, room) = free.iter().find(|&(_, &room)| room >= bytes).map(|(&a, &r)| (a, r))?;
        free.remove(&at);
        if room > bytes {
            free.insert(at + bytes, room - bytes);
        }
        Some(at)
    }

    fn give_back(&self, mut at: usize, mut bytes: usize) {
        let mut free = self.free();
        if let Some(after) = free.remove(&(at + bytes)) {
            bytes += after;
        }
        if let Some((&before, &room)) = free.range(..at).next_back()
            && before + room == at
        {
            free.remove(&before);
            (at, bytes) = (before, bytes + room);
        }
        free.insert(at, bytes);
    }
}

/// One part of an arena.
#[derive(Debug)]
struct Part {
    shared: Arc<Shared>,
    at: usize,
    bytes: usize,
}

impl Part {
    fn base(&self) -> NonNull<u8> {
        // SAFETY: the part lies inside the mapping (`Shared::take` gives out nothing else), which
        // `shared` keeps.
        unsafe { self.shared.base.add(self.at) }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.shared.give_back(self.at, self.bytes);
    }
}

// SAFETY: a range of one mapping that is unmapped only with the last part, and given to nobody
// else while this value lives.
unsafe impl Backing for Part {
    fn placement(&self) -> Placement {
        Placement::Host
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn host(&self) -> Option<NonNull<u8>> {
        Some(self.base())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_and_merge() {
        let arena = Arena::new(4 * 4096).unwrap();
        let parts: Vec<_> = (0..4).map(|_| arena.part(4096).unwrap().unwrap()).collect();
        assert!(arena.part(1).unwrap().is_none(), "full");
        let mut parts = parts.into_iter();
        let (first, second, third) = (parts.next(), parts.next(), parts.next());
        drop((first, third));
        assert!(arena.part(8192).unwrap().is_none(), "two gaps of one page");
        drop(second);
        let merged = arena.part(3 * 4096).unwrap();
        assert!(merged.is_some());
        drop((merged, parts));
        assert_eq!(arena.free_bytes(), arena.bytes());
        assert!(arena.part(arena.bytes()).unwrap().is_some(), "merged to the last byte");
    }

    #[test]
    fn a_part_is_its_own_and_comes_zeroed() {
        let arena = Arena::new(8192).unwrap();
        let mut part = arena.part(100).unwrap().unwrap();
        part.view_mut().copy_in(0, &[7; 100]).unwrap();
        let other = arena.part(4096).unwrap().unwrap();
        let address = part.address();
        drop(part);
        assert!(arena.part(1).unwrap().is_none(), "who knows the address holds it");
        drop((address, other));
        let part = arena.part(4096).unwrap().unwrap();
        let mut seen = [1; 100];
        part.view().copy_out(0, &mut seen).unwrap();
        assert_eq!(seen, [0; 100]);
        assert!(Arena::new(0).is_err());
    }
}
