//! Streams and events.

use std::sync::Arc;

use cudarc::driver::sys;

use super::device::Device;
use super::error::{CudaError, check, not_freed};

/// How urgent a stream's work is: the device's block scheduler prefers `High`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    /// The least urgent.
    #[default]
    Normal,
    /// The most urgent that the device has.
    High,
}

impl Priority {
    /// The driver's number for it.
    pub(crate) fn number(self, device: &Device) -> Result<i32, CudaError> {
        let (least, greatest) = device.priorities()?;
        Ok(match self {
            Priority::Normal => least,
            Priority::High => greatest,
        })
    }
}

/// An order of work on a device. It does not wait for the default stream.
#[derive(Debug)]
pub struct Stream {
    device: Arc<Device>,
    raw: Handle<sys::CUstream>,
    priority: Priority,
}

/// A handle of the driver's: never followed here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handle<T>(pub(crate) T);

/// What the driver's calls take from any thread.
///
/// # Safety
/// The driver documents its calls on such a handle as thread-safe.
pub(crate) unsafe trait AnyThread {}

// SAFETY: the driver's calls are thread-safe, and none of these is followed by the processor.
unsafe impl AnyThread for sys::CUstream {}
// SAFETY: as above.
unsafe impl AnyThread for sys::CUevent {}
// SAFETY: as above.
unsafe impl AnyThread for sys::CUgraphExec {}
// SAFETY: as above.
unsafe impl AnyThread for sys::CUmodule {}
// SAFETY: as above.
unsafe impl AnyThread for sys::CUfunction {}

// SAFETY: the contract of `AnyThread`.
unsafe impl<T: AnyThread> Send for Handle<T> {}
// SAFETY: as above.
unsafe impl<T: AnyThread> Sync for Handle<T> {}

impl Stream {
    /// Makes a stream.
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(device: &Arc<Device>, priority: Priority) -> Result<Stream, CudaError> {
        let number = priority.number(device)?;
        let mut raw = std::ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: a place of ours; destroyed in `drop`.
        let made = unsafe { sys::cuStreamCreateWithPriority(&raw mut raw, flags, number) };
        check("cuStreamCreateWithPriority", made)?;
        Ok(Stream { device: Arc::clone(device), raw: Handle(raw), priority })
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// How urgent its work is.
    pub fn priority(&self) -> Priority {
        self.priority
    }

    /// The driver's handle, for libraries that are told to use this stream.
    pub fn raw(&self) -> sys::CUstream {
        self.raw.0
    }

    /// Waits until all work is done.
    ///
    /// # Errors
    /// What the driver says, of any work on the stream too.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.device.bind()?;
        // SAFETY: the stream is ours and alive.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.raw.0) })
    }

    /// Adds a copy of `bytes` bytes. Addresses are unified: each may be of the host or a device.
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Safety
    /// Both ranges are mapped until the work is done, `to` may be written, and nobody in this
    /// process borrows either as a slice meanwhile.
    pub unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), CudaError> {
        if bytes == 0 {
            return Ok(());
        }
        self.device.bind()?;
        // SAFETY: the caller's argument.
        check("cuMemcpyAsync", unsafe { sys::cuMemcpyAsync(to, from, bytes, self.raw.0) })
    }

    /// Adds a fill of `bytes` bytes of the device's memory with `byte`.
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Safety
    /// The range is mapped until the work is done and may be written, and nobody in this process
    /// borrows it meanwhile.
    pub unsafe fn fill(&self, to: u64, byte: u8, bytes: usize) -> Result<(), CudaError> {
        if bytes == 0 {
            return Ok(());
        }
        self.device.bind()?;
        // SAFETY: the caller's argument.
        check("cuMemsetD8Async", unsafe { sys::cuMemsetD8Async(to, byte, bytes, self.raw.0) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.device.bind().is_err() {
            return;
        }
        // SAFETY: ours, destroyed once; the driver finishes what is on it.
        let destroyed = unsafe { sys::cuStreamDestroy_v2(self.raw.0) };
        if let Err(error) = check("cuStreamDestroy", destroyed) {
            not_freed(&error, "stream");
        }
    }
}

/// A point on a stream, with the time at which the device passed it.
#[derive(Debug)]
pub struct Event {
    device: Arc<Device>,
    raw: Handle<sys::CUevent>,
}

impl Event {
    /// Makes an event.
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(device: &Arc<Device>) -> Result<Event, CudaError> {
        device.bind()?;
        let mut raw = std::ptr::null_mut();
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT as u32;
        // SAFETY: a place of ours; destroyed in `drop`.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&raw mut raw, flags) })?;
        Ok(Event { device: Arc::clone(device), raw: Handle(raw) })
    }

    /// Puts it behind what is on the stream now.
    ///
    /// # Errors
    /// What the driver says.
    pub fn record(&self, stream: &Stream) -> Result<(), CudaError> {
        self.device.bind()?;
        // SAFETY: both are alive.
        check("cuEventRecord", unsafe { sys::cuEventRecord(self.raw.0, stream.raw.0) })
    }

    /// Whether the device passed it. Never waits.
    ///
    /// # Errors
    /// What the driver says, of any work before it too.
    pub fn is_done(&self) -> Result<bool, CudaError> {
        self.device.bind()?;
        // SAFETY: alive.
        match unsafe { sys::cuEventQuery(self.raw.0) } {
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            result => check("cuEventQuery", result).map(|()| true),
        }
    }

    /// Nanoseconds from `start` to this; both must have been passed. The device's clock ticks
    /// every 0.5 µs or so.
    ///
    /// # Errors
    /// What the driver says.
    pub fn ns_since(&self, start: &Event) -> Result<u64, CudaError> {
        self.device.bind()?;
        let mut ms = 0.0_f32;
        // SAFETY: both are alive, a place of ours.
        let got = unsafe { sys::cuEventElapsedTime_v2(&raw mut ms, start.raw.0, self.raw.0) };
        check("cuEventElapsedTime", got)?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates, and a duration is not negative"
        )]
        Ok((f64::from(ms) * 1e6).round() as u64)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.device.bind().is_err() {
            return;
        }
        // SAFETY: ours, destroyed once.
        let destroyed = unsafe { sys::cuEventDestroy_v2(self.raw.0) };
        if let Err(error) = check("cuEventDestroy", destroyed) {
            not_freed(&error, "event");
        }
    }
}
