//! Engines on a GPU, and the contexts that run them.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use ferry_engine::EngineError;
use trtx::trtx_sys::Dims64;
use trtx::{CudaEngine, ExecutionContext, Runtime};

use super::gpu::{self, Gpu};
use crate::log::{self, listen};

/// What runs one request at a time on a stream.
pub(crate) trait Execution: Send {
    /// Chooses the shape of an input.
    fn set_shape(&mut self, input: &str, shape: &[u64]) -> Result<(), String>;

    /// Says where a tensor is.
    ///
    /// # Safety
    /// The device must find the tensor there, at its full length, until what is enqueued next is
    /// over.
    unsafe fn bind(&mut self, tensor: &str, address: u64) -> Result<(), String>;

    /// Puts a run on the stream.
    ///
    /// # Safety
    /// The stream must be one of the device that the engine was loaded on; every tensor must be
    /// bound as [`bind`](Execution::bind) asks.
    unsafe fn enqueue(&mut self, stream: *mut c_void) -> Result<(), String>;
}

/// An engine in the memory of a GPU: the weights, once for all contexts.
pub(crate) struct Weights<G: Gpu> {
    /// Before the runtime: fields are dropped in this order.
    engine: Mutex<CudaEngine<'static>>,
    _runtime: Runtime<'static>,
    gpu: Arc<G>,
}

/// The markers below rest on what is inside of these types: a pointer of the library's; that and an
/// allocator; that, a configuration that we never give, and three callbacks that we never set. With
/// a field more they are to be thought through again, and this does not compile.
const _: () = {
    const WORD: usize = size_of::<*const ()>();
    assert!(size_of::<CudaEngine<'static>>() == WORD);
    assert!(size_of::<Runtime<'static>>() == 2 * WORD);
    assert!(size_of::<ExecutionContext<'static>>() == 5 * WORD);
};

// SAFETY: TensorRT's engines and runtimes are not tied to a thread; they need the device's context
// to be current, which every call here sees to. `trtx` has no marker on `CudaEngine` because of the
// raw pointer in it, which nothing else holds.
unsafe impl<G: Gpu> Send for Weights<G> {}
// SAFETY: the engine is reached through the mutex alone, the runtime not at all.
unsafe impl<G: Gpu> Sync for Weights<G> {}

impl<G: Gpu> std::fmt::Debug for Weights<G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Weights").field("gpu", &self.gpu).finish_non_exhaustive()
    }
}

impl<G: Gpu> Weights<G> {
    /// Loads an engine. A runtime is made only after the driver has answered: see
    /// [`gpu::check`].
    pub(crate) fn load(engine: &[u8], gpu: &Arc<G>) -> Result<Arc<Weights<G>>, EngineError> {
        gpu::check(gpu)?;
        let logger = log::logger()?;
        let refused = |why| EngineError::Library {
            library: crate::LIBRARY,
            why: format!("{why}: use engine = \"onnx\", or a GPU that this library supports"),
        };
        let mut runtime = listen(|| Runtime::new(logger)).map_err(refused)?;
        let loaded = listen(|| runtime.deserialize_cuda_engine(engine)).map_err(refused)?;
        Ok(Arc::new(Weights {
            engine: Mutex::new(loaded),
            _runtime: runtime,
            gpu: Arc::clone(gpu),
        }))
    }
}

impl<G: Gpu> Drop for Weights<G> {
    fn drop(&mut self) {
        // The fields go after this, and free memory of the device.
        if let Err(error) = self.gpu.bind() {
            tracing::warn!(%error, "an engine is freed without its device");
        }
    }
}

/// A context: scratch memory and the bindings of one run at a time.
pub(crate) struct Context<G: Gpu> {
    /// `None` only while it is being dropped.
    context: Option<ExecutionContext<'static>>,
    weights: Arc<Weights<G>>,
}

// SAFETY: a context may be used by any thread, one at a time: all its methods take `&mut self`.
// The `Rc` that `trtx` may keep in it is a configuration, of which we give none.
unsafe impl<G: Gpu> Send for Context<G> {}

impl<G: Gpu> std::fmt::Debug for Context<G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

impl<G: Gpu> Context<G> {
    /// Makes a context of an engine, which it keeps: it must not outlive it.
    pub(crate) fn new(weights: &Arc<Weights<G>>) -> Result<Context<G>, EngineError> {
        let failed = |why: String| {
            EngineError::Run(format!("{why}: the GPU may be out of memory: use fewer contexts"))
        };
        weights.gpu.bind().map_err(|error| EngineError::Run(error.to_string()))?;
        let mut engine = weights.engine.lock().unwrap_or_else(PoisonError::into_inner);
        let context = listen(|| engine.create_execution_context()).map_err(failed)?;
        drop(engine);
        Ok(Context { context: Some(context), weights: Arc::clone(weights) })
    }

    fn context(&mut self) -> Result<&mut ExecutionContext<'static>, String> {
        self.context.as_mut().ok_or_else(|| "a context that is gone".to_owned())
    }
}

impl<G: Gpu> Execution for Context<G> {
    fn set_shape(&mut self, input: &str, shape: &[u64]) -> Result<(), String> {
        let dims: Result<Vec<i64>, _> = shape.iter().copied().map(i64::try_from).collect();
        let dims = Dims64::from_slice(&dims.map_err(|error| error.to_string())?);
        let context = self.context()?;
        listen(|| context.set_input_shape(input, &dims))
    }

    unsafe fn bind(&mut self, tensor: &str, address: u64) -> Result<(), String> {
        let address = usize::try_from(address).map_err(|error| error.to_string())?;
        let address = std::ptr::without_provenance_mut(address);
        let context = self.context()?;
        // SAFETY: the caller's argument. It is the device's address: nothing here reads it.
        listen(|| unsafe { context.set_tensor_address(tensor, address) })
    }

    unsafe fn enqueue(&mut self, stream: *mut c_void) -> Result<(), String> {
        let context = self.context()?;
        // SAFETY: the caller's argument.
        listen(|| unsafe { context.enqueue_v3(stream) })
    }
}

impl<G: Gpu> Drop for Context<G> {
    fn drop(&mut self) {
        if let Err(error) = self.weights.gpu.bind() {
            tracing::warn!(%error, "a context is freed without its device");
        }
        // Before another context can be made or freed, and before the engine can go.
        let engine = self.weights.engine.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.context.take());
        drop(engine);
    }
}
