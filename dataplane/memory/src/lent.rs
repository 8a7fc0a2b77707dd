//! Memory that somebody lent for reading.

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use bytes::Bytes;
use ferry_core::{Placement, RegionDescriptor};

use crate::backing::{Backing, MemoryError};
use crate::region::host_copy_out;

/// Bytes that arrived in a buffer of somebody else's, such as a payload inside a gRPC message:
/// read where they lie, never written.
#[derive(Debug)]
pub struct LentBacking {
    bytes: Bytes,
}

impl LentBacking {
    /// Lends `bytes` for as long as the value lives.
    pub fn new(bytes: Bytes) -> LentBacking {
        LentBacking { bytes }
    }

    /// The bytes, which nobody can change.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    fn base(&self) -> NonNull<u8> {
        NonNull::from(self.as_slice()).cast()
    }
}

// SAFETY: the buffer behind a `Bytes` neither moves nor changes while any handle to it lives, and
// this value keeps its own, which nothing replaces. It is readable for `bytes()` bytes. It is not
// writable, and `copy_in` says so, even of no bytes.
unsafe impl Backing for LentBacking {
    fn placement(&self) -> Placement {
        Placement::Host
    }

    fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn host(&self) -> Option<NonNull<u8>> {
        Some(self.base())
    }

    fn copy_in(&self, _at: usize, _from: &[u8]) -> Result<(), MemoryError> {
        Err(MemoryError::ReadOnly)
    }

    fn copy_out(&self, at: usize, into: &mut [u8]) -> Result<(), MemoryError> {
        // SAFETY: `base` is the start of `bytes.len()` readable bytes.
        unsafe { host_copy_out(self.base(), self.bytes.len(), at, into) }
    }

    fn make_visible(&self) -> Result<(), MemoryError> {
        Ok(())
    }

    fn describe(&self) -> Option<RegionDescriptor> {
        None
    }

    fn dma_buf(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
