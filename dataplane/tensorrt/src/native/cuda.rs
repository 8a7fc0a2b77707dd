//! The GPU of this machine, by `ferry-cuda`.

use std::ffi::c_void;
use std::sync::Arc;

use ferry_core::error_text;
use ferry_cuda::{
    CudaError, Device, DeviceBacking, Event, Missing, OpenError, PinnedBacking, Priority, Stream,
};
use ferry_engine::EngineError;
use ferry_memory::{HeapBacking, MemoryError, Region};

use super::gpu::{Gpu, GpuError, INSTALL, no_gpu};
use crate::options::Capability;

/// A CUDA device that TensorRT runs on.
#[derive(Debug)]
pub struct CudaGpu {
    device: Arc<Device>,
    capability: Capability,
}

impl CudaGpu {
    /// Takes a device into use.
    ///
    /// # Errors
    /// [`EngineError::Library`] if there is no driver, no such device, or one that TensorRT does
    /// not run on: it says what it does run on, and what to use instead.
    pub fn open(ordinal: u32) -> Result<Arc<CudaGpu>, EngineError> {
        // Before it is taken into use, which costs memory and time.
        let listed = ferry_cuda::list().map_err(|missing| no_device(&missing.into()))?;
        if let Some(it) = listed.iter().flatten().find(|it| it.ordinal == ordinal) {
            Capability::from(it.attributes.capability).check()?;
        }
        let device = Device::open(ordinal).map_err(|error| no_device(&error))?;
        let capability = Capability::from(device.attributes().capability);
        capability.check()?;
        Ok(Arc::new(CudaGpu { device, capability }))
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }
}

fn no_device(error: &OpenError) -> EngineError {
    match error {
        // What it says to do may be too old a driver for TensorRT.
        OpenError::Missing(Missing { why, .. }) => no_gpu(why, INSTALL),
        OpenError::Ordinal { .. } => no_gpu(&error.to_string(), "name one"),
        OpenError::Refused { .. } => no_gpu(&error_text(error), "name one"),
    }
}

fn driver(error: CudaError) -> GpuError {
    let why = error.to_string();
    if error.is_fatal() { GpuError::Lost(why) } else { GpuError::Refused(why) }
}

fn memory(error: MemoryError) -> GpuError {
    let why = error_text(&error);
    if ferry_cuda::is_lost(&error) { GpuError::Lost(why) } else { GpuError::Refused(why) }
}

// SAFETY: everything is of the one device, whose primary context it keeps, and every object of
// ferry-cuda keeps the device. Its streams are CUDA's, which run in order, and its events are
// recorded on them. `cuMemAlloc` gives multiples of 256; the driver frees device memory, and
// unregisters host memory, when what was enqueued before is over. `cuStreamSynchronize` returns
// when the stream is empty, or with the error after which nothing of this context runs any more.
unsafe impl Gpu for CudaGpu {
    type Stream = Stream;
    type Event = Event;

    fn ordinal(&self) -> u32 {
        self.device.ordinal()
    }

    fn capability(&self) -> Capability {
        self.capability
    }

    fn bind(&self) -> Result<(), GpuError> {
        self.device.bind().map_err(driver)
    }

    fn stream(&self) -> Result<Stream, GpuError> {
        Stream::new(&self.device, Priority::Normal).map_err(driver)
    }

    fn raw_stream(&self, stream: &Stream) -> *mut c_void {
        stream.raw().cast()
    }

    fn wait(&self, stream: &Stream) -> Result<(), GpuError> {
        stream.synchronize().map_err(driver)
    }

    fn event(&self) -> Result<Event, GpuError> {
        Event::new(&self.device).map_err(driver)
    }

    fn record(&self, event: &Event, stream: &Stream) -> Result<(), GpuError> {
        event.record(stream).map_err(driver)
    }

    fn is_done(&self, event: &Event) -> Result<bool, GpuError> {
        event.is_done().map_err(driver)
    }

    fn ns_between(&self, start: &Event, stop: &Event) -> Result<u64, GpuError> {
        stop.ns_since(start).map_err(driver)
    }

    fn memory(&self, bytes: usize) -> Result<Region, GpuError> {
        let backing = DeviceBacking::new(&self.device, bytes).map_err(memory)?;
        Ok(Region::whole(backing))
    }

    fn pinned(&self, bytes: usize) -> Result<Region, GpuError> {
        let heap = Region::whole(HeapBacking::new(bytes).map_err(memory)?);
        let backing = PinnedBacking::new(&self.device, heap).map_err(memory)?;
        Ok(Region::whole(backing))
    }

    unsafe fn copy(
        &self,
        to: u64,
        from: u64,
        bytes: usize,
        stream: &Stream,
    ) -> Result<(), GpuError> {
        // SAFETY: the caller's argument.
        unsafe { stream.copy(to, from, bytes) }.map_err(driver)
    }
}

#[cfg(test)]
mod tests;
