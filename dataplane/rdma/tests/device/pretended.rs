//! Memory of a pretended GPU: the processor reaches it through copies alone, the card by an address
//! that the GPU names. On Soft-RoCE everything about payloads of a device is real but the device.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ferry_core::Placement;
use ferry_memory::{Backing, DeviceAddress, HeapBacking, MemoryError, Placer, Region};

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    /// It names the address of other memory.
    OtherMemory,
    /// It names an address where nothing is.
    Nowhere,
    /// What was written never becomes visible.
    NeverVisible,
    /// It has no memory left.
    Full,
}

/// Gives sessions memory of the pretended GPU.
#[derive(Debug)]
pub(crate) struct Pretender {
    pub(crate) flaw: Flaw,
    /// How often what a card wrote was made visible.
    pub(crate) flushes: Arc<AtomicU64>,
    /// How many bytes each allocation had.
    pub(crate) allocated: std::sync::Mutex<Vec<usize>>,
}

impl Pretender {
    pub(crate) fn new(flaw: Flaw) -> Arc<Pretender> {
        let (flushes, allocated) = (Arc::default(), std::sync::Mutex::default());
        Arc::new(Pretender { flaw, flushes, allocated })
    }
}

impl Placer for Pretender {
    fn on_device(&self) -> bool {
        true
    }

    fn allocate(&self, bytes: usize) -> Result<Region, MemoryError> {
        if self.flaw == Flaw::Full {
            return Err(MemoryError::Layout { what: "the pretended GPU is full".into() });
        }
        self.allocated.lock().unwrap().push(bytes);
        // A dma-buf for drivers that take none: they never look at it. One that does refuses it,
        // as it is a file, and the address is used.
        let file = rustix::fs::memfd_create("ferry-test", rustix::fs::MemfdFlags::CLOEXEC);
        Ok(Region::whole(Pretended {
            memory: HeapBacking::new(bytes)?,
            other: HeapBacking::new(bytes)?,
            dma_buf: file.unwrap(),
            flaw: self.flaw,
            flushes: Arc::clone(&self.flushes),
        }))
    }

    fn register(&self, memory: Region) -> Result<Region, MemoryError> {
        Ok(memory)
    }
}

/// A pretended GPU that is told of memory of the host, and has none of its own.
#[derive(Debug, Default)]
pub(crate) struct Told(pub(crate) AtomicU64);

impl Placer for Told {
    fn on_device(&self) -> bool {
        false
    }

    fn allocate(&self, bytes: usize) -> Result<Region, MemoryError> {
        Err(MemoryError::Layout { what: format!("{bytes} bytes of none") })
    }

    fn register(&self, memory: Region) -> Result<Region, MemoryError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(memory)
    }
}

#[derive(Debug)]
struct Pretended {
    memory: HeapBacking,
    other: HeapBacking,
    dma_buf: OwnedFd,
    flaw: Flaw,
    flushes: Arc<AtomicU64>,
}

// SAFETY: there is no address that a CPU is given.
unsafe impl Backing for Pretended {
    fn placement(&self) -> Placement {
        Placement::Cuda(7)
    }

    fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    fn host(&self) -> Option<NonNull<u8>> {
        None
    }

    fn device(&self) -> Option<DeviceAddress> {
        let of = |memory: &HeapBacking| memory.host().map(|base| base.as_ptr() as u64);
        let address = match self.flaw {
            Flaw::OtherMemory => of(&self.other)?,
            Flaw::Nowhere => 0x1000,
            _ => of(&self.memory)?,
        };
        Some(DeviceAddress { ordinal: 7, address })
    }

    unsafe fn copy_in(&self, at: usize, from: &[u8]) -> Result<(), MemoryError> {
        // SAFETY: the caller's argument.
        unsafe { self.memory.copy_in(at, from) }
    }

    unsafe fn copy_out(&self, at: usize, into: &mut [u8]) -> Result<(), MemoryError> {
        // SAFETY: the caller's argument.
        unsafe { self.memory.copy_out(at, into) }
    }

    fn make_visible(&self) -> Result<(), MemoryError> {
        let before = self.flushes.fetch_add(1, Ordering::Relaxed);
        // The check at the start passes.
        if self.flaw == Flaw::NeverVisible && before >= 2 {
            let source = std::io::Error::other("the pretended GPU is gone");
            return Err(MemoryError::Os { what: "flush".into(), source });
        }
        Ok(())
    }

    fn dma_buf(&self) -> Option<BorrowedFd<'_>> {
        Some(self.dma_buf.as_fd())
    }
}
