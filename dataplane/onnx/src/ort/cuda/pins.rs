//! Pinned memory of the host for ONNX Runtime.
//!
//! The library's own is an arena. Without graphs it frees what a run used of it by a call that the
//! device makes of the host, and the last such call may take the whole arena with it: it then frees
//! pinned memory where the driver permits no call, throws in a destructor, and the process ends.
//! Memory that is no arena to the library is freed by the thread that ends a run or a session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ferry_cuda::{Device, PinnedBacking};
use ferry_memory::{HeapBacking, MemoryError, Region};

/// Blocks have at least so many bytes, a page, and a power of two: few sizes are asked for, so that
/// what is freed is asked for again.
const BLOCK_BYTES_MIN: usize = 4096;

/// What is freed is kept up to this many bytes: it takes the driver some 100 µs to register a block,
/// and what the library asks for here are tables and shapes of a few KiB.
const SPARE_BYTES_MAX: usize = 64 << 20;

/// A heap in pinned memory of the host.
#[derive(Debug)]
pub(super) struct Pins {
    device: Arc<Device>,
    blocks: Mutex<Blocks<Region>>,
}

/// Which blocks are given out. Plain bookkeeping, tested without a device.
#[derive(Debug)]
struct Blocks<R> {
    /// By address, with the length.
    used: HashMap<u64, (usize, R)>,
    /// By length.
    spare: HashMap<usize, Vec<(u64, R)>>,
    spare_bytes: usize,
    spare_bytes_max: usize,
    /// Freed, and kept for what was recorded with their addresses.
    kept: Vec<R>,
    keeps: bool,
}

impl Pins {
    pub(super) fn new(device: &Arc<Device>) -> Pins {
        Pins { device: Arc::clone(device), blocks: Mutex::new(Blocks::new(false)) }
    }

    /// Pinned memory that stays as it is until this value goes, freed or not: a graph that was
    /// recorded meanwhile copies from there each time that it runs.
    pub(super) fn of_recording(device: &Arc<Device>) -> Pins {
        Pins { device: Arc::clone(device), blocks: Mutex::new(Blocks::new(true)) }
    }

    /// Gives out at least `bytes` bytes; their address, which host and device share.
    pub(super) fn allocate(&self, bytes: usize) -> Result<u64, MemoryError> {
        let bytes = bytes.max(BLOCK_BYTES_MIN).checked_next_power_of_two();
        let too_long = || MemoryError::Layout { what: "pinned memory without end".to_owned() };
        let bytes = bytes.ok_or_else(too_long)?;
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(address) = blocks.take(bytes) {
            return Ok(address);
        }
        let heap = Region::whole(HeapBacking::new(bytes)?);
        let region = Region::whole(PinnedBacking::new(&self.device, heap)?);
        let base = region.view().host().ok_or_else(too_long)?.addr().get() as u64;
        blocks.give(base, bytes, region);
        Ok(base)
    }

    /// Takes a block back; false if it is not one that was given out.
    pub(super) fn free(&self, address: u64) -> bool {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let freed = blocks.free(address);
        drop(blocks);
        // What goes is unregistered here.
        freed.is_some()
    }
}

impl<R> Blocks<R> {
    fn new(keeps: bool) -> Blocks<R> {
        Blocks {
            used: HashMap::new(),
            spare: HashMap::new(),
            spare_bytes: 0,
            spare_bytes_max: SPARE_BYTES_MAX,
            kept: Vec::new(),
            keeps,
        }
    }

    /// A spare block of this length.
    fn take(&mut self, bytes: usize) -> Option<u64> {
        let (address, region) = self.spare.get_mut(&bytes)?.pop()?;
        self.spare_bytes -= bytes;
        self.give(address, bytes, region);
        Some(address)
    }

    fn give(&mut self, address: u64, bytes: usize, region: R) {
        self.used.insert(address, (bytes, region));
    }

    /// `None` if it was not given out; with the block, if there is no room for it among the spare
    /// ones.
    fn free(&mut self, address: u64) -> Option<Option<R>> {
        let (bytes, region) = self.used.remove(&address)?;
        if self.keeps {
            self.kept.push(region);
        } else if self.spare_bytes + bytes <= self.spare_bytes_max {
            self.spare_bytes += bytes;
            self.spare.entry(bytes).or_default().push((address, region));
        } else {
            return Some(Some(region));
        }
        Some(None)
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn freed_blocks_are_given_out_again_up_to_a_bound() {
        let mut blocks = Blocks { spare_bytes_max: 8192, ..Blocks::new(false) };
        for address in [1, 2, 3] {
            blocks.give(address, 4096, ());
        }
        assert_eq!(blocks.take(4096), None);
        assert_eq!((blocks.free(1), blocks.free(2)), (Some(None), Some(None)));
        assert_eq!(blocks.free(3), Some(Some(())), "no room for a third");
        assert_eq!(blocks.free(3), None, "not given out");
        assert_eq!(blocks.take(8192), None, "of another length");
        assert_eq!(
            (blocks.take(4096), blocks.take(4096), blocks.take(4096)),
            (Some(2), Some(1), None)
        );
    }

    #[test]
    fn what_was_recorded_keeps_what_is_freed() {
        let mut blocks = Blocks::new(true);
        let memory = Rc::new(());
        blocks.give(1, 4096, Rc::clone(&memory));
        assert!(matches!(blocks.free(1), Some(None)));
        assert_eq!(blocks.take(4096), None, "it is in use by a graph");
        assert_eq!(Rc::strong_count(&memory), 2);
        drop(blocks);
        assert_eq!(Rc::strong_count(&memory), 1);
    }
}
