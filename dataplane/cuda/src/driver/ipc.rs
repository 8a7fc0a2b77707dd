//! Device memory that two processes of one host use.

mod import;
mod range;

use std::collections::HashSet;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys;
use ferry_core::{DeviceUuid, IpcHandle};

use super::device::Device;
use super::error::{CudaError, check};
use super::memory::DeviceBuffer;
pub use import::{ImportError, ImportedBuffer};
pub use range::CopyError;

/// The driver hands out memory in blocks of 2 MiB, and opening an allocation exposes its whole
/// blocks: an exported allocation fills its blocks, so that nothing else lies in them.
pub const BLOCK_BYTES: usize = 2 << 20;

/// Handles that are in use in this process.
type Handles = LazyLock<Mutex<HashSet<IpcHandle>>>;

/// Of memory that this process exports.
static EXPORTED: Handles = LazyLock::new(Mutex::default);
/// Of memory that this process has open.
static IMPORTED: Handles = LazyLock::new(Mutex::default);

fn lock(handles: &Handles) -> MutexGuard<'_, HashSet<IpcHandle>> {
    handles.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an exported allocation of so many bytes takes; `None` if that is more than there can be.
pub fn exported_bytes(bytes: usize) -> Option<usize> {
    bytes.max(1).checked_next_multiple_of(BLOCK_BYTES)
}

/// An allocation that another process can open. It is freed when this is dropped: a process that
/// still has it open keeps a mapping that nobody else uses.
#[derive(Debug)]
pub struct ExportedBuffer {
    handle: IpcHandle,
    device: DeviceUuid,
    buffer: DeviceBuffer,
}

impl ExportedBuffer {
    /// Allocates at least `bytes` cleared bytes, and their handle.
    ///
    /// # Errors
    /// What the driver says: most often that there is no memory left, or, as not supported, that
    /// it exports none.
    pub fn new(device: &Arc<Device>, bytes: usize) -> Result<ExportedBuffer, CudaError> {
        let buffer = DeviceBuffer::zeroed(device, exported_bytes(bytes).unwrap_or(usize::MAX))?;
        let uuid = device.uuid()?;
        let mut raw = sys::CUipcMemHandle { reserved: [0; IpcHandle::BYTES] };
        device.bind()?;
        // SAFETY: a place of ours, and the start of an allocation that is alive.
        let got = unsafe { sys::cuIpcGetMemHandle(&raw mut raw, buffer.address()) };
        check("cuIpcGetMemHandle", got)?;
        let handle = IpcHandle(raw.reserved.map(std::ffi::c_char::cast_unsigned));
        lock(&EXPORTED).insert(handle);
        Ok(ExportedBuffer { handle, device: uuid, buffer })
    }

    /// What another process opens it by.
    pub fn handle(&self) -> IpcHandle {
        self.handle
    }

    /// The device, as every process knows it.
    pub fn uuid(&self) -> DeviceUuid {
        self.device
    }

    /// The memory.
    pub fn buffer(&self) -> &DeviceBuffer {
        &self.buffer
    }
}

impl Drop for ExportedBuffer {
    fn drop(&mut self) {
        lock(&EXPORTED).remove(&self.handle);
    }
}

/// A handle's place among those that are open.
#[derive(Debug)]
struct Open(IpcHandle);

impl Open {
    fn new(handle: IpcHandle) -> Result<Open, ImportError> {
        if lock(&EXPORTED).contains(&handle) {
            return Err(ImportError::Own);
        }
        if !lock(&IMPORTED).insert(handle) {
            return Err(ImportError::Twice);
        }
        Ok(Open(handle))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        lock(&IMPORTED).remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_fill_their_blocks() {
        assert_eq!(exported_bytes(0), Some(BLOCK_BYTES));
        assert_eq!(exported_bytes(1), Some(BLOCK_BYTES));
        assert_eq!(exported_bytes(BLOCK_BYTES), Some(BLOCK_BYTES));
        assert_eq!(exported_bytes(BLOCK_BYTES + 1), Some(2 * BLOCK_BYTES));
        assert_eq!(exported_bytes(usize::MAX), None);
    }

    #[test]
    fn a_handle_is_open_once_and_never_where_it_was_exported() {
        let handle = IpcHandle([0x5A; IpcHandle::BYTES]);
        let open = Open::new(handle).unwrap();
        assert_eq!(Open::new(handle).unwrap_err(), ImportError::Twice);
        drop(open);
        let again = Open::new(handle).unwrap();
        let other = IpcHandle([0xA5; IpcHandle::BYTES]);
        lock(&EXPORTED).insert(other);
        assert_eq!(Open::new(other).unwrap_err(), ImportError::Own);
        lock(&EXPORTED).remove(&other);
        assert!(Open::new(other).is_ok());
        drop(again);
    }
}
