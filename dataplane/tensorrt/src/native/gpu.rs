//! The GPU, as far as the engine needs one.

use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;

use ferry_engine::EngineError;
use ferry_memory::{Region, View};

use crate::options::Capability;

/// What the driver says, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GpuError(pub String);

/// A CUDA device: streams, events, memory and copies, and nothing else.
///
/// The seam between this crate and the one that calls CUDA's driver. A value exists only where a
/// driver was found and answers; the engine is written against it, so that its order of work can
/// be tested without a device.
///
/// # Safety
/// What is returned must be of one device and its primary context, and must stay usable while the
/// value that it was taken from lives. [`stream`](Gpu::stream) gives streams that run in order;
/// [`buffer`](Gpu::buffer) gives memory that is not freed before work that was put on a stream
/// earlier is over; an event that [`is_done`](Gpu::is_done) means that all work before it on its
/// stream is; [`wait`](Gpu::wait) returns when all work on a stream is over, or never will run.
pub unsafe trait Gpu: Send + Sync + fmt::Debug + 'static {
    /// A queue of work.
    type Stream: Send + fmt::Debug;
    /// A mark on a stream, which notes when it was passed.
    type Event: Send + fmt::Debug;
    /// Memory of the device, freed on drop.
    type Buffer: Send + fmt::Debug;

    /// What it can run.
    fn capability(&self) -> Capability;

    /// Makes its context the calling thread's: TensorRT uses whichever is.
    ///
    /// # Errors
    /// What the driver says.
    fn bind(&self) -> Result<(), GpuError>;

    /// A stream of its own.
    ///
    /// # Errors
    /// What the driver says.
    fn stream(&self) -> Result<Self::Stream, GpuError>;

    /// The stream, as CUDA calls it.
    fn raw_stream(&self, stream: &Self::Stream) -> *mut c_void;

    /// Waits until everything on the stream is over.
    ///
    /// # Errors
    /// What the driver says: nothing on the stream will run any more.
    fn wait(&self, stream: &Self::Stream) -> Result<(), GpuError>;

    /// An event that was not recorded yet.
    ///
    /// # Errors
    /// What the driver says.
    fn event(&self) -> Result<Self::Event, GpuError>;

    /// Puts the event behind what is on the stream.
    ///
    /// # Errors
    /// What the driver says.
    fn record(&self, event: &Self::Event, stream: &Self::Stream) -> Result<(), GpuError>;

    /// Whether the device has passed the event. Never waits.
    ///
    /// # Errors
    /// What the driver says: the work before it failed.
    fn is_done(&self, event: &Self::Event) -> Result<bool, GpuError>;

    /// Time between two events that are done, in ns.
    ///
    /// # Errors
    /// What the driver says.
    fn ns_between(&self, start: &Self::Event, stop: &Self::Event) -> Result<u64, GpuError>;

    /// Memory of the device.
    ///
    /// # Errors
    /// What the driver says, with the sizes.
    fn buffer(&self, bytes: usize) -> Result<Self::Buffer, GpuError>;

    /// Where the device finds it; a multiple of 256.
    fn address(&self, buffer: &Self::Buffer) -> u64;

    /// Host memory that the device can copy without a detour; [`reach`](Gpu::reach) finds it.
    ///
    /// # Errors
    /// What the driver says, with the sizes.
    fn pinned(&self, bytes: usize) -> Result<Region, GpuError>;

    /// Where the device finds a view: memory of its own, or host memory that is pinned. `None`:
    /// nowhere, so that it has to be copied by the host first.
    fn reach(&self, view: &View<'_>) -> Option<u64>;

    /// Puts a copy on the stream.
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Safety
    /// Both ranges must be ones that the device reaches, and must stay so until the copy is over.
    unsafe fn copy(
        &self,
        to: u64,
        from: u64,
        bytes: usize,
        stream: &Self::Stream,
    ) -> Result<(), GpuError>;
}

/// Whether an engine can be loaded on this GPU.
pub(crate) fn check<G: Gpu>(gpu: &Arc<G>) -> Result<(), EngineError> {
    gpu.capability().check()?;
    super::driver::check().map_err(no_driver)?;
    gpu.bind().map_err(|error| no_driver(error.to_string()))
}

/// The error where there is no GPU to load an engine on.
pub(crate) fn no_driver(why: String) -> EngineError {
    EngineError::Library {
        library: crate::LIBRARY,
        why: format!(
            "no GPU to run on: {why}: install NVIDIA's driver (580 or newer) for a GPU of compute \
             capability 8.0, 8.6, 8.9, 12.0 or above, or use engine = \"onnx\""
        ),
    }
}
