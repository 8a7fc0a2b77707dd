//! Host memory of this process alone.

use std::ptr::NonNull;

use ferry_core::Placement;

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
        let base = pages::map(bytes)
            .map_err(|source| MemoryError::Os { what: format!("map {bytes} bytes"), source })?;
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
        unsafe { pages::unmap(self.base, self.bytes) };
    }
}

#[cfg(not(any(miri, asan)))]
mod pages {
    use std::io;
    use std::ptr::NonNull;

    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

    /// New zeroed pages.
    pub(super) fn map(bytes: usize) -> io::Result<NonNull<u8>> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        let flags = flags | MapFlags::NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, access, flags) }?;
        NonNull::new(base.cast()).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// # Safety
    /// What [`map`] gave, which nobody uses any more.
    pub(super) unsafe fn unmap(base: NonNull<u8>, bytes: usize) {
        // SAFETY: the caller's argument.
        let unmapped = unsafe { munmap(base.as_ptr().cast(), bytes) };
        debug_assert!(unmapped.is_ok(), "unmapping one's own range cannot fail");
    }
}

/// Miri maps no pages, and `check-memory` with AddressSanitizer wants none: both watch over what is
/// allocated.
#[cfg(any(miri, asan))]
mod pages {
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::io;
    use std::ptr::NonNull;

    fn layout(bytes: usize) -> io::Result<Layout> {
        Layout::from_size_align(bytes, 4096).map_err(io::Error::other)
    }

    /// New zeroed pages.
    pub(super) fn map(bytes: usize) -> io::Result<NonNull<u8>> {
        // SAFETY: no caller asks for 0 bytes.
        let base = unsafe { alloc_zeroed(layout(bytes)?) };
        NonNull::new(base).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// # Safety
    /// What [`map`] gave, which nobody uses any more.
    pub(super) unsafe fn unmap(base: NonNull<u8>, bytes: usize) {
        let Ok(layout) = layout(bytes) else { return };
        // SAFETY: the caller's argument.
        unsafe { dealloc(base.as_ptr(), layout) };
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
