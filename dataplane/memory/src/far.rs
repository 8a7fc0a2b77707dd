//! Memory that is only reached by copies.

use std::ptr::NonNull;
use std::sync::Arc;

use ferry_core::{DeviceMemory, Placement, RegionDescriptor};

use crate::backing::{Backing, MemoryError};
use crate::heap::HeapBacking;

/// Memory of the host that nobody is told the address of, as that of a device: what links, slots
/// and engines do with such memory can be tried on a machine without one.
#[derive(Debug)]
pub struct FarBacking {
    memory: Arc<HeapBacking>,
    described: DeviceMemory,
}

impl FarBacking {
    /// The same memory, by this description.
    pub fn new(memory: Arc<HeapBacking>, described: DeviceMemory) -> FarBacking {
        FarBacking { memory, described }
    }
}

// SAFETY: there is no address that a CPU is told.
unsafe impl Backing for FarBacking {
    fn placement(&self) -> Placement {
        Placement::Cuda(0)
    }

    fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    fn host(&self) -> Option<NonNull<u8>> {
        None
    }

    unsafe fn copy_in(&self, at: usize, from: &[u8]) -> Result<(), MemoryError> {
        // SAFETY: the caller's argument.
        unsafe { self.memory.copy_in(at, from) }
    }

    unsafe fn copy_out(&self, at: usize, into: &mut [u8]) -> Result<(), MemoryError> {
        // SAFETY: the caller's argument.
        unsafe { self.memory.copy_out(at, into) }
    }

    fn describe(&self) -> Option<RegionDescriptor> {
        Some(RegionDescriptor::Device(self.described))
    }
}
