//! Device memory, and registered host memory, as placements.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use ferry_core::{Placement, RegionDescriptor};
use ferry_memory::{Backing, DeviceAddress, MemoryError, Placer, Region, check_range};

use crate::driver::device::Device;
use crate::driver::error::CudaError;
use crate::driver::export::EXPORT_ALIGN_BYTES;
use crate::driver::memory::{DeviceBuffer, Registration};

/// What the driver said, as an error of memory.
fn device_error(what: &'static str, error: CudaError) -> MemoryError {
    MemoryError::Os { what: what.to_owned(), source: std::io::Error::other(error) }
}

/// Whether an allocation failed because this process can no longer use the device.
pub fn is_lost(error: &MemoryError) -> bool {
    let MemoryError::Os { source, .. } = error else { return false };
    let said = source.get_ref().and_then(|it| it.downcast_ref::<CudaError>());
    said.is_some_and(CudaError::is_fatal)
}

/// Memory of a device.
#[derive(Debug)]
pub struct DeviceBacking {
    /// First: closed before the memory is freed.
    dma_buf: Option<OwnedFd>,
    buffer: DeviceBuffer,
    /// Where in the buffer it begins.
    at: usize,
    bytes: usize,
}

impl DeviceBacking {
    /// Allocates and clears it.
    ///
    /// # Errors
    /// [`MemoryError::Os`] with what the driver says and the sizes.
    pub fn new(device: &Arc<Device>, bytes: usize) -> Result<DeviceBacking, MemoryError> {
        let buffer = allocate(device, bytes)?;
        Ok(DeviceBacking { dma_buf: None, buffer, at: 0, bytes })
    }

    /// As [`new`](DeviceBacking::new), for memory that a network card is to read and write: whole
    /// pages of the device that nothing else lies in, synchronous copies that wait
    /// ([`DeviceBuffer::sync_memops`]), and a dma-buf where the driver exports one. Where it does
    /// not, the card's driver can still find the memory by its address (nvidia-peermem).
    ///
    /// # Errors
    /// [`MemoryError::Os`] with what the driver says and the sizes.
    pub fn exported(device: &Arc<Device>, bytes: usize) -> Result<DeviceBacking, MemoryError> {
        let with_room = Self::exported_bytes(bytes).ok_or_else(|| MemoryError::Layout {
            what: format!("{bytes} bytes of device memory"),
        })?;
        let whole = with_room - EXPORT_ALIGN_BYTES;
        let buffer = allocate(device, with_room)?;
        let at = to_boundary(buffer.address());
        buffer.sync_memops().map_err(|error| device_error("set SYNC_MEMOPS", error))?;
        let dma_buf = match buffer.dma_buf(at, whole) {
            Ok(dma_buf) => Some(dma_buf),
            Err(error) => {
                tracing::info!(device = device.ordinal(), %error, "no dma-buf of device memory");
                None
            }
        };
        Ok(DeviceBacking { dma_buf, buffer, at, bytes })
    }

    /// How many bytes of the device [`exported`](DeviceBacking::exported) takes; `None` for more
    /// than can be addressed.
    pub fn exported_bytes(bytes: usize) -> Option<usize> {
        let whole = bytes.max(1).checked_next_multiple_of(EXPORT_ALIGN_BYTES)?;
        whole.checked_add(EXPORT_ALIGN_BYTES)
    }

    /// The allocation that the memory lies in: all of it, unless it is exported.
    pub fn buffer(&self) -> &DeviceBuffer {
        &self.buffer
    }
}

/// Bytes from an address to the next boundary that an exported range may begin at.
fn to_boundary(address: u64) -> usize {
    let align = EXPORT_ALIGN_BYTES as u64;
    usize::try_from(address.wrapping_neg() % align).unwrap_or(0)
}

fn allocate(device: &Arc<Device>, bytes: usize) -> Result<DeviceBuffer, MemoryError> {
    DeviceBuffer::zeroed(device, bytes).map_err(|error| {
        let free = device.memory().map_or(0, |(free, _)| free);
        let ordinal = device.ordinal();
        let what = format!("take {bytes} bytes of CUDA device {ordinal}, which has {free} free");
        MemoryError::Os { what, source: std::io::Error::other(error) }
    })
}

// SAFETY: there is no address that a CPU can use.
#[expect(unsafe_code, reason = "the trait's contract is about addresses")]
unsafe impl Backing for DeviceBacking {
    fn placement(&self) -> Placement {
        Placement::Cuda(self.buffer.device().ordinal())
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn host(&self) -> Option<NonNull<u8>> {
        None
    }

    fn device(&self) -> Option<DeviceAddress> {
        let ordinal = self.buffer.device().ordinal();
        Some(DeviceAddress { ordinal, address: self.buffer.address() + self.at as u64 })
    }

    unsafe fn copy_in(&self, at: usize, from: &[u8]) -> Result<(), MemoryError> {
        check_range(at, from.len(), self.bytes())?;
        self.buffer
            .write(self.at + at, from)
            .map_err(|error| device_error("write device memory", error))
    }

    unsafe fn copy_out(&self, at: usize, into: &mut [u8]) -> Result<(), MemoryError> {
        check_range(at, into.len(), self.bytes())?;
        self.buffer
            .read(self.at + at, into)
            .map_err(|error| device_error("read device memory", error))
    }

    fn make_visible(&self) -> Result<(), MemoryError> {
        let flushed = self.buffer.device().flush_gpudirect_writes();
        flushed.map_err(|error| device_error("make a peer's writes visible", error))
    }

    fn dma_buf(&self) -> Option<BorrowedFd<'_>> {
        self.dma_buf.as_ref().map(AsFd::as_fd)
    }
}

/// Host memory that is registered with a device: copies of it are DMA, and the device's kernels
/// can read and write it in place.
#[derive(Debug)]
pub struct PinnedBacking {
    /// First: it ends before the memory is unmapped.
    registration: Registration,
    memory: Region,
}

impl PinnedBacking {
    /// Registers host memory.
    ///
    /// # Errors
    /// [`MemoryError::Os`] with what the driver says, [`MemoryError::Layout`] if it is not memory
    /// of the host, [`MemoryError::ReadOnly`].
    #[expect(unsafe_code, reason = "the driver is given an address")]
    pub fn new(device: &Arc<Device>, memory: Region) -> Result<PinnedBacking, MemoryError> {
        let view = memory.view();
        view.check_writable()?;
        let base = view.host().ok_or_else(|| MemoryError::Layout {
            what: format!("memory of {} cannot be registered with a device", view.placement()),
        })?;
        let bytes = memory.bytes();
        // SAFETY: by the contract of `Backing` the bytes stay mapped for as long as the region lives,
        // and it is kept until the registration is dropped.
        let registration = unsafe { Registration::new(device, base, bytes) };
        let registration = registration.map_err(|error| {
            let what = format!("register {bytes} bytes with CUDA device {}", device.ordinal());
            MemoryError::Os { what, source: std::io::Error::other(error) }
        })?;
        Ok(PinnedBacking { registration, memory })
    }
}

// SAFETY: everything about host addresses is the region's, which keeps the contract and is reached
// through this value alone.
#[expect(unsafe_code, reason = "the trait's contract is about addresses")]
unsafe impl Backing for PinnedBacking {
    fn placement(&self) -> Placement {
        self.memory.view().placement()
    }

    fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    fn host(&self) -> Option<NonNull<u8>> {
        self.memory.view().host()
    }

    fn device(&self) -> Option<DeviceAddress> {
        let ordinal = self.registration.device().ordinal();
        Some(DeviceAddress { ordinal, address: self.registration.address() })
    }

    fn make_visible(&self) -> Result<(), MemoryError> {
        self.memory.view().make_visible()
    }

    fn describe(&self) -> Option<RegionDescriptor> {
        self.memory.describe()
    }
}

/// Gives a session's slots the device that runs its model.
#[derive(Clone, Debug)]
pub struct CudaPlacer {
    device: Arc<Device>,
    slots: Slots,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slots {
    OnDevice,
    Exported,
    Registered,
}

impl CudaPlacer {
    /// Slots in the device's own memory.
    pub fn on_device(device: &Arc<Device>) -> CudaPlacer {
        CudaPlacer { device: Arc::clone(device), slots: Slots::OnDevice }
    }

    /// Slots in the device's own memory that a network card can read and write.
    pub fn exported(device: &Arc<Device>) -> CudaPlacer {
        CudaPlacer { device: Arc::clone(device), slots: Slots::Exported }
    }

    /// Slots in memory of the host that is registered with the device.
    pub fn registered(device: &Arc<Device>) -> CudaPlacer {
        CudaPlacer { device: Arc::clone(device), slots: Slots::Registered }
    }
}

impl Placer for CudaPlacer {
    fn on_device(&self) -> bool {
        self.slots != Slots::Registered
    }

    fn allocate(&self, bytes: usize) -> Result<Region, MemoryError> {
        Ok(Region::whole(match self.slots {
            Slots::Exported => DeviceBacking::exported(&self.device, bytes)?,
            Slots::OnDevice | Slots::Registered => DeviceBacking::new(&self.device, bytes)?,
        }))
    }

    fn register(&self, memory: Region) -> Result<Region, MemoryError> {
        Ok(Region::whole(PinnedBacking::new(&self.device, memory)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exported_range_begins_at_a_boundary_within_the_room_that_was_taken() {
        for address in [0_u64, 1, 256, 65_535, 65_536, 0x7f12_3456_7800] {
            let at = to_boundary(address);
            assert!(at < EXPORT_ALIGN_BYTES, "{address:#x}");
            assert_eq!((address + at as u64) % EXPORT_ALIGN_BYTES as u64, 0, "{address:#x}");
        }
    }
}
