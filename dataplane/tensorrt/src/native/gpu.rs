//! The GPU, as far as the engine needs one.

use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;

use ferry_engine::EngineError;
use ferry_memory::{Region, View};

use crate::options::{Capability, SUPPORTED};

/// What the driver says, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// A call that it refused.
    #[error("{0}")]
    Refused(String),
    /// The device is of no use to this process any more.
    #[error("{0}")]
    Lost(String),
}

impl From<GpuError> for EngineError {
    fn from(error: GpuError) -> EngineError {
        match error {
            GpuError::Refused(why) => EngineError::Run(why),
            GpuError::Lost(why) => EngineError::Lost(why),
        }
    }
}

/// A CUDA device: streams, events, memory and copies, and nothing else.
///
/// [`CudaGpu`](crate::CudaGpu) is the one that there is. The engine is written against this trait
/// so that its order of work can be tested without a device.
///
/// # Safety
/// What is returned must be of one device and its primary context, and must stay usable while the
/// value that it was taken from lives. [`stream`](Gpu::stream) gives streams that run in order;
/// [`memory`](Gpu::memory) gives memory that starts at a multiple of 256 and is not freed before
/// work that was put on a stream earlier is over; an event that [`is_done`](Gpu::is_done) means
/// that all work before it on its stream is; [`wait`](Gpu::wait) returns when all work on a stream
/// is over, or never will run.
pub unsafe trait Gpu: Send + Sync + fmt::Debug + 'static {
    /// A queue of work.
    type Stream: Send + fmt::Debug;
    /// A mark on a stream, which notes when it was passed.
    type Event: Send + fmt::Debug;

    /// Its number, as views name it.
    fn ordinal(&self) -> u32;

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

    /// Memory of the device, cleared; `View::device` finds it.
    ///
    /// # Errors
    /// What the driver says, with the sizes.
    fn memory(&self, bytes: usize) -> Result<Region, GpuError>;

    /// Host memory that the device can copy without a detour; `View::device` finds it.
    ///
    /// # Errors
    /// What the driver says, with the sizes.
    fn pinned(&self, bytes: usize) -> Result<Region, GpuError>;

    /// Puts a copy on the stream.
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Safety
    /// Both ranges must be ones that the device reaches, and must stay so until the copy is over.
    /// `to` may be written, and nobody in this process reads, writes or borrows either meanwhile.
    unsafe fn copy(
        &self,
        to: u64,
        from: u64,
        bytes: usize,
        stream: &Self::Stream,
    ) -> Result<(), GpuError>;
}

/// Where a device finds a view: memory of its own, or host memory that is registered with it.
/// `None`: nowhere, so that it has to be copied by the host first.
pub(crate) fn reach<G: Gpu>(gpu: &G, view: &View<'_>) -> Option<u64> {
    view.device().filter(|it| it.ordinal == gpu.ordinal()).map(|it| it.address)
}

/// Whether an engine can be loaded on this GPU.
pub(crate) fn check<G: Gpu>(gpu: &Arc<G>) -> Result<(), EngineError> {
    gpu.capability().check()?;
    // Asked before TensorRT is: where no driver answers, TensorRT hands out a runtime that ends
    // the process when it is dropped.
    ferry_cuda::probe().map_err(|missing| no_gpu(&missing.why, INSTALL))?;
    gpu.bind().map_err(|error| no_gpu(&error.to_string(), INSTALL))
}

/// What to do where there is no driver that can be used.
pub(crate) const INSTALL: &str = "install NVIDIA's driver, 580 or newer, for a GPU";

/// The error where there is no GPU to load an engine on. `fix` is to have one.
pub(crate) fn no_gpu(why: &str, fix: &str) -> EngineError {
    EngineError::Library {
        library: crate::LIBRARY,
        why: format!(
            "no GPU to run on: {why}: {fix} of compute capability {SUPPORTED}, or use \
             engine = \"onnx\""
        ),
    }
}
