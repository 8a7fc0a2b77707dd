//! What a request under way holds, and where its tensors are.

use std::sync::Arc;
use std::time::Duration;

use ferry_core::{
    HostMemory, MemoryChoice, Placement, RequestKind, Stage, StageTimes, Staged, Why,
};
use ferry_cuda::picture::PictureStep;
use ferry_cuda::{Arena, Kernels};
use ferry_engine::{EngineError, Job};
use ferry_memory::View;

use super::context::{Context, Staging};
use super::model::CudaModel;
use super::pictures::Pictures;

/// Requests above this many bytes are copied by a copy engine under `auto`: a kernel that reads
/// them would hold multiprocessors for long. See docs/measurements for where the two cross.
const LARGE_BYTES: usize = 4 << 20;

/// All that the device uses while a request runs.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) job: Job,
    staged: Option<Staged>,
    /// How long it waited for a stream.
    waited: Duration,
    _workspace: Arc<Arena>,
    _model: Arc<CudaModel>,
    _kernels: Option<Arc<Kernels>>,
    _staging: Staging,
}

impl Held {
    pub(super) fn new(
        job: Job,
        places: &Places,
        model: &Arc<CudaModel>,
        context: &Context,
        waited: Duration,
    ) -> Held {
        Held {
            job,
            staged: places.staged,
            waited,
            _workspace: Arc::clone(context.workspace()),
            _model: Arc::clone(model),
            _kernels: model.kernels().cloned(),
            _staging: places.staging.clone(),
        }
    }

    /// The job, and what was timed with what explains it.
    pub(super) fn land(self, times: StageTimes) -> (Job, StageTimes) {
        let mut times = times;
        times.set_staged(self.staged);
        times.set(Stage::Queue, u64::try_from(self.waited.as_nanos()).unwrap_or(u64::MAX));
        (self.job, times)
    }

    pub(super) fn into_job(self) -> Job {
        self.job
    }
}

/// How bytes come to the model, or from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// They are used where they are.
    InPlace,
    /// A copy engine, or for pageable memory the driver, moves them.
    Copy,
    /// A kernel reads or writes host memory.
    Kernel,
}

/// Where the model finds its tensors, and how they come there.
#[derive(Debug)]
pub(super) struct Places {
    /// How the payload comes to the device.
    pub(super) request: Way,
    /// Set where the payload is a raw picture: what the kernel is told.
    pub(super) picture: Option<PictureStep>,
    pub(super) reply: Way,
    pub(super) staging: Staging,
    pub(super) staged: Option<Staged>,
    addresses: Vec<u64>,
}

impl Places {
    /// Decides for one request; `others` are in flight on the device.
    pub(super) fn of(
        model: &CudaModel,
        context: &mut Context,
        pictures: Option<&mut Pictures>,
        job: &Job,
        others: usize,
    ) -> Result<Places, EngineError> {
        let here = Placement::Cuda(model.device().ordinal());
        let slot = job.arrival.slot.request();
        let is_raw =
            job.prepared.is_none() && matches!(job.arrival.what.kind, RequestKind::Raw { .. });
        let on_device = job.prepared.is_none() && slot.placement() == here;
        let staged = (!on_device).then(|| stage(job, &slot, others, model.kernels().is_some()));
        let (request, reply) = match staged.map(|it| it.memory) {
            None => (Way::InPlace, Way::InPlace),
            Some(HostMemory::Mapped) => (Way::Kernel, Way::Kernel),
            Some(HostMemory::Pageable | HostMemory::Pinned) => (Way::Copy, Way::Copy),
        };
        // What was prepared here lies in memory of this process, wherever the slot is.
        let reply = if job.arrival.slot.reply().placement() == here { Way::InPlace } else { reply };
        // Integers are copied before they are used as an index: a peer may write them at any time.
        let floats = job.binding.inputs.iter().all(|tensor| tensor.dtype.is_float());
        let request = if request == Way::InPlace && !floats { Way::Copy } else { request };
        let picture = match (is_raw, pictures) {
            (false, _) => None,
            // Mapped memory is streamed in first: many small reads across PCIe under way at once
            // take less than those of the picture's own kernel.
            (true, Some(pictures)) => Some(pictures.step(&job.arrival.what.kind)?),
            (true, None) => {
                return Err(EngineError::Run("a raw picture without its kernel".to_owned()));
            }
        };
        let raw_bytes = match request {
            Way::Copy | Way::Kernel if is_raw => job.arrival.payload_bytes,
            _ => 0,
        };
        let staging = context.staging(&job.binding, raw_bytes)?;
        let addresses = Vec::new();
        let mut places = Places { request, picture, reply, staging, staged, addresses };
        places.addresses = places.find(job)?;
        Ok(places)
    }

    /// One address per tensor of the model, inputs first.
    fn find(&self, job: &Job) -> Result<Vec<u64>, EngineError> {
        let (inputs, outputs) = (&job.binding.inputs, &job.binding.outputs);
        let mut addresses = Vec::with_capacity(inputs.len() + outputs.len());
        let in_slot = self.request == Way::InPlace && self.picture.is_none();
        for (index, tensor) in inputs.iter().enumerate() {
            addresses.push(if in_slot {
                address(job.input(index)?)?
            } else {
                part(self.staging.request(), tensor.offset, tensor.bytes)?
            });
        }
        for (index, tensor) in outputs.iter().enumerate() {
            addresses.push(match self.reply {
                Way::InPlace => address(job.output(index)?)?,
                Way::Copy | Way::Kernel => part(self.staging.reply(), tensor.offset, tensor.bytes)?,
            });
        }
        Ok(addresses)
    }

    pub(super) fn addresses(&self) -> &[u64] {
        &self.addresses
    }
}

/// What host memory is to the device for this request, and why.
fn stage(job: &Job, slot: &View<'_>, others: usize, kernels: bool) -> Staged {
    let registered = job.prepared.is_none() && slot.device().is_some();
    let (memory, why) = match job.memory {
        MemoryChoice::Always(HostMemory::Pageable) => (HostMemory::Pageable, Why::Asked),
        _ if !registered => (HostMemory::Pageable, Why::Unregistered),
        MemoryChoice::Always(memory) => (memory, Why::Asked),
        MemoryChoice::Auto if !kernels => (HostMemory::Pinned, Why::Busy),
        MemoryChoice::Auto if job.arrival.payload_bytes > LARGE_BYTES => {
            (HostMemory::Pinned, Why::Large)
        }
        MemoryChoice::Auto if others > 0 => (HostMemory::Pinned, Why::Busy),
        MemoryChoice::Auto => (HostMemory::Mapped, Why::Idle),
    };
    Staged { memory, why }
}

fn unreachable_memory() -> EngineError {
    EngineError::Run("memory that the device cannot reach".to_owned())
}

fn address(view: View<'_>) -> Result<u64, EngineError> {
    Ok(view.device().ok_or_else(unreachable_memory)?.address)
}

fn part(view: View<'_>, offset: u64, bytes: u64) -> Result<u64, EngineError> {
    let (Ok(at), Ok(len)) = (usize::try_from(offset), usize::try_from(bytes)) else {
        return Err(unreachable_memory());
    };
    address(view.part(at, len)?)
}
