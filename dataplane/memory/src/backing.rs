//! What a placement must supply for its bytes to be used.

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use ferry_core::{Placement, RegionDescriptor};

use crate::copy;

/// Why memory could not be made, reached or copied.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// An access outside the region.
    #[error("bytes {at}..{at}+{len} lie outside a region of {bytes} bytes")]
    OutOfRange {
        /// First byte asked for.
        at: usize,
        /// Bytes asked for.
        len: usize,
        /// Bytes there are.
        bytes: usize,
    },
    /// A slot layout with no slots, too many, an empty half, or a length over this machine's.
    #[error("{what}")]
    Layout {
        /// What is wrong with it, and what is allowed.
        what: String,
    },
    /// The operating system refused.
    #[error("{what}")]
    Os {
        /// The operation, with its sizes.
        what: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Memory that was lent for reading.
    #[error("this memory was lent for reading only: copy it before you change it")]
    ReadOnly,
    /// A CPU cannot copy it.
    #[error("memory of {0} cannot be copied by the processor")]
    NotOfHost(Placement),
    /// A descriptor handed over by a peer is not what was agreed.
    #[error("memory handed over by the peer is not usable: {what}")]
    Foreign {
        /// The difference.
        what: String,
    },
}

/// Where a CUDA device finds a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceAddress {
    /// The device's number.
    pub ordinal: u32,
    /// The address, as that device's kernels and copies use it.
    pub address: u64,
}

/// What a placement must supply for its bytes to be used by links and engines.
///
/// Constructors are never on the trait: each placement has its own. A backing is handed over to a
/// [`Region`](crate::Region), which is the only way to its bytes from then on.
///
/// # Safety
/// Where [`host`](Backing::host) returns a pointer, `bytes()` bytes behind it must stay mapped and
/// readable, and must not move, for as long as the value lives; both must return the same at every
/// call. They must be writable too where [`is_writable`](Backing::is_writable) says so. No safe code
/// of this process reaches them but through this value.
pub unsafe trait Backing: Send + Sync + std::fmt::Debug {
    /// Where the bytes live.
    fn placement(&self) -> Placement;

    /// How many bytes there are.
    fn bytes(&self) -> usize;

    /// The first byte, where a CPU can address it.
    fn host(&self) -> Option<NonNull<u8>>;

    /// The first byte, where a CUDA device can address it: its own memory, or host memory that is
    /// registered with it. The same at every call, and valid for as long as the value lives.
    fn device(&self) -> Option<DeviceAddress> {
        None
    }

    /// Whether the bytes may be written; the same at every call.
    fn is_writable(&self) -> bool {
        true
    }

    /// Copies `from` to the bytes at `at`. What is not memory of the host brings its own.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`], [`MemoryError::ReadOnly`] at every call where the bytes may not
    /// be written, or what the device says.
    ///
    /// # Safety
    /// No code of this process reads or writes these bytes meanwhile, and none of them is borrowed.
    unsafe fn copy_in(&self, at: usize, from: &[u8]) -> Result<(), MemoryError> {
        if !self.is_writable() {
            return Err(MemoryError::ReadOnly);
        }
        let base = self.host().ok_or(MemoryError::NotOfHost(self.placement()))?;
        // SAFETY: the contract of the trait, and the caller's argument.
        unsafe { copy::into_host(base, self.bytes(), at, from) }
    }

    /// Copies bytes from `at` out. What is not memory of the host brings its own.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`], or what the device says.
    ///
    /// # Safety
    /// No code of this process writes these bytes meanwhile.
    unsafe fn copy_out(&self, at: usize, into: &mut [u8]) -> Result<(), MemoryError> {
        let base = self.host().ok_or(MemoryError::NotOfHost(self.placement()))?;
        // SAFETY: the contract of the trait, and the caller's argument.
        unsafe { copy::out_of_host(base, self.bytes(), at, into) }
    }

    /// Makes what a peer wrote visible to whoever reads next. To be called after the doorbell and
    /// before the first read. Nothing is needed where the doorbell itself orders the writes, as it
    /// does for memory of the host.
    ///
    /// # Errors
    /// What the device says.
    fn make_visible(&self) -> Result<(), MemoryError> {
        Ok(())
    }

    /// How a peer reaches it; `None` if the memory cannot leave this process.
    fn describe(&self) -> Option<RegionDescriptor> {
        None
    }

    /// A dma-buf of it that begins with the first byte, by which a NIC's driver registers memory of
    /// another device. The same at every call.
    fn dma_buf(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
