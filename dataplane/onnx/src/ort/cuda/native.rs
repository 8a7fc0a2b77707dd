//! The calls that Rust cannot check: tensors bound by device address, and runs of them.

use std::ffi::{CStr, CString};
use std::ptr::NonNull;
use std::sync::{Arc, MutexGuard};

use ferry_core::{BoundSignature, BoundTensor, Signature};
use ferry_cuda::{Device, Runner, Stream};
use ort::AsPointer;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::IoBinding;
use ort::sys::OrtRunOptions;

use super::model::CudaModel;
use super::recording::CudaSession;
use crate::ort::native::given::{Left, Value};
use crate::ort::native::{bind_open, check, over_address};

/// Stands for the address of an output for which the library is to find memory.
pub(super) const NOT_BOUND: u64 = 0;

/// How runs are made: the library records no graph of its own.
#[derive(Debug)]
pub(super) struct RunOptions(NonNull<OrtRunOptions>);

// SAFETY: written only while it is made; the library reads it from any thread.
unsafe impl Send for RunOptions {}
// SAFETY: as above.
unsafe impl Sync for RunOptions {}

impl RunOptions {
    /// Of runs that end when the device is done. Only they free what the library has copied to the
    /// device meanwhile.
    pub(super) fn of_run() -> ort::Result<RunOptions> {
        RunOptions::new(&[NO_GRAPH_OF_ITS_OWN])
    }

    /// Of runs that are recorded: nobody can wait for the device then.
    pub(super) fn of_recording() -> ort::Result<RunOptions> {
        let no_wait = (c"disable_synchronize_execution_providers", c"1");
        RunOptions::new(&[NO_GRAPH_OF_ITS_OWN, no_wait])
    }

    fn new(entries: &[(&CStr, &CStr)]) -> ort::Result<RunOptions> {
        let mut options = std::ptr::null_mut();
        // SAFETY: a place of ours; released in `drop`.
        check(unsafe { (ort::api().CreateRunOptions)(&raw mut options) })?;
        let options = NonNull::new(options).ok_or_else(|| ort::Error::new("no run options"))?;
        let options = RunOptions(options);
        for (key, value) in entries {
            // SAFETY: alive, and two texts that end in NUL and are copied.
            check(unsafe {
                (ort::api().AddRunConfigEntry)(options.0.as_ptr(), key.as_ptr(), value.as_ptr())
            })?;
        }
        Ok(options)
    }
}

const NO_GRAPH_OF_ITS_OWN: (&CStr, &CStr) = (c"gpu_graph_id", c"-1");

impl Drop for RunOptions {
    fn drop(&mut self) {
        // SAFETY: made in `new`, ours, not used again.
        unsafe { (ort::api().ReleaseRunOptions)(self.0.as_ptr()) };
    }
}

/// Tensors of one request, bound to device addresses.
pub(super) struct Bound {
    session: Arc<CudaSession>,
    binding: IoBinding,
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bound").finish_non_exhaustive()
    }
}

impl Bound {
    /// Binds one address per tensor of `shapes`, inputs first; where that of an output is
    /// [`NOT_BOUND`], the library finds the memory. Nothing is read or written yet.
    pub(super) fn new(
        session: &Arc<CudaSession>,
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
            let value = over(&memory, tensor, address)?;
            // SAFETY: binding and value are alive, the name ends in NUL; the call keeps none of
            // the three pointers (it counts a reference to the value's content).
            check(unsafe {
                (ort::api().BindInput)(binding.ptr().cast_mut(), name.as_ptr(), value.as_ptr())
            })?;
        }
        let named = signature.outputs.iter().zip(&shapes.outputs).zip(outputs);
        for ((spec, tensor), &address) in named {
            let name = CString::new(spec.name.as_str())?;
            if address == NOT_BOUND {
                bind_open(&binding, &name, &memory)?;
                continue;
            }
            let value = over(&memory, tensor, address)?;
            // SAFETY: as for inputs.
            check(unsafe {
                (ort::api().BindOutput)(binding.ptr().cast_mut(), name.as_ptr(), value.as_ptr())
            })?;
        }
        Ok(Bound { session: Arc::clone(session), binding })
    }

    /// The outputs that the last run left elsewhere than where they were bound. `shapes` and
    /// `addresses` are those of [`Bound::new`].
    pub(super) fn left(&self, shapes: &BoundSignature, addresses: &[u64]) -> ort::Result<Left> {
        let outputs = addresses.get(shapes.inputs.len()..).unwrap_or_default().iter();
        let bound = outputs.map(|&address| match address {
            NOT_BOUND => Ok(None),
            address => usize::try_from(address).map(Some).map_err(ort::Error::wrap),
        });
        Left::by(&self.binding, &shapes.outputs, &bound.collect::<ort::Result<Vec<_>>>()?)
    }

    /// Runs the session as `options` say.
    ///
    /// # Safety
    /// Every address of [`Bound::new`] is the start of device memory as long as its tensor, which
    /// stays mapped until the stream is done. No other thread runs this session meanwhile: all
    /// its runs share one stream and the arena in use.
    unsafe fn run(&self, options: &RunOptions) -> ort::Result<()> {
        // SAFETY: session, options and binding are alive and belong together; the rest is the
        // caller's argument.
        check(unsafe {
            (ort::api().RunWithBinding)(
                self.session.ptr().cast_mut(),
                options.0.as_ptr(),
                self.binding.ptr(),
            )
        })
    }
}

/// The stream of a model's sessions, locked: whoever holds it is the only one to run one of them.
#[derive(Debug)]
pub(super) struct SessionStream<'a> {
    model: &'a CudaModel,
    runner: MutexGuard<'a, Runner>,
}

impl<'a> SessionStream<'a> {
    /// `runner` is the one that `model` made its sessions with.
    pub(super) fn new(model: &'a CudaModel, runner: MutexGuard<'a, Runner>) -> SessionStream<'a> {
        SessionStream { model, runner }
    }

    pub(super) fn stream(&self) -> &Arc<Stream> {
        self.runner.stream()
    }

    /// Runs the model, and waits for the device.
    pub(super) fn run(&self, bound: &Bound) -> ort::Result<()> {
        self.run_as(bound, self.model.run_options())
    }

    /// Puts a run on the stream, which records it.
    pub(super) fn record(&self, bound: &Bound) -> ort::Result<()> {
        self.run_as(bound, self.model.recording_options())
    }

    fn run_as(&self, bound: &Bound, options: &RunOptions) -> ort::Result<()> {
        if !self.model.sessions().has(&bound.session) {
            return Err(ort::Error::new("tensors that were bound for another model"));
        }
        // SAFETY: `bound` was made by `Context` of addresses that `Places` found: of tensors as
        // long as the binding says, in a slot or staging memory that the caller holds until the
        // stream is done. It is of a session of this model, and those have one stream, which is
        // locked: nobody else runs the session.
        unsafe { bound.run(options) }
    }
}

/// A tensor over device memory, for as long as it takes to bind it.
fn over(memory: &MemoryInfo<'_>, tensor: &BoundTensor, address: u64) -> ort::Result<Value> {
    let address = usize::try_from(address).map_err(ort::Error::wrap)?;
    let bytes = usize::try_from(tensor.bytes).map_err(ort::Error::wrap)?;
    over_address(memory, tensor, std::ptr::without_provenance_mut(address), bytes)
}
