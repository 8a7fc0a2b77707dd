//! What a request under way holds, and where its tensors are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{HostMemory, Placement, RequestKind, Stage, StageTimes, Staged, Why, nanos};
use ferry_cuda::picture::PictureStep;
use ferry_cuda::{Arena, Kernels};
use ferry_engine::{EngineError, Job};
use ferry_memory::{MemoryError, Region, View};

use super::context::{Context, Needs, Staging};
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
    /// How long the host copied the payload to pinned memory.
    filled: Option<Duration>,
    /// Whether the reply is in pinned memory of the stream's, and not yet in the slot.
    reply_bounces: bool,
    staging: Staging,
    _workspace: Arc<Arena>,
    _model: Arc<CudaModel>,
    _kernels: Option<Arc<Kernels>>,
}

impl Held {
    pub(super) fn new(
        job: Job,
        places: &Places,
        model: &Arc<CudaModel>,
        context: &Context,
        waited: Duration,
        filled: Option<Duration>,
    ) -> Held {
        Held {
            job,
            staged: places.staged,
            waited,
            filled,
            reply_bounces: places.reply == Way::Bounce,
            staging: places.staging.clone(),
            _workspace: Arc::clone(context.workspace()),
            _model: Arc::clone(model),
            _kernels: model.kernels().cloned(),
        }
    }

    /// The job with its reply in its slot, and what was timed with what explains it.
    pub(super) fn land(mut self, times: StageTimes) -> (Job, Result<StageTimes, MemoryError>) {
        let mut times = times;
        times.set_staged(self.staged);
        times.set(Stage::Queue, nanos(self.waited));
        add(&mut times, Stage::CopyIn, self.filled);
        let drained = match self.reply_bounces {
            true => drain(&mut self.job, &self.staging).map(Some),
            false => Ok(None),
        };
        let times = drained.map(|drained| {
            add(&mut times, Stage::CopyOut, drained);
            times
        });
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
    /// The host copies them to pinned memory of the stream's own, or from it, and a copy engine
    /// moves them.
    Bounce,
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
        let (slot, room) = (job.arrival.slot.request(), job.arrival.slot.reply());
        let is_raw =
            job.prepared.is_none() && matches!(job.arrival.what.kind, RequestKind::Raw { .. });
        let payload = job.prepared.as_ref().map_or(slot, Region::view);
        let on_device = payload.placement() == here;
        let staged = (!on_device).then(|| stage(job, &payload, others, model.kernels().is_some()));
        let way = |view: &View<'_>| match staged.map(|it| it.memory) {
            // What was prepared here is not where the slot is.
            _ if view.placement() == here => Way::InPlace,
            Some(HostMemory::Pageable) => Way::Copy,
            _ if view.device().is_none() => Way::Bounce,
            Some(HostMemory::Mapped) => Way::Kernel,
            None | Some(HostMemory::Pinned) => Way::Copy,
        };
        let (request, reply) = (way(&payload), way(&room));
        // What is used as an index is copied before: a peer may write it at any time.
        let floats = job.binding.inputs.iter().all(|tensor| tensor.dtype.is_float());
        let plain = floats && model.floats_are_plain();
        let request = if request == Way::InPlace && !plain { Way::Copy } else { request };
        let picture = match (is_raw, pictures) {
            (false, _) => None,
            // Mapped memory is streamed in first: many small reads across PCIe under way at once
            // take less than those of the picture's own kernel.
            (true, Some(pictures)) => Some(pictures.step(&job.arrival.what.kind)?),
            (true, None) => {
                return Err(EngineError::Run("a raw picture without its kernel".to_owned()));
            }
        };
        let needs = Needs {
            raw: if is_raw && request != Way::InPlace { job.arrival.payload_bytes } else { 0 },
            bounce_in: if request == Way::Bounce { job.arrival.payload_bytes } else { 0 },
            bounce_out: if reply == Way::Bounce { long(job.binding.reply_bytes()) } else { 0 },
        };
        let staging = context.staging(&job.binding, needs)?;
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
                _ => part(self.staging.reply(), tensor.offset, tensor.bytes)?,
            });
        }
        Ok(addresses)
    }

    pub(super) fn addresses(&self) -> &[u64] {
        &self.addresses
    }

    /// Whether the driver copies while the calling thread waits.
    pub(super) fn copies_wait(&self) -> bool {
        self.staged.is_some_and(|it| it.memory == HostMemory::Pageable)
    }

    /// Copies the payload to pinned memory, where a copy engine cannot read it where it lies; how
    /// long that took.
    pub(super) fn fill(&self, job: &Job) -> Result<Option<Duration>, MemoryError> {
        if self.request != Way::Bounce {
            return Ok(None);
        }
        let start = Instant::now();
        let bytes = job.arrival.payload_bytes;
        let mut to = self.staging.bounce_in().ok_or_else(no_bounce)?;
        to.view_mut().copy_from(&job.arrival.slot.request(), bytes)?;
        Ok(Some(start.elapsed()))
    }

    /// Copies the reply to where it belongs, if it is in pinned memory of the stream's; how long
    /// that took.
    pub(super) fn drain(&self, job: &mut Job) -> Result<Option<Duration>, MemoryError> {
        if self.reply != Way::Bounce {
            return Ok(None);
        }
        drain(job, &self.staging).map(Some)
    }
}

fn drain(job: &mut Job, staging: &Staging) -> Result<Duration, MemoryError> {
    let start = Instant::now();
    let bytes = long(job.binding.reply_bytes());
    let from = staging.bounce_out().ok_or_else(no_bounce)?;
    job.arrival.slot.reply_mut().copy_from(&from, bytes)?;
    Ok(start.elapsed())
}

fn no_bounce() -> MemoryError {
    MemoryError::Layout { what: "no pinned memory for what is not registered".to_owned() }
}

/// Saturates: no memory is that long, and whoever asks for it is refused.
fn long(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Adds what the host did to what the device did for a stage.
pub(super) fn add(times: &mut StageTimes, stage: Stage, by_host: Option<Duration>) {
    if let Some(by_host) = by_host {
        times.set(stage, times.of(stage).unwrap_or(0).saturating_add(nanos(by_host)));
    }
}

/// What host memory is to the device for this request, and why.
fn stage(job: &Job, payload: &View<'_>, others: usize, kernels: bool) -> Staged {
    let bytes = job.prepared.as_ref().map_or(job.arrival.payload_bytes, Region::bytes);
    let is_large = bytes > LARGE_BYTES;
    Staged::choose(job.memory, payload.device().is_some(), || {
        if kernels && is_large {
            (HostMemory::Pinned, Why::Large)
        } else if !kernels || others > 0 {
            (HostMemory::Pinned, Why::Busy)
        } else {
            (HostMemory::Mapped, Why::Idle)
        }
    })
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
