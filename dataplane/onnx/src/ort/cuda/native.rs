//! The calls that Rust cannot check: tensors bound by device address, and runs of them.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::{Arc, MutexGuard};

use ferry_core::{BoundSignature, BoundTensor, Signature};
use ferry_cuda::{Device, Runner, Stream};
use ort::AsPointer;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, Session};
use ort::sys::{OrtRunOptions, OrtValue};

use super::model::CudaModel;
use crate::ort::native::element_type;

/// How every run is made: the library records no graph of its own, and does not wait for the
/// device.
#[derive(Debug)]
pub(super) struct RunOptions(NonNull<OrtRunOptions>);

// SAFETY: written only while it is made; the library reads it from any thread.
unsafe impl Send for RunOptions {}
// SAFETY: as above.
unsafe impl Sync for RunOptions {}

impl RunOptions {
    pub(super) fn new() -> ort::Result<RunOptions> {
        let mut options = std::ptr::null_mut();
        // SAFETY: a place of ours; released in `drop`.
        let status = unsafe { (ort::api().CreateRunOptions)(&raw mut options) };
        // SAFETY: the status was just given to us by the C API and nobody else owns it.
        unsafe { ort::Error::result_from_status(status) }?;
        let options = NonNull::new(options).ok_or_else(|| ort::Error::new("no run options"))?;
        let options = RunOptions(options);
        for (key, value) in
            [(c"gpu_graph_id", c"-1"), (c"disable_synchronize_execution_providers", c"1")]
        {
            // SAFETY: alive, and two texts that end in NUL and are copied.
            let status = unsafe {
                (ort::api().AddRunConfigEntry)(options.0.as_ptr(), key.as_ptr(), value.as_ptr())
            };
            // SAFETY: as above.
            unsafe { ort::Error::result_from_status(status) }?;
        }
        Ok(options)
    }
}

impl Drop for RunOptions {
    fn drop(&mut self) {
        // SAFETY: made in `new`, ours, not used again.
        unsafe { (ort::api().ReleaseRunOptions)(self.0.as_ptr()) };
    }
}

/// Tensors of one request, bound to device addresses.
pub(super) struct Bound {
    session: Arc<Session>,
    binding: IoBinding,
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bound").finish_non_exhaustive()
    }
}

impl Bound {
    /// Binds one address per tensor of `shapes`, inputs first. Nothing is read or written yet.
    pub(super) fn new(
        session: &Arc<Session>,
        device: &Device,
        signature: &Signature,
        shapes: &BoundSignature,
        addresses: &[u64],
    ) -> ort::Result<Bound> {
        let ordinal = i32::try_from(device.ordinal()).map_err(ort::Error::wrap)?;
        let memory = MemoryInfo::new(
            AllocationDevice::CUDA,
            ordinal,
            AllocatorType::Device,
            MemoryType::Default,
        )?;
        let binding = session.create_binding()?;
        let (inputs, outputs) = addresses.split_at(shapes.inputs.len().min(addresses.len()));
        let named = signature.inputs.iter().zip(&shapes.inputs).zip(inputs);
        for ((spec, tensor), &address) in named {
            let name = CString::new(spec.name.as_str())?;
            let value = Value::over(&memory, tensor, address)?;
            // SAFETY: binding and value are alive, the name ends in NUL; the call keeps none of
            // the three pointers (it counts a reference to the value's content).
            let status = unsafe {
                (ort::api().BindInput)(binding.ptr().cast_mut(), name.as_ptr(), value.0.as_ptr())
            };
            // SAFETY: the status was just given to us by the C API and nobody else owns it.
            unsafe { ort::Error::result_from_status(status) }?;
        }
        let named = signature.outputs.iter().zip(&shapes.outputs).zip(outputs);
        for ((spec, tensor), &address) in named {
            let name = CString::new(spec.name.as_str())?;
            let value = Value::over(&memory, tensor, address)?;
            // SAFETY: as for inputs.
            let status = unsafe {
                (ort::api().BindOutput)(binding.ptr().cast_mut(), name.as_ptr(), value.0.as_ptr())
            };
            // SAFETY: as for inputs.
            unsafe { ort::Error::result_from_status(status) }?;
        }
        Ok(Bound { session: Arc::clone(session), binding })
    }

    /// Puts a run on the session's stream; does not wait for it.
    ///
    /// # Safety
    /// Every address of [`Bound::new`] is the start of device memory as long as its tensor, which
    /// stays mapped until the stream is done. No other thread runs this session meanwhile: all
    /// its runs share one stream and the arena in use.
    unsafe fn run(&self, options: &RunOptions) -> ort::Result<()> {
        // SAFETY: session, options and binding are alive and belong together; the rest is the
        // caller's argument.
        let status = unsafe {
            (ort::api().RunWithBinding)(
                self.session.ptr().cast_mut(),
                options.0.as_ptr(),
                self.binding.ptr(),
            )
        };
        // SAFETY: the status was just given to us by the C API and nobody else owns it.
        unsafe { ort::Error::result_from_status(status) }
    }
}

/// The stream of a model's session, locked: whoever holds it is the only one to run the session.
#[derive(Debug)]
pub(super) struct SessionStream<'a> {
    model: &'a CudaModel,
    runner: MutexGuard<'a, Runner>,
}

impl<'a> SessionStream<'a> {
    /// `runner` is the one that `model` made its session with.
    pub(super) fn new(model: &'a CudaModel, runner: MutexGuard<'a, Runner>) -> SessionStream<'a> {
        SessionStream { model, runner }
    }

    pub(super) fn stream(&self) -> &Arc<Stream> {
        self.runner.stream()
    }

    /// Puts a run on the stream; does not wait for it.
    pub(super) fn run(&self, bound: &Bound) -> ort::Result<()> {
        if !Arc::ptr_eq(&bound.session, self.model.session()) {
            return Err(ort::Error::new("tensors that were bound for another session"));
        }
        // SAFETY: `bound` was made by `Context` of addresses that `Places` found: of tensors as
        // long as the binding says, in a slot or staging memory that the caller holds until the
        // stream is done. It is of this session, of which there is one stream, and that is locked:
        // nobody else runs the session.
        unsafe { bound.run(self.model.run_options()) }
    }
}

/// A tensor over device memory, for as long as it takes to bind it.
struct Value(NonNull<OrtValue>);

impl Value {
    fn over(memory: &MemoryInfo<'_>, tensor: &BoundTensor, address: u64) -> ort::Result<Value> {
        let shape = tensor.shape.iter().map(|&dim| i64::try_from(dim));
        let shape = shape.collect::<Result<Vec<i64>, _>>().map_err(ort::Error::wrap)?;
        let address = usize::try_from(address).map_err(ort::Error::wrap)?;
        let bytes = usize::try_from(tensor.bytes).map_err(ort::Error::wrap)?;
        let mut value: *mut OrtValue = std::ptr::null_mut();
        // SAFETY: the call stores the address and reads nothing behind it. Shape and length are
        // copied or checked against each other by the call. `value` is a place of ours.
        let status = unsafe {
            (ort::api().CreateTensorWithDataAsOrtValue)(
                memory.ptr(),
                std::ptr::without_provenance_mut(address),
                bytes,
                shape.as_ptr(),
                shape.len(),
                element_type(tensor.dtype),
                &raw mut value,
            )
        };
        // SAFETY: the status was just given to us by the C API and nobody else owns it.
        unsafe { ort::Error::result_from_status(status) }?;
        NonNull::new(value).map(Value).ok_or_else(|| ort::Error::new("no tensor was made"))
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        // SAFETY: made in `over`, ours, not used again; ONNX Runtime does not free memory that it
        // was given by address.
        unsafe { (ort::api().ReleaseValue)(self.0.as_ptr()) };
    }
}
