//! The end that opens.

use std::sync::Arc;

use cudarc::driver::sys;
use ferry_core::IpcHandle;

use super::Open;
use super::range::{CopyError, address_range, is_device_memory};
use crate::driver::device::Device;
use crate::driver::error::{CudaError, check};
use crate::driver::stream::{Priority, Stream};

/// Why memory of another process could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// CUDA opens no memory in the process that exported it.
    #[error(
        "the CUDA IPC handle is of this very process: use the transport local within one process"
    )]
    Own,
    /// Two sessions were told the same memory, or the memory of one that ended is still held.
    #[error(
        "the CUDA IPC handle is open in this process already: a session has memory of its own, so \
         drop what is left of an earlier one, and open a new session"
    )]
    Twice,
    /// There is no memory behind it.
    #[error(
        "no memory behind the CUDA IPC handle (its process has ended or has freed it, it runs in \
         another container, or these bytes are no handle): open a new session, or ask for shm"
    )]
    Gone(#[source] CudaError),
    /// Less memory than was described.
    #[error(
        "{bytes} bytes of device memory were mapped, described are {wanted}: open a new session"
    )]
    Short {
        /// How many there are.
        bytes: u64,
        /// How many there should be.
        wanted: u64,
    },
    /// The driver refused.
    #[error(transparent)]
    Refused(#[from] CudaError),
}

/// Memory of another process, open here. Its copies run on a stream of its own, and leave the
/// calling thread's context as it was: the thread is an application's.
#[derive(Debug)]
pub struct ImportedBuffer {
    stream: Stream,
    _handle: Open,
    /// What was opened.
    base: u64,
    address: u64,
    bytes: usize,
}

impl ImportedBuffer {
    /// Opens `bytes` bytes from `offset` on of the allocation that the handle names.
    ///
    /// # Errors
    /// [`ImportError`].
    pub fn open(
        device: &Arc<Device>,
        handle: IpcHandle,
        offset: u64,
        bytes: usize,
    ) -> Result<ImportedBuffer, ImportError> {
        let handle = Open::new(handle)?;
        let _entered = device.enter()?;
        let stream = Stream::new(device, Priority::Normal)?;
        let raw = sys::CUipcMemHandle { reserved: handle.0.0.map(u8::cast_signed) };
        let lazy = sys::CUipcMem_flags::CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS as u32;
        let mut base = 0;
        // SAFETY: a place of ours and a handle by value; closed in `drop`.
        let opened = unsafe { sys::cuIpcOpenMemHandle_v2(&raw mut base, raw, lazy) };
        check("cuIpcOpenMemHandle", opened).map_err(why_not_open)?;
        // From here on its drop closes it.
        let mut imported = ImportedBuffer { stream, _handle: handle, base, address: base, bytes };
        let (start, mapped) = address_range(base)?;
        let end = u64::try_from(mapped).ok().and_then(|mapped| start.checked_add(mapped));
        let room = end.and_then(|end| end.checked_sub(base)).unwrap_or(0);
        let wanted = u64::try_from(bytes).ok().and_then(|bytes| offset.checked_add(bytes));
        match wanted {
            Some(wanted) if wanted <= room => imported.address = base + offset,
            wanted => {
                let wanted = wanted.unwrap_or(u64::MAX);
                return Err(ImportError::Short { bytes: room, wanted });
            }
        }
        Ok(imported)
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        self.stream.device()
    }

    /// The address of the first byte, as the device sees it in this process.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies from the host and waits until it is there.
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Panics
    /// If the range does not lie inside.
    pub fn write(&self, at: usize, from: &[u8]) -> Result<(), CudaError> {
        // SAFETY: `from` is a borrow, as long as said, until the copy is over.
        unsafe { self.copy(at, from.len(), |inside| (inside, from.as_ptr() as u64)) }
    }

    /// Copies to the host and waits until it is there.
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Panics
    /// If the range does not lie inside.
    pub fn read(&self, at: usize, into: &mut [u8]) -> Result<(), CudaError> {
        // SAFETY: as in `write`, and nobody else uses `into`.
        unsafe { self.copy(at, into.len(), |inside| (into.as_mut_ptr() as u64, inside)) }
    }

    /// Copies from device memory of this process and waits until it is there. What writes that
    /// memory must be over: this does not wait for streams of others.
    ///
    /// # Errors
    /// [`CopyError`] if it is not device memory of one allocation; what the driver says.
    ///
    /// # Panics
    /// If the range written does not lie inside.
    pub fn write_from_device(&self, at: usize, from: u64, bytes: usize) -> Result<(), CopyError> {
        if bytes == 0 {
            return Ok(());
        }
        let entered = self.device().enter()?;
        is_device_memory(from, bytes)?;
        drop(entered);
        // SAFETY: device memory, as long as said: nothing of this process borrows it as a slice.
        // Should another thread free it meanwhile, the driver or the device ends the copy.
        Ok(unsafe { self.copy(at, bytes, |inside| (inside, from)) }?)
    }

    /// One copy between `bytes` bytes at `at` and elsewhere; waits until it is over.
    ///
    /// # Safety
    /// `ends` gives the target and the source of the copy, one of which is the address that it was
    /// given; the other one has room for as many bytes, and nobody else uses it.
    unsafe fn copy(
        &self,
        at: usize,
        bytes: usize,
        ends: impl FnOnce(u64) -> (u64, u64),
    ) -> Result<(), CudaError> {
        assert!(at.checked_add(bytes).is_some_and(|end| end <= self.bytes), "inside");
        if bytes == 0 {
            return Ok(());
        }
        let _entered = self.device().enter()?;
        let (to, from) = ends(self.address + at as u64);
        // SAFETY: the range inside was checked above and is open for as long as `self` lives; the
        // other one is the caller's argument. Both outlive the copy, which is waited for even
        // where it failed to start: then nothing runs.
        unsafe { self.stream.copy(to, from, bytes) }?;
        self.stream.synchronize()
    }
}

impl Drop for ImportedBuffer {
    fn drop(&mut self) {
        let Ok(_entered) = self.device().enter() else { return };
        // SAFETY: opened once, closed once; every copy was waited for.
        let closed = unsafe { sys::cuIpcCloseMemHandle(self.base) };
        if let Err(error) = check("cuIpcCloseMemHandle", closed) {
            let device = self.device().ordinal();
            tracing::warn!(device, bytes = self.bytes, %error, "the server's memory is not closed");
        }
    }
}

/// What a refusal of the driver's to open a handle means: the driver has many numbers for memory
/// that is not there, and few for anything else.
fn why_not_open(error: CudaError) -> ImportError {
    use sys::CUresult as R;
    let others = [
        R::CUDA_ERROR_NOT_SUPPORTED,
        R::CUDA_ERROR_NOT_PERMITTED,
        R::CUDA_ERROR_PEER_ACCESS_UNSUPPORTED,
        R::CUDA_ERROR_TOO_MANY_PEERS,
    ];
    let is_other = others.iter().any(|it| *it as u32 == error.code);
    if is_other || error.is_out_of_memory() || error.is_fatal() {
        return ImportError::Refused(error);
    }
    ImportError::Gone(error)
}
