//! Host memory of this process alone.

use std::ptr::NonNull;

use ferry_core::Placement;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::backing::{Backing, MemoryError};

/// Page-aligned, zeroed memory that no other process sees. Pages cost nothing until touched.
#[derive(Debug)]
pub struct HeapBacking {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping belongs to this value alone and is reached only through copies and through
// borrows that `Slot` hands out to one holder at a time.
unsafe impl Send for HeapBacking {}
// SAFETY: as above; concurrent copies race on plain bytes only, never on Rust values.
unsafe impl Sync for HeapBacking {}

impl HeapBacking {
    /// Maps `bytes` bytes.
    ///
    /// # Errors
    /// [`MemoryError::Os`] if the system has no such room, [`MemoryError::Layout`] for 0 bytes.
    pub fn new(bytes: usize) -> Result<HeapBacking, MemoryError> {
        if bytes == 0 {
            return Err(MemoryError::Layout { what: "a region needs at least 1 byte".into() });
        }
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing.
        let base = unsafe {
            mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, flags)
        };
        let base = base.map_err(|errno| MemoryError::Os {
            what: format!("map {bytes} bytes"),
            source: errno.into(),
        })?;
        let base = NonNull::new(base.cast::<u8>()).ok_or_else(|| MemoryError::Os {
            what: format!("map {bytes} bytes"),
            source: std::io::ErrorKind::AddrNotAvailable.into(),
        })?;
        Ok(HeapBacking { base, bytes })
    }

    /// The first byte.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }
}

impl Drop for HeapBacking {
    fn drop(&mut self) {
        // SAFETY: the range was mapped in `new`, belongs to this value, and nobody can hold a
        // pointer into it: views and slots keep the backing alive.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "unmapping one's own range cannot fail");
    }
}

// SAFETY: one mapping of `bytes` bytes, unmapped only in `Drop`.
unsafe impl Backing for HeapBacking {
    fn placement(&self) -> Placement {
        Placement::Host
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn host(&self) -> Option<NonNull<u8>> {
        Some(self.base)
    }
}
