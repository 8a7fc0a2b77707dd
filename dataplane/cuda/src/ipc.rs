//! Slots that lie in device memory of the server and are open in the client's process.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use ferry_core::{DeviceMemory, IpcHandle, Placement, RegionDescriptor};
use ferry_memory::{Backing, DeviceAddress, Importer, MemoryError, Placer, Region, check_range};

use crate::driver::device::Device;
use crate::driver::identity;
use crate::driver::ipc::{ExportedBuffer, ImportError, ImportedBuffer};

fn refused(
    what: impl Into<String>,
    error: impl std::error::Error + Send + Sync + 'static,
) -> MemoryError {
    MemoryError::Os { what: what.into(), source: std::io::Error::other(error) }
}

/// An error of what a peer described, with its causes in one line.
fn foreign(error: &dyn std::error::Error) -> MemoryError {
    let mut what = error.to_string();
    let mut cause = error.source();
    while let Some(why) = cause {
        what = format!("{what}: {why}");
        cause = why.source();
    }
    MemoryError::Foreign { what }
}

/// Device memory of one lease, which its client opens. Freed when it is dropped, and never given
/// to another lease.
#[derive(Debug)]
pub struct ExportedBacking {
    buffer: ExportedBuffer,
    bytes: usize,
}

impl ExportedBacking {
    /// Allocates, clears and exports it.
    ///
    /// # Errors
    /// [`MemoryError::Os`] with what the driver says and the sizes.
    pub fn new(device: &Arc<Device>, bytes: usize) -> Result<ExportedBacking, MemoryError> {
        let buffer = ExportedBuffer::new(device, bytes).map_err(|error| {
            let free = device.memory().map_or(0, |(free, _)| free);
            let ordinal = device.ordinal();
            let what = format!(
                "take and export {bytes} bytes of CUDA device {ordinal}, which has {free} free"
            );
            refused(what, error)
        })?;
        Ok(ExportedBacking { buffer, bytes })
    }

    /// The memory, with its handle.
    pub fn exported(&self) -> &ExportedBuffer {
        &self.buffer
    }
}

// SAFETY: there is no address that a CPU can use. The peer's copies are over before it rings, and
// both ends use one device: what it wrote is seen by work that starts from then on.
#[expect(unsafe_code, reason = "the trait's contract is about addresses")]
unsafe impl Backing for ExportedBacking {
    fn placement(&self) -> Placement {
        Placement::Cuda(self.buffer.buffer().device().ordinal())
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn host(&self) -> Option<NonNull<u8>> {
        None
    }

    fn device(&self) -> Option<DeviceAddress> {
        let buffer = self.buffer.buffer();
        Some(DeviceAddress { ordinal: buffer.device().ordinal(), address: buffer.address() })
    }

    unsafe fn copy_in(&self, at: usize, from: &[u8]) -> Result<(), MemoryError> {
        check_range(at, from.len(), self.bytes)?;
        let written = self.buffer.buffer().write(at, from);
        written.map_err(|error| refused("write device memory", error))
    }

    unsafe fn copy_out(&self, at: usize, into: &mut [u8]) -> Result<(), MemoryError> {
        check_range(at, into.len(), self.bytes)?;
        let read = self.buffer.buffer().read(at, into);
        read.map_err(|error| refused("read device memory", error))
    }

    fn describe(&self) -> Option<RegionDescriptor> {
        Some(RegionDescriptor::Device(DeviceMemory {
            handle: self.buffer.handle(),
            device: self.buffer.uuid(),
            offset: 0,
            bytes: u64::try_from(self.bytes).ok()?,
        }))
    }
}

/// Gives each lease device memory that its client opens.
#[derive(Clone, Debug)]
pub struct IpcPlacer {
    device: Arc<Device>,
}

impl IpcPlacer {
    /// Slots in memory of this device.
    pub fn new(device: &Arc<Device>) -> IpcPlacer {
        IpcPlacer { device: Arc::clone(device) }
    }
}

impl Placer for IpcPlacer {
    fn on_device(&self) -> bool {
        true
    }

    fn allocate(&self, bytes: usize) -> Result<Region, MemoryError> {
        Ok(Region::whole(ExportedBacking::new(&self.device, bytes)?))
    }

    fn register(&self, memory: Region) -> Result<Region, MemoryError> {
        let placement = memory.view().placement();
        let what = format!("memory of {placement} is not memory of the device");
        Err(MemoryError::Layout { what })
    }
}

/// Device memory of another process: a server's that is open at its client, or one that a client
/// registered with its server. Clones are the same mapping.
#[derive(Clone, Debug)]
pub struct ImportedBacking {
    buffer: Arc<ImportedBuffer>,
}

impl ImportedBacking {
    /// Opens what a server described.
    ///
    /// # Errors
    /// [`MemoryError::Foreign`] with the reason and what to do.
    pub fn open(described: &DeviceMemory) -> Result<ImportedBacking, MemoryError> {
        let ordinal = identity::find(described.device).map_err(|error| foreign(&error))?;
        let device = Device::open(ordinal).map_err(|error| foreign(&error))?;
        let bytes = usize::try_from(described.bytes).map_err(|error| foreign(&error))?;
        let opened = ImportedBuffer::open(&device, described.handle, described.offset, bytes);
        Ok(ImportedBacking { buffer: Arc::new(opened.map_err(|error| foreign(&error))?) })
    }

    /// Opens the first `bytes` bytes of the allocation on this device that a handle names.
    ///
    /// # Errors
    /// [`ImportError`].
    pub fn on(
        device: &Arc<Device>,
        handle: IpcHandle,
        bytes: usize,
    ) -> Result<ImportedBacking, ImportError> {
        let opened = ImportedBuffer::open(device, handle, 0, bytes)?;
        Ok(ImportedBacking { buffer: Arc::new(opened) })
    }

    /// Copies device memory of this process to `to`, which lies in this memory, and waits until
    /// it is there. What writes `from` must be over.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] if the target does not lie inside, [`MemoryError::Os`] if
    /// `from` is not device memory of one allocation, or with what the driver says.
    pub fn copy_from_device(
        &self,
        to: DeviceAddress,
        from: u64,
        bytes: usize,
    ) -> Result<(), MemoryError> {
        let at = to.address.wrapping_sub(self.buffer.address());
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        check_range(at, bytes, self.buffer.bytes())?;
        let copied = self.buffer.write_from_device(at, from, bytes);
        copied.map_err(|error| refused(format!("copy {bytes} bytes of device memory"), error))
    }
}

// SAFETY: there is no address that a CPU can use.
#[expect(unsafe_code, reason = "the trait's contract is about addresses")]
unsafe impl Backing for ImportedBacking {
    fn placement(&self) -> Placement {
        Placement::Cuda(self.buffer.device().ordinal())
    }

    fn bytes(&self) -> usize {
        self.buffer.bytes()
    }

    fn host(&self) -> Option<NonNull<u8>> {
        None
    }

    fn device(&self) -> Option<DeviceAddress> {
        let ordinal = self.buffer.device().ordinal();
        Some(DeviceAddress { ordinal, address: self.buffer.address() })
    }

    unsafe fn copy_in(&self, at: usize, from: &[u8]) -> Result<(), MemoryError> {
        check_range(at, from.len(), self.bytes())?;
        self.buffer.write(at, from).map_err(|error| refused("write the server's memory", error))
    }

    unsafe fn copy_out(&self, at: usize, into: &mut [u8]) -> Result<(), MemoryError> {
        check_range(at, into.len(), self.bytes())?;
        self.buffer.read(at, into).map_err(|error| refused("read the server's memory", error))
    }
}

/// Opens the slots of one session, and keeps them open for copies between devices.
#[derive(Debug, Default)]
pub struct CudaImporter {
    opened: Mutex<Option<Arc<ImportedBacking>>>,
}

impl CudaImporter {
    /// What was opened last.
    pub fn into_opened(self) -> Option<Arc<ImportedBacking>> {
        self.opened.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Importer for CudaImporter {
    fn open(&self, described: &DeviceMemory) -> Result<Region, MemoryError> {
        let opened = ImportedBacking::open(described)?;
        let kept = Some(Arc::new(opened.clone()));
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        Ok(Region::whole(opened))
    }
}

#[cfg(test)]
mod tests {
    use ferry_core::DeviceUuid;

    use super::*;

    #[test]
    fn a_device_that_is_not_seen_is_named_with_what_to_do() {
        let described = DeviceMemory {
            handle: IpcHandle([1; IpcHandle::BYTES]),
            device: DeviceUuid([0xEE; DeviceUuid::BYTES]),
            offset: 0,
            bytes: 4096,
        };
        let error = CudaImporter::default().open(&described).unwrap_err();
        let MemoryError::Foreign { what } = &error else { panic!("{error:?}") };
        // Without a driver that is the reason.
        let invisible = what.contains("GPU-eeeeeeee") && what.contains("CUDA_VISIBLE_DEVICES");
        assert!(invisible || what.contains("no CUDA"), "{what}");
    }
}
