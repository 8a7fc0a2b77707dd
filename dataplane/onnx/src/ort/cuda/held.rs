//! What a request under way holds, and where its tensors are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{
    BoundSignature, BoundTensor, DType, HostMemory, Placement, RequestKind, Stage, StageTimes,
    Staged, Why, nanos,
};
use ferry_cuda::picture::PictureStep;
use ferry_cuda::{Arena, Kernels};
use ferry_engine::{EngineError, Job};
use ferry_memory::{MemoryError, Region, View};

use super::context::{Context, Needs, Staging};
use super::model::CudaModel;
use super::native::NOT_BOUND;
use super::pictures::Pictures;
use crate::ort::private::only_true_and_false;

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
    /// The ways of a batch's requests.
    members: Vec<Ways>,
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
            members: places.members.clone(),
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
            true => drain(&mut self.job, &self.members, &self.staging).map(Some),
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
    /// moves them. So do booleans come, wherever they are.
    Bounce,
    /// A kernel reads or writes host memory.
    Kernel,
}

/// The two ways of a request that is one of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ways {
    pub(super) request: Way,
    pub(super) reply: Way,
}

/// Where the model finds its tensors, and how they come there.
#[derive(Debug)]
pub(super) struct Places {
    /// How the payload comes to the device.
    pub(super) request: Way,
    /// Set where the payload is a raw picture: what the kernel is told.
    pub(super) picture: Option<PictureStep>,
    pub(super) reply: Way,
    /// Of a batch that is put together on the device: the ways of its requests. If some of them
    /// bounce, `request` and `reply` say so.
    pub(super) members: Vec<Ways>,
    pub(super) staging: Staging,
    pub(super) staged: Option<Staged>,
    addresses: Vec<u64>,
    /// Whether the calling thread waits for the device while the payload is copied.
    copies_wait: bool,
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
        if !job.members.is_empty() {
            return Places::of_batch(model, context, job, others);
        }
        let here = Placement::Cuda(model.device().ordinal());
        let (slot, room) = (job.arrival.slot.request(), job.arrival.slot.reply());
        let is_raw =
            job.prepared.is_none() && matches!(job.arrival.what.kind, RequestKind::Raw { .. });
        let payload = job.prepared.as_ref().map_or(slot, Region::view);
        let on_device = payload.placement() == here;
        let staged = (!on_device).then(|| stage(job, &payload, others, model.kernels().is_some()));
        let way = |view: &View<'_>| match way(view, here, staged) {
            // Where batches are made, all is got ready for the stream's own memory.
            Way::InPlace if context.is_ready() => Way::Copy,
            way => way,
        };
        let plain = model.floats_are_plain();
        let request = of_request(way(&payload), &job.binding.inputs, plain);
        let reply = of_reply(way(&room), &job.binding.outputs, plain);
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
            bounce_in: bounce_bytes(request, job.arrival.payload_bytes),
            bounce_out: bounce_bytes(reply, long(job.binding.reply_bytes())),
        };
        let staging = context.staging(&job.binding, needs)?;
        let copies_wait = staged.is_some_and(|it| it.memory == HostMemory::Pageable)
            || on_device && request == Way::Bounce;
        let (addresses, members) = (Vec::new(), Vec::new());
        let mut places =
            Places { request, picture, reply, members, staging, staged, addresses, copies_wait };
        places.addresses = places.find(job, model.known_outputs(&job.binding))?;
        Ok(places)
    }

    /// As `of`, for a batch whose requests are still apart.
    fn of_batch(
        model: &CudaModel,
        context: &mut Context,
        job: &Job,
        others: usize,
    ) -> Result<Places, EngineError> {
        let here = Placement::Cuda(model.device().ordinal());
        let (plain, kernels) = (model.floats_are_plain(), model.kernels().is_some());
        let (mut members, mut of_host) = (Vec::with_capacity(job.members.len()), None);
        let mut copies_wait = false;
        for member in &job.members {
            let (slot, room) = (member.arrival.slot.request(), member.arrival.slot.reply());
            let on_device = slot.placement() == here;
            let staged = (!on_device).then(|| stage(job, &slot, others, kernels));
            let copied = |view: &View<'_>| match way(view, here, staged) {
                Way::InPlace => Way::Copy,
                way => way,
            };
            let request = of_request(copied(&slot), &job.binding.inputs, plain);
            let reply = of_reply(copied(&room), &job.binding.outputs, plain);
            copies_wait |= staged.is_some_and(|it| it.memory == HostMemory::Pageable)
                || on_device && request == Way::Bounce;
            of_host = of_host.or(staged);
            members.push(Ways { request, reply });
        }
        let bounces = |way: fn(&Ways) -> Way| match members.iter().any(|it| way(it) == Way::Bounce)
        {
            true => Way::Bounce,
            false => Way::Copy,
        };
        let (request, reply) = (bounces(|it| it.request), bounces(|it| it.reply));
        let needs = Needs {
            raw: 0,
            bounce_in: bounce_bytes(request, long(job.binding.request_bytes())),
            bounce_out: bounce_bytes(reply, long(job.binding.reply_bytes())),
        };
        let staging = context.staging(&job.binding, needs)?;
        let (addresses, picture, staged) = (Vec::new(), None, of_host);
        let mut places =
            Places { request, picture, reply, members, staging, staged, addresses, copies_wait };
        places.addresses = places.find(job, model.known_outputs(&job.binding))?;
        Ok(places)
    }

    /// Where the tensors of requests of these shapes are, if all are copied.
    pub(super) fn addresses_in(
        staging: &Staging,
        shapes: &BoundSignature,
    ) -> Result<Vec<u64>, EngineError> {
        let inputs = shapes.inputs.iter().map(|it| part(staging.request(), it.offset, it.bytes));
        let outputs = shapes.outputs.iter().map(|it| part(staging.reply(), it.offset, it.bytes));
        inputs.chain(outputs).collect()
    }

    /// One address per tensor of the model, inputs first. Outputs behind the first `known` have
    /// none.
    fn find(&self, job: &Job, known: usize) -> Result<Vec<u64>, EngineError> {
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
                _ if index >= known => NOT_BOUND,
                Way::InPlace => address(job.output(index)?)?,
                _ => part(self.staging.reply(), tensor.offset, tensor.bytes)?,
            });
        }
        Ok(addresses)
    }

    pub(super) fn addresses(&self) -> &[u64] {
        &self.addresses
    }

    /// Where each output is to be; `None` where the library finds the memory.
    pub(super) fn outputs(&self, job: &Job) -> impl Iterator<Item = Option<u64>> {
        let outputs = self.addresses.iter().skip(job.binding.inputs.len());
        outputs.map(|&address| (address != NOT_BOUND).then_some(address))
    }

    /// Leaves it to the library to find memory for every output.
    pub(super) fn forget_outputs(&mut self, job: &Job) {
        for address in self.addresses.iter_mut().skip(job.binding.inputs.len()) {
            *address = NOT_BOUND;
        }
    }

    /// Whether the calling thread waits for the device while the payload is copied.
    pub(super) fn copies_wait(&self) -> bool {
        self.copies_wait
    }

    /// Copies the payload to pinned memory, where a copy engine cannot read it where it lies, or it
    /// holds booleans; how long that took.
    pub(super) fn fill(&self, job: &Job) -> Result<Option<Duration>, MemoryError> {
        if self.request != Way::Bounce {
            return Ok(None);
        }
        let start = Instant::now();
        let mut to = self.staging.bounce_in().ok_or_else(no_bounce)?;
        let bytes = job.arrival.payload_bytes;
        if self.members.is_empty() {
            to.view_mut().copy_from(&job.arrival.slot.request(), bytes)?;
        }
        let members = job.members.iter().zip(&self.members);
        for (member, _) in members.filter(|(_, ways)| ways.request == Way::Bounce) {
            for index in 0..job.binding.inputs.len() {
                let (from, at) = member.input(&job.binding, index)?;
                to.view_mut().into_part(at, from.bytes())?.copy_from(&from, from.bytes())?;
            }
        }
        for tensor in job.binding.inputs.iter().filter(|it| it.dtype == DType::Bool) {
            let (at, mut booleans) = (long(tensor.offset), vec![0; long(tensor.bytes)]);
            to.view().part(0, bytes)?.copy_out(at, &mut booleans)?;
            only_true_and_false(&mut booleans);
            to.view_mut().copy_in(at, &booleans)?;
        }
        Ok(Some(start.elapsed()))
    }

    /// Copies the reply to where it belongs, if it is in pinned memory of the stream's; how long
    /// that took.
    pub(super) fn drain(&self, job: &mut Job) -> Result<Option<Duration>, MemoryError> {
        if self.reply != Way::Bounce {
            return Ok(None);
        }
        drain(job, &self.members, &self.staging).map(Some)
    }
}

/// The way of a payload, given how it can come to the device.
fn of_request(way: Way, inputs: &[BoundTensor], floats_are_plain: bool) -> Way {
    // A byte other than 0 and 1 is no boolean, and a kernel may do anything with it.
    if inputs.iter().any(|tensor| tensor.dtype == DType::Bool) {
        return Way::Bounce;
    }
    unless_peers_may_write(way, inputs, floats_are_plain)
}

/// The way of a reply, given how it can come from the device.
fn of_reply(way: Way, outputs: &[BoundTensor], floats_are_plain: bool) -> Way {
    // A model may go on computing with what is also an output.
    unless_peers_may_write(way, outputs, floats_are_plain)
}

/// A peer may write a slot on the device at any time: what may be an index or a size is not used
/// there.
fn unless_peers_may_write(way: Way, tensors: &[BoundTensor], floats_are_plain: bool) -> Way {
    let plain = floats_are_plain && tensors.iter().all(|tensor| tensor.dtype.is_float());
    if way == Way::InPlace && !plain { Way::Copy } else { way }
}

/// Pinned memory for so many bytes that go this way. There is some where there are none: a
/// payload without bytes goes the same way.
fn bounce_bytes(way: Way, bytes: usize) -> usize {
    if way == Way::Bounce { bytes.max(1) } else { 0 }
}

fn drain(job: &mut Job, members: &[Ways], staging: &Staging) -> Result<Duration, MemoryError> {
    let start = Instant::now();
    let from = staging.bounce_out().ok_or_else(no_bounce)?;
    if members.is_empty() {
        let bytes = long(job.binding.reply_bytes());
        job.arrival.slot.reply_mut().copy_from(&from, bytes)?;
    }
    let waiting = job.members.iter_mut().zip(members);
    for (member, _) in waiting.filter(|(_, ways)| ways.reply == Way::Bounce) {
        for index in 0..job.binding.outputs.len() {
            let (mut to, at) = member.output_mut(&job.binding, index)?;
            let bytes = to.bytes();
            to.copy_from(&from.part(at, bytes)?, bytes)?;
        }
    }
    Ok(start.elapsed())
}

/// How bytes come to the device `here`, or go from it.
fn way(view: &View<'_>, here: Placement, staged: Option<Staged>) -> Way {
    match staged.map(|it| it.memory) {
        // What was prepared here is not where the slot is.
        _ if view.placement() == here => Way::InPlace,
        Some(HostMemory::Pageable) => Way::Copy,
        _ if view.device().is_none() => Way::Bounce,
        Some(HostMemory::Mapped) => Way::Kernel,
        None | Some(HostMemory::Pinned) => Way::Copy,
    }
}

pub(super) fn no_bounce() -> MemoryError {
    MemoryError::Layout { what: "no pinned memory for what is not registered".to_owned() }
}

/// Saturates: no memory is that long, and whoever asks for it is refused.
pub(super) fn long(bytes: u64) -> usize {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(dtype: DType) -> BoundTensor {
        BoundTensor { name: "x".into(), dtype, shape: vec![1], offset: 0, bytes: 1, open: false }
    }

    const WAYS: [Way; 4] = [Way::InPlace, Way::Copy, Way::Bounce, Way::Kernel];

    #[test]
    fn plain_floats_alone_are_used_where_a_peer_may_write() {
        let (float, index) = (tensor(DType::F32), tensor(DType::I64));
        for way in WAYS {
            let copied = if way == Way::InPlace { Way::Copy } else { way };
            for of in [of_request, of_reply] {
                assert_eq!(of(way, std::slice::from_ref(&float), true), way);
                assert_eq!(of(way, std::slice::from_ref(&float), false), copied);
                assert_eq!(of(way, &[float.clone(), index.clone()], true), copied);
            }
        }
    }

    #[test]
    fn booleans_come_by_the_host_and_go_as_they_are() {
        let (float, boolean) = (tensor(DType::F32), tensor(DType::Bool));
        for way in WAYS {
            assert_eq!(of_request(way, &[float.clone(), boolean.clone()], true), Way::Bounce);
            let copied = if way == Way::InPlace { Way::Copy } else { way };
            assert_eq!(of_reply(way, std::slice::from_ref(&boolean), true), copied);
        }
    }

    #[test]
    fn what_has_no_bytes_has_a_place_to_come_by() {
        assert_eq!((bounce_bytes(Way::Bounce, 0), bounce_bytes(Way::Bounce, 9)), (1, 9));
        assert_eq!(bounce_bytes(Way::Copy, 9), 0);
    }
}
