//! The calls that Rust cannot check: tensors bound by device address, and runs of them.

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;

use ferry_core::{BoundSignature, BoundTensor, Signature, Stage, StageTimes};
use ferry_cuda::{Device, FlightError, Graph, Kernels, Plan, Runner};
use ferry_engine::Job;
use ort::AsPointer;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, Session};
use ort::sys::{OrtRunOptions, OrtValue};

use super::held::{Places, Way};
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

impl CudaModel {
    /// Puts a run on the session's stream, which the caller has locked; does not wait for it.
    pub(super) fn run(&self, bound: &Bound, _stream: &Runner) -> ort::Result<()> {
        // SAFETY: `bound` was made by `Context` of addresses that `Places` found: of tensors as
        // long as the binding says, in a slot or staging memory that the caller holds until the
        // stream is done. That the caller has the session's stream, of which there is one behind
        // a lock, means that nobody else runs the session.
        unsafe { bound.run(self.run_options()) }
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

/// What a request takes beside its job.
pub(super) struct Steps<'a> {
    pub(super) places: &'a Places,
    pub(super) kernels: Option<&'a Kernels>,
    pub(super) graph: &'a Graph,
}

/// Puts one request on a stream: its copies, and the graph, each with a mark behind it.
pub(super) fn enqueue(
    plan: &mut Plan<'_>,
    job: &Job,
    steps: &Steps<'_>,
) -> Result<(), FlightError> {
    come(plan, job, steps.places, steps.kernels)?;
    // SAFETY: the graph was recorded for the addresses of `places`, which are those of the job's
    // slot and of the stream's staging memory, and uses the stream's workspace and the model's
    // weights. The flight keeps job, staging memory, workspace and model. One stream runs one
    // thing at a time, and no other stream uses this workspace.
    unsafe { plan.graph(steps.graph) }?;
    plan.mark(Stage::Infer)?;
    go(plan, job, steps.places, steps.kernels)
}

/// The payload's way to the model's input.
fn come(
    plan: &mut Plan<'_>,
    job: &Job,
    places: &Places,
    kernels: Option<&Kernels>,
) -> Result<(), FlightError> {
    let payload = match &job.prepared {
        Some(region) => region.view(),
        None => job.arrival.slot.request().part(0, job.arrival.payload_bytes)?,
    };
    let input = places.staging.request();
    let bytes = usize::try_from(job.binding.request_bytes()).unwrap_or(usize::MAX);
    let no_kernel = || FlightError::Unreachable(payload.placement());
    // SAFETY, for each step: the flight keeps the job, and with it slot and prepared region, and
    // the staging memory, which is another one.
    let Some(picture) = &places.picture else {
        return match places.request {
            Way::InPlace => Ok(()),
            Way::Copy => {
                // SAFETY: as above.
                unsafe { plan.copy(&input, &payload, bytes) }?;
                plan.mark(Stage::CopyIn)
            }
            Way::Kernel => {
                let kernels = kernels.ok_or_else(no_kernel)?;
                // SAFETY: as above.
                unsafe { plan.copy_by_kernel(kernels, &input, &payload, bytes) }?;
                plan.mark(Stage::Preprocess)
            }
        };
    };
    let kernels = kernels.ok_or_else(no_kernel)?;
    let pixels = match (places.request, places.staging.raw()) {
        (Way::Copy, Some(raw)) => {
            // SAFETY: as above.
            unsafe { plan.copy(&raw, &payload, payload.bytes()) }?;
            plan.mark(Stage::CopyIn)?;
            raw.part(0, payload.bytes())?
        }
        (Way::Kernel, Some(raw)) => {
            // SAFETY: as above.
            unsafe { plan.copy_by_kernel(kernels, &raw, &payload, payload.bytes()) }?;
            raw.part(0, payload.bytes())?
        }
        (Way::Copy | Way::Kernel, None) => return Err(no_kernel()),
        (Way::InPlace, _) => payload,
    };
    // SAFETY: as above.
    unsafe { plan.picture(kernels, &input, &pixels, picture) }?;
    plan.mark(Stage::Preprocess)
}

/// The way of the model's output to the slot.
fn go(
    plan: &mut Plan<'_>,
    job: &Job,
    places: &Places,
    kernels: Option<&Kernels>,
) -> Result<(), FlightError> {
    let (output, reply) = (places.staging.reply(), job.arrival.slot.reply());
    let bytes = usize::try_from(job.binding.reply_bytes()).unwrap_or(usize::MAX);
    match places.reply {
        Way::InPlace => Ok(()),
        Way::Copy => {
            // SAFETY: as in `come`.
            unsafe { plan.copy(&reply, &output, bytes) }?;
            plan.mark(Stage::CopyOut)
        }
        Way::Kernel => {
            let kernels = kernels.ok_or(FlightError::Unreachable(reply.placement()))?;
            // SAFETY: as in `come`.
            unsafe { plan.copy_by_kernel(kernels, &reply, &output, bytes) }?;
            plan.mark(Stage::Postprocess)
        }
    }
}

/// One of the two ways of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    In,
    Out,
}

/// One of the two ways of a request, and waits for it.
pub(super) fn copy_and_wait(
    runner: &mut Runner,
    job: &Job,
    places: &Places,
    kernels: Option<&Kernels>,
    half: Half,
) -> Result<StageTimes, FlightError> {
    // `job` and `places` are borrowed until it is over, so the flight need not keep them.
    let started = runner.start((), |(), plan| match half {
        Half::In => come(plan, job, places, kernels),
        Half::Out => go(plan, job, places, kernels),
    });
    let flight = started.map_err(|((), error)| error)?;
    let ((), times) = flight.finish(runner);
    Ok(times?)
}
