//! One context and one stream: where a job is from its start until the device is done with it.

use std::sync::Arc;
use std::time::Instant;

use ferry_core::{BoundSignature, HostMemory, Placement, Stage, StageTimes, Staged, Why, nanos};
use ferry_engine::{EngineError, Job};

use super::execution::Execution;
use super::gpu::{Gpu, GpuError, reach};
use super::room::{How, Room, Way};

/// One run at a time.
#[derive(Debug)]
pub(crate) struct Lane<G: Gpu, X: Execution> {
    /// Fields are dropped in this order: what uses first, then what is used.
    execution: X,
    stream: G::Stream,
    /// Start, inputs copied, run over, outputs copied.
    events: [G::Event; 4],
    inputs: Vec<Room>,
    outputs: Vec<Room>,
    floats_are_plain: bool,
    /// What the context is set to.
    shapes: Option<Arc<BoundSignature>>,
    flight: Option<Flight>,
    gpu: Arc<G>,
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
        floats_are_plain: bool,
    ) -> Result<Lane<G, X>, GpuError> {
        gpu.bind()?;
        let room = |count| std::iter::repeat_with(Room::default).take(count).collect();
        Ok(Lane {
            stream: gpu.stream()?,
            events: [gpu.event()?, gpu.event()?, gpu.event()?, gpu.event()?],
            gpu: Arc::clone(gpu),
            execution,
            inputs: room(inputs),
            outputs: room(outputs),
            floats_are_plain,
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
        let Lane { gpu, execution, stream, events, inputs, outputs, shapes, flight, .. } = self;
        let Some(flight) = flight else { return Ok(()) };
        let binding = Arc::clone(&flight.job.binding);
        gpu.bind().map_err(EngineError::from)?;
        if shapes.as_ref().is_none_or(|set| !Arc::ptr_eq(set, &binding) && *set != binding) {
            for tensor in &binding.inputs {
                execution.set_shape(&tensor.name, &tensor.shape).map_err(EngineError::Shapes)?;
            }
        }
        *shapes = Some(Arc::clone(&binding));

        gpu.record(&events[0], stream).map_err(EngineError::from)?;
        let staged_as = stage(&**gpu, &flight.job)?;
        flight.times.set_staged(staged_as);
        let pageable = staged_as.is_some_and(|it| it.memory == HostMemory::Pageable);
        let private = flight.job.inputs_are_private();
        let how = How { private, floats_are_plain: self.floats_are_plain, pageable };
        let start = Instant::now();
        let mut staged = false;
        for (index, (tensor, room)) in binding.inputs.iter().zip(inputs).enumerate() {
            let view = flight.job.input(index)?;
            let (address, way) = room.fill(&**gpu, &view, tensor, how, stream)?;
            flight.copied[0] |= way != Way::InPlace;
            staged |= way == Way::Staged;
            // SAFETY: the address is of the view's own device memory, or of the room's, and as
            // long as the tensor (`fill` checks). The job keeps the view's memory, the lane the
            // room; neither goes before the stream is waited for or done: see `drop`.
            unsafe { execution.bind(&tensor.name, address) }.map_err(EngineError::Run)?;
        }
        if staged {
            flight.times.set(Stage::Preprocess, nanos(start.elapsed()));
        }
        gpu.record(&events[1], stream).map_err(EngineError::from)?;

        let mut copies = Vec::with_capacity(binding.outputs.len());
        for (index, (tensor, room)) in binding.outputs.iter().zip(outputs).enumerate() {
            let view = flight.job.output(index)?;
            view.check_writable()?;
            let place = room.place(&**gpu, &view, tensor, how)?;
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
        gpu.record(&events[2], stream).map_err(EngineError::from)?;
        for (to, from, bytes) in copies {
            // SAFETY: both are as long as the output, which may be written (checked above), and are
            // kept by the job and the lane until the copy is over.
            unsafe { gpu.copy(to, from, bytes, stream) }.map_err(EngineError::from)?;
        }
        gpu.record(&events[3], stream).map_err(EngineError::from)
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
            Err(error) => self.give_up().map(|job| (job, Err(error.into()))),
        }
    }

    fn finish(&mut self) -> Result<StageTimes, EngineError> {
        let Some(flight) = &mut self.flight else { return Ok(StageTimes::NONE) };
        let times = &mut flight.times;
        let between = |from: usize, to: usize| {
            self.gpu.ns_between(&self.events[from], &self.events[to]).map_err(EngineError::from)
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
                let mut to = flight.job.output_mut(index)?;
                let from = self.outputs.get(index).and_then(|room| room.staging());
                let from =
                    from.ok_or_else(|| EngineError::Run("an output without a place".to_owned()))?;
                let bytes = to.bytes();
                to.copy_from(&from.view(), bytes)?;
            }
            times.set(Stage::Postprocess, nanos(start.elapsed()));
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

/// What host memory is to the device for a job, and why; `None` for memory of the device.
fn stage<G: Gpu>(gpu: &G, job: &Job) -> Result<Option<Staged>, EngineError> {
    let slot = job.arrival.slot.request();
    let from_slot = job.prepared.is_none();
    if from_slot && slot.placement() == Placement::Cuda(gpu.ordinal()) {
        return Ok(None);
    }
    // What was prepared here lies in memory of this process, wherever the slot is.
    let is_registered = from_slot && reach(gpu, &slot).is_some();
    let staged = Staged::choose(job.memory, is_registered, || (HostMemory::Pinned, Why::Only));
    if staged.memory == HostMemory::Mapped {
        let why = "mapped memory, which tensorrt does not read in place: ask for pinned or auto, \
                   or serve the model with engine = \"onnx\"";
        return Err(EngineError::Run(why.to_owned()));
    }
    Ok(Some(staged))
}
