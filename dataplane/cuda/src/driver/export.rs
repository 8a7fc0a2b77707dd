//! Device memory as a dma-buf, by which the driver of another device finds it.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use cudarc::driver::sys;

use super::error::{CudaError, check};
use super::memory::DeviceBuffer;

/// What a range that is exported must be a multiple of, start and length: the driver asks for pages
/// of the host, and a GPU is mapped for its peers in pages of 64 KiB.
pub const EXPORT_ALIGN_BYTES: usize = 64 << 10;

/// Nothing special: on a machine whose GPU hangs on PCIe alone this is PCIe. The flag
/// `CU_MEM_RANGE_FLAG_DMA_BUF_MAPPING_TYPE_PCIE` would keep writes off a coherent link (Grace): it
/// needs CUDA 12.8, a device with a PCIe mapping of its memory (BAR 1) beside that link, and a NIC
/// driver that registers for it (mlx5, `DATA_DIRECT`); elsewhere the driver refuses it.
const FLAGS: u64 = 0;

impl DeviceBuffer {
    /// A dma-buf of a part of the memory. Closing it does not free the memory; the memory must
    /// outlive what was made of it.
    ///
    /// # Errors
    /// What the driver says: not supported (801) where the kernel module is not the open one or the
    /// kernel is older than 5.12.
    ///
    /// # Panics
    /// If the range does not lie inside, or is not a multiple of [`EXPORT_ALIGN_BYTES`].
    pub fn dma_buf(&self, at: usize, bytes: usize) -> Result<OwnedFd, CudaError> {
        assert!(at.checked_add(bytes).is_some_and(|end| end <= self.bytes()), "inside");
        let address = self.address() + at as u64;
        let is_whole = (address | bytes as u64).is_multiple_of(EXPORT_ALIGN_BYTES as u64);
        assert!(is_whole && bytes > 0, "whole pages of the device");
        self.device().bind()?;
        let mut fd: RawFd = -1;
        // SAFETY: the handle of this type is an `int`, which `fd` is, and the range lies inside an
        // allocation of ours (checked above).
        let got = unsafe {
            sys::cuMemGetHandleForAddressRange(
                (&raw mut fd).cast(),
                address,
                bytes,
                sys::CUmemRangeHandleType::CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD,
                FLAGS,
            )
        };
        check("cuMemGetHandleForAddressRange", got)?;
        // SAFETY: the driver has opened it for us, and nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}
