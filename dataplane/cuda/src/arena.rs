//! Device memory for a library that allocates and frees while it computes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::driver::device::Device;
use crate::driver::error::CudaError;
use crate::driver::memory::DeviceBuffer;

/// Blocks start at multiples of this, as `cuMemAlloc`'s do.
const ALIGN_BYTES: usize = 256;

/// The driver hands out memory in pieces of 2 MiB.
const CHUNK_BYTES: usize = 2 << 20;

/// More than any device has, which its driver says; asking for more would wrap where it is rounded.
const BYTES_MAX: usize = 1 << 62;

/// A heap in device memory that only grows. What is freed is given out again; what the arena
/// holds goes when it is dropped.
///
/// One arena is the workspace of one order of work: blocks are given out again as soon as they are
/// freed by the host, which is right only while all work that uses them runs on one stream.
#[derive(Debug)]
pub struct Arena {
    device: Arc<Device>,
    state: Mutex<State>,
}

/// What an arena holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArenaStats {
    /// Bytes taken from the device.
    pub held_bytes: usize,
    /// Bytes that are given out.
    pub used_bytes: usize,
    /// The most that was given out at once.
    pub peak_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    chunks: Vec<DeviceBuffer>,
    blocks: Blocks,
    stats: ArenaStats,
}

/// Which parts of the chunks are given out. Plain arithmetic, tested without a device.
#[derive(Debug, Default)]
struct Blocks {
    /// Address to length. Two that touch are one, unless a chunk begins between them.
    free: BTreeMap<u64, usize>,
    used: HashMap<u64, usize>,
    /// Where chunks begin.
    starts: Vec<u64>,
}

impl Arena {
    /// An arena that holds nothing yet.
    pub fn new(device: &Arc<Device>) -> Arena {
        Arena { device: Arc::clone(device), state: Mutex::default() }
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// What it holds.
    pub fn stats(&self) -> ArenaStats {
        self.state().stats
    }

    /// Gives out a block of at least `bytes` bytes; its address.
    ///
    /// # Errors
    /// What the driver says: most often that there is no memory left.
    pub fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        let bytes = bytes.clamp(1, BYTES_MAX).next_multiple_of(ALIGN_BYTES);
        let mut state = self.state();
        let address = match state.blocks.take(bytes) {
            Some(address) => address,
            None => {
                let chunk_bytes = bytes.next_multiple_of(CHUNK_BYTES);
                // Cleared: an earlier tenant's tensors may have been there.
                let chunk = DeviceBuffer::zeroed(&self.device, chunk_bytes)?;
                let address = state.blocks.grow(chunk.address(), chunk_bytes, bytes);
                state.stats.held_bytes += chunk_bytes;
                state.chunks.push(chunk);
                address
            }
        };
        state.stats.used_bytes += bytes;
        state.stats.peak_bytes = state.stats.peak_bytes.max(state.stats.used_bytes);
        Ok(address)
    }

    /// Takes a block back; false if it is not one that was given out.
    pub fn free(&self, address: u64) -> bool {
        let mut state = self.state();
        let Some(bytes) = state.blocks.give_back(address) else { return false };
        state.stats.used_bytes -= bytes;
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Blocks {
    /// The smallest free block that is long enough: its first `bytes`.
    fn take(&mut self, bytes: usize) -> Option<u64> {
        let fits = self.free.iter().filter(|(_, len)| **len >= bytes);
        let (&address, &len) = fits.min_by_key(|(_, len)| **len)?;
        self.free.remove(&address);
        if len > bytes {
            self.free.insert(address + bytes as u64, len - bytes);
        }
        self.used.insert(address, bytes);
        Some(address)
    }

    /// Adds a chunk and takes its first `bytes`.
    fn grow(&mut self, start: u64, chunk_bytes: usize, bytes: usize) -> u64 {
        self.starts.push(start);
        if chunk_bytes > bytes {
            self.free.insert(start + bytes as u64, chunk_bytes - bytes);
        }
        self.used.insert(start, bytes);
        start
    }

    fn give_back(&mut self, address: u64) -> Option<usize> {
        let bytes = self.used.remove(&address)?;
        let (mut start, mut len) = (address, bytes);
        let end = address + bytes as u64;
        if !self.starts.contains(&end)
            && let Some(next) = self.free.remove(&end)
        {
            len += next;
        }
        if !self.starts.contains(&address)
            && let Some((&before, &before_len)) = self.free.range(..address).next_back()
            && before + before_len as u64 == address
        {
            self.free.remove(&before);
            start = before;
            len += before_len;
        }
        self.free.insert(start, len);
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_never_overlap_and_join_again_when_freed() {
        let mut blocks = Blocks::default();
        let chunk = 1 << 20;
        let first = blocks.grow(0x1000, chunk, 256);
        // A second chunk right behind the first: blocks of the two are never joined.
        let second_start = 0x1000 + chunk as u64;
        let second = blocks.grow(second_start, chunk, 512);
        let mut taken = vec![(first, 256), (second, 512)];
        let mut seed = 1_u64;
        for _ in 0..2000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let random = usize::try_from(seed >> 33).unwrap();
            if random % 3 == 0 && !taken.is_empty() {
                let (address, bytes) = taken.swap_remove(random % taken.len());
                assert_eq!(blocks.give_back(address), Some(bytes));
            } else if let Some(address) = blocks.take((random % 64 + 1) * 256) {
                taken.push((address, (random % 64 + 1) * 256));
            }
            let mut ranges = taken.clone();
            ranges.extend(blocks.free.iter().map(|(&a, &len)| (a, len)));
            ranges.sort_unstable();
            for pair in ranges.windows(2) {
                assert!(pair[0].0 + pair[0].1 as u64 <= pair[1].0, "{pair:?}");
            }
            assert_eq!(ranges.iter().map(|(_, len)| len).sum::<usize>(), 2 * chunk);
        }
        for (address, _) in taken {
            blocks.give_back(address).unwrap();
        }
        let free: Vec<_> = blocks.free.iter().map(|(&a, &len)| (a, len)).collect();
        assert_eq!(free, [(0x1000, chunk), (second_start, chunk)]);
        assert_eq!(blocks.give_back(0x1000), None, "not given out");
    }
}
