//! One context and one stream: where a job is from its start until the device is done with it.

use std::sync::Arc;
use std::time::Instant;

use ferry_core::{BoundSignature, BoundTensor, Placement, Stage, StageTimes};
use ferry_engine::{EngineError, Job};
use ferry_memory::{Region, View};

use super::execution::Execution;
use super::gpu::{Gpu, GpuError};

/// Where tensors must start for TensorRT to use them in place: as CUDA allocates.
const ALIGN_BYTES: u64 = 256;

/// One run at a time.
#[derive(Debug)]
pub(crate) struct Lane<G: Gpu, X: Execution> {
    /// Fields are dropped in this order: what uses first, then what is used.
    execution: X,
    stream: G::Stream,
    /// Start, inputs copied, run over, outputs copied.
    events: [G::Event; 4],
    inputs: Vec<Room<G>>,
    outputs: Vec<Room<G>>,
    /// What the context is set to.
    shapes: Option<Arc<BoundSignature>>,
    flight: Option<Flight>,
    gpu: Arc<G>,
}

/// Memory for one tensor, where it cannot be used where it lies. It only grows.
#[derive(Debug)]
struct Room<G: Gpu> {
    device: Option<(usize, G::Buffer)>,
    host: Option<Region>,
}

/// A job that the device may be at work on.
#[derive(Debug)]
struct Flight {
    job: Job,
    times: StageTimes,
    copied: [bool; 2],
    /// Outputs that are in pinned memory of the lane's own, and belong into the slot.
    staged: Vec<usize>,
}

impl<G: Gpu, X: Execution> Lane<G, X> {
    pub(crate) fn new(
        gpu: &Arc<G>,
        execution: X,
        [inputs, outputs]: [usize; 2],
    ) -> Result<Lane<G, X>, GpuError> {
        gpu.bind()?;
        let room = |count| {
            std::iter::repeat_with(|| Room { device: None, host: None }).take(count).collect()
        };
        Ok(Lane {
            stream: gpu.stream()?,
            events: [gpu.event()?, gpu.event()?, gpu.event()?, gpu.event()?],
            gpu: Arc::clone(gpu),
            execution,
            inputs: room(inputs),
            outputs: room(outputs),
            shapes: None,
            flight: None,
        })
    }

    pub(crate) fn is_free(&self) -> bool {
        self.flight.is_none()
    }

    /// Starts a job whose shapes were checked to be the model's. An error gives it back, with
    /// nothing of it on the device.
    #[expect(clippy::result_large_err, reason = "the caller gets back what it gave")]
    pub(crate) fn start(&mut self, job: Job) -> Result<(), (Job, EngineError)> {
        let (times, copied) = (StageTimes::NONE, [false; 2]);
        // Held by the lane from here on: should anything panic, `drop` waits for the device.
        self.flight = Some(Flight { job, times, copied, staged: Vec::new() });
        match self.enqueue() {
            Ok(()) => Ok(()),
            Err(error) => match self.give_up() {
                Some(job) => Err((job, error)),
                None => Ok(()),
            },
        }
    }

    /// Waits for whatever is on the stream, and gives the job back.
    fn give_up(&mut self) -> Option<Job> {
        // The shapes may be half set.
        self.shapes = None;
        if let Err(error) = self.gpu.wait(&self.stream) {
            tracing::warn!(%error, "work that was given up");
        }
        self.flight.take().map(|flight| flight.job)
    }

    fn enqueue(&mut self) -> Result<(), EngineError> {
        let Lane { gpu, execution, stream, events, inputs, outputs, shapes, flight } = self;
        let Some(flight) = flight else { return Ok(()) };
        let binding = Arc::clone(&flight.job.binding);
        gpu.bind().map_err(failed)?;
        if shapes.as_ref().is_none_or(|set| !Arc::ptr_eq(set, &binding) && *set != binding) {
            for tensor in &binding.inputs {
                execution.set_shape(&tensor.name, &tensor.shape).map_err(EngineError::Shapes)?;
            }
        }
        *shapes = Some(Arc::clone(&binding));

        gpu.record(&events[0], stream).map_err(failed)?;
        let private = flight.job.inputs_are_private();
        let start = Instant::now();
        let mut staged = false;
        for (index, (tensor, room)) in binding.inputs.iter().zip(inputs).enumerate() {
            let view = flight.job.input(index)?;
            let (address, way) = room.fill(&**gpu, &view, tensor, private, stream)?;
            flight.copied[0] |= way != Way::InPlace;
            staged |= way == Way::Staged;
            // SAFETY: the address is of the view's own device memory, or of the room's, and as
            // long as the tensor (`fill` checks). The job keeps the view's memory, the lane the
            // room; neither goes before the stream is waited for or done: see `drop`.
            unsafe { execution.bind(&tensor.name, address) }.map_err(EngineError::Run)?;
        }
        if staged {
            flight.times.set(Stage::Preprocess, ns_since(start));
        }
        gpu.record(&events[1], stream).map_err(failed)?;

        let mut copies = Vec::with_capacity(binding.outputs.len());
        for (index, (tensor, room)) in binding.outputs.iter().zip(outputs).enumerate() {
            let view = flight.job.output(index)?;
            view.check_writable()?;
            let place = room.place(&**gpu, &view, tensor)?;
            // SAFETY: as for the inputs.
            unsafe { execution.bind(&tensor.name, place.run) }.map_err(EngineError::Run)?;
            if let Some(to) = place.copy_to {
                copies.push((to, place.run, view.bytes()));
                flight.copied[1] = true;
            }
            if place.staged {
                flight.staged.push(index);
            }
        }
        // SAFETY: the stream is of this device; every tensor of the signature was bound above.
        unsafe { execution.enqueue(gpu.raw_stream(stream)) }.map_err(EngineError::Run)?;
        gpu.record(&events[2], stream).map_err(failed)?;
        for (to, from, bytes) in copies {
            // SAFETY: both are as long as the output, and are kept by the job and the lane until
            // the copy is over.
            unsafe { gpu.copy(to, from, bytes, stream) }.map_err(failed)?;
        }
        gpu.record(&events[3], stream).map_err(failed)
    }

    /// The job, if the device is done with it, or has failed.
    pub(crate) fn take_done(&mut self) -> Option<(Job, Result<StageTimes, EngineError>)> {
        self.flight.as_ref()?;
        match self.gpu.is_done(&self.events[3]) {
            Ok(false) => None,
            Ok(true) => {
                let outcome = self.finish();
                self.flight.take().map(|flight| (flight.job, outcome))
            }
            Err(error) => self.give_up().map(|job| (job, Err(failed(error)))),
        }
    }

    fn finish(&mut self) -> Result<StageTimes, EngineError> {
        let Some(flight) = &mut self.flight else { return Ok(StageTimes::NONE) };
        let times = &mut flight.times;
        let between = |from: usize, to: usize| {
            self.gpu.ns_between(&self.events[from], &self.events[to]).map_err(failed)
        };
        if flight.copied[0] {
            times.set(Stage::CopyIn, between(0, 1)?);
        }
        times.set(Stage::Infer, between(1, 2)?);
        if flight.copied[1] {
            times.set(Stage::CopyOut, between(2, 3)?);
        }
        if !flight.staged.is_empty() {
            let start = Instant::now();
            for &index in &flight.staged {
                let to = flight.job.output(index)?;
                let from = self.outputs.get(index).and_then(|room| room.host.as_ref());
                let from = from.ok_or_else(|| failed("an output without a place"))?;
                to.copy_from(&from.view(), to.bytes())?;
            }
            times.set(Stage::Postprocess, ns_since(start));
        }
        Ok(*times)
    }
}

impl<G: Gpu, X: Execution> Drop for Lane<G, X> {
    fn drop(&mut self) {
        if self.flight.is_some() {
            drop(self.give_up());
        }
        // What goes now belongs to the device.
        if let Err(error) = self.gpu.bind() {
            tracing::warn!(%error, "a stream is freed without its device");
        }
    }
}

/// How an input reached the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    InPlace,
    Copied,
    /// By the host into pinned memory, and then copied.
    Staged,
}

/// Where an output is computed, and where it goes from there.
struct Place {
    run: u64,
    copy_to: Option<u64>,
    staged: bool,
}

impl<G: Gpu> Room<G> {
    /// Where the device finds an input. Used where it lies if it lies in the device's memory, and
    /// if nobody can change what an operator might use as an index.
    fn fill(
        &mut self,
        gpu: &G,
        view: &View<'_>,
        tensor: &BoundTensor,
        private: bool,
        stream: &G::Stream,
    ) -> Result<(u64, Way), EngineError> {
        let bytes = length(view, tensor)?;
        let reach = gpu.reach(view);
        let harmless = tensor.dtype.is_float() || private;
        if let Some(address) = reach.filter(|&it| harmless && in_place(view, it)) {
            return Ok((address, Way::InPlace));
        }
        let (from, way) = match reach {
            Some(from) => (from, Way::Copied),
            None => {
                let (host, address) = self.host(gpu, bytes)?;
                host.view().copy_from(view, bytes)?;
                (address, Way::Staged)
            }
        };
        let to = self.device(gpu, bytes)?;
        // SAFETY: both are `bytes` long: `to` was allocated so, `from` is the view or pinned
        // memory of at least its length. The job and the lane keep them until the copy is over.
        unsafe { gpu.copy(to, from, bytes, stream) }.map_err(failed)?;
        Ok((to, way))
    }

    fn place(
        &mut self,
        gpu: &G,
        view: &View<'_>,
        tensor: &BoundTensor,
    ) -> Result<Place, EngineError> {
        let bytes = length(view, tensor)?;
        let reach = gpu.reach(view);
        // A model may go on computing with what is also an output: see `fill`.
        let harmless = tensor.dtype.is_float();
        if let Some(run) = reach.filter(|&it| harmless && in_place(view, it)) {
            return Ok(Place { run, copy_to: None, staged: false });
        }
        let run = self.device(gpu, bytes)?;
        let copy_to = match reach {
            Some(to) => to,
            None => self.host(gpu, bytes)?.1,
        };
        Ok(Place { run, copy_to: Some(copy_to), staged: reach.is_none() })
    }

    fn device(&mut self, gpu: &G, bytes: usize) -> Result<u64, EngineError> {
        if self.device.as_ref().is_none_or(|(room, _)| *room < bytes) {
            // The old one first: the two together might not fit.
            self.device = None;
            self.device = Some((bytes, gpu.buffer(bytes).map_err(failed)?));
        }
        let none = || failed("device memory that was just taken is gone");
        self.device.as_ref().map(|(_, buffer)| gpu.address(buffer)).ok_or_else(none)
    }

    fn host(&mut self, gpu: &G, bytes: usize) -> Result<(&Region, u64), EngineError> {
        if self.host.as_ref().is_none_or(|room| room.bytes() < bytes) {
            self.host = None;
            self.host = Some(gpu.pinned(bytes).map_err(failed)?);
        }
        let region = self.host.as_ref().ok_or_else(|| failed("pinned memory is gone"))?;
        let address = gpu.reach(&region.view());
        Ok((region, address.ok_or_else(|| failed("pinned memory that the device cannot reach"))?))
    }
}

fn in_place(view: &View<'_>, address: u64) -> bool {
    matches!(view.placement(), Placement::Cuda(_)) && address.is_multiple_of(ALIGN_BYTES)
}

/// The length of a view, which must be the tensor's.
fn length(view: &View<'_>, tensor: &BoundTensor) -> Result<usize, EngineError> {
    if view.bytes() as u64 == tensor.bytes {
        return Ok(view.bytes());
    }
    let what = format!("{}: {} bytes for {}", tensor.name, view.bytes(), tensor.bytes);
    Err(EngineError::Shapes(what))
}

fn failed(error: impl std::fmt::Display) -> EngineError {
    EngineError::Run(error.to_string())
}

fn ns_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
