//! The seam: one loaded instance of a model.

use std::sync::Arc;

use ferry_core::{
    BoundSignature, BoundTensor, DType, MemoryChoice, OutputShapes, Part, Signature, StageTimes,
    payload_bytes,
};
use ferry_memory::{MemoryError, Placer, Region, View, ViewMut};

use crate::batch::copy;
use crate::guard::ArrivalGuard;
use crate::options::Picture;

/// One loaded instance of a model, called by one thread at a time.
///
/// Made for submit and complete, so that a device can have the work of several sessions in
/// flight; an engine that computes on the calling thread is done when `submit` returns.
///
/// An engine that panics is dropped and not called again. The jobs that it holds answer for
/// themselves; see [`ArrivalGuard`].
pub trait Engine: Send {
    /// What the model takes and gives.
    fn signature(&self) -> &Signature;

    /// How many jobs may be in flight at once; at least 1.
    fn depth(&self) -> usize;

    /// Whether it makes its input of a raw picture by itself, given what the model wants of one;
    /// [`Job::prepared`] is empty then. Asked once, before the first job.
    fn prepares(&mut self, _picture: &Picture) -> bool {
        false
    }

    /// Makes host memory known to the device that runs the model, so that inputs made here (see
    /// [`Job::prepared`]) reach it fastest; `None` where any memory of the host is as good. Asked
    /// once, before the first job.
    fn placer(&self) -> Option<Arc<dyn Placer>> {
        None
    }

    /// How many batches may be in flight at once, of the jobs that [`depth`](Engine::depth) allows;
    /// at least 1. While there is one, no other is made that has not its full size: what waits
    /// costs nothing as long as the device is at work.
    fn batches_at_once(&self) -> usize {
        self.depth()
    }

    /// Gets ready for batches of these shapes, whose rows rise. `None` where a batch may have any
    /// number of rows; else of how many, from the first on, the engine is ready: a batch of another
    /// size would take it long. Asked once, before the first job, where the model is batched. There
    /// are no batches where a model has more open dimensions than the rows.
    fn ready_for(&mut self, _batches: &[Arc<BoundSignature>]) -> Option<usize> {
        None
    }

    /// Whether it brings the inputs of a batch's requests together by itself, and takes the outputs
    /// back to them: see [`Job::members`]. Asked before each batch.
    fn gathers(&self) -> bool {
        false
    }

    /// How another thread ends a run that takes too long; `None` where nothing can, and where
    /// [`submit`](Engine::submit) only starts a run.
    fn interrupt(&self) -> Option<Arc<dyn Interrupt>> {
        None
    }

    /// Starts a job, or runs it: a job that is done is returned, one that is in flight comes back
    /// from [`poll`](Engine::poll). At most [`depth`](Engine::depth) jobs may be in flight.
    fn submit(&mut self, job: Job) -> Option<Finished>;

    /// Appends the pending jobs that are finished. Never waits.
    fn poll(&mut self, finished: &mut Vec<Finished>);
}

/// Ends a run of an engine from another thread.
pub trait Interrupt: Send + Sync + std::fmt::Debug {
    /// Makes the run that the engine is in fail soon, and every later one at once. A run that is
    /// over all the same may still succeed.
    fn interrupt(&self);

    /// From now on runs go on to their end again.
    fn resume(&self);
}

/// A request, ready for the model: moved into flight, and back with the answer.
#[derive(Debug)]
pub struct Job {
    /// The request and its slot. Lost in a panic, it is answered all the same. Of a batch: one that
    /// the pool made, with a slot of its own.
    pub arrival: ArrivalGuard,
    /// Shapes and places of its tensors.
    pub binding: Arc<BoundSignature>,
    /// The inputs, where they are not the request's payload but were made from it (a picture
    /// decoded and normalised). Laid out as the payload would be.
    pub prepared: Option<Region>,
    /// What the session wants its host memory to be to a device.
    pub memory: MemoryChoice,
    /// Where the outputs lie, if that is not where `binding` has them: the engine says so with
    /// [`Job::place_outputs`].
    pub placed: Option<Box<Placed>>,
    /// The requests of which this is the batch, where the engine [gathers](Engine::gathers): it
    /// finds the inputs with them and leaves the outputs with them, and `arrival` has no payload.
    /// Empty where the payload is the arrival's. Lost in a panic, each is answered all the same.
    pub members: Vec<JobMember>,
}

/// One request of a batch that the engine puts together.
#[derive(Debug)]
pub struct JobMember {
    /// The request and its slot.
    pub arrival: ArrivalGuard,
    /// Shapes and places of its own tensors.
    pub binding: Arc<BoundSignature>,
    /// Behind how many rows of the batch its own begin.
    pub(crate) rows_at: u64,
}

impl JobMember {
    /// The bytes of input `index`, and where they belong in the batch's payload.
    ///
    /// # Errors
    /// As [`Job::input`].
    pub fn input(
        &self,
        batch: &BoundSignature,
        index: usize,
    ) -> Result<(View<'_>, usize), MemoryError> {
        let payload = self.arrival.slot.request().part(0, self.arrival.payload_bytes)?;
        let tensors = batch.inputs.get(index).zip(self.binding.inputs.get(index));
        let (own, at) = self.place(tensors, index, payload.bytes())?;
        Ok((payload.part(own.0, own.1)?, at))
    }

    /// The room for output `index`, and where it lies in the batch's reply.
    ///
    /// # Errors
    /// As [`Job::output`].
    pub fn output(
        &self,
        batch: &BoundSignature,
        index: usize,
    ) -> Result<(View<'_>, usize), MemoryError> {
        let room = self.arrival.slot.reply();
        let tensors = batch.outputs.get(index).zip(self.binding.outputs.get(index));
        let (own, at) = self.place(tensors, index, room.bytes())?;
        Ok((room.part(own.0, own.1)?, at))
    }

    /// As [`output`](JobMember::output), to write.
    ///
    /// # Errors
    /// As [`Job::output`].
    pub fn output_mut(
        &mut self,
        batch: &BoundSignature,
        index: usize,
    ) -> Result<(ViewMut<'_>, usize), MemoryError> {
        let room = self.arrival.slot.reply().bytes();
        let tensors = batch.outputs.get(index).zip(self.binding.outputs.get(index));
        let ((start, bytes), at) = self.place(tensors, index, room)?;
        Ok((self.arrival.slot.reply_mut().into_part(start, bytes)?, at))
    }

    /// Where a tensor lies in the slot, and where in the batch.
    fn place(
        &self,
        tensors: Option<(&BoundTensor, &BoundTensor)>,
        index: usize,
        bytes: usize,
    ) -> Result<((usize, usize), usize), MemoryError> {
        let own = range(tensors.map(|(_, own)| (own.offset, own.bytes)), index, bytes)?;
        let at = tensors.map_or(0, |(batch, own)| copy::place(batch, own, self.rows_at).0);
        Ok((own, at))
    }
}

/// The outputs of one run, as large as the model made them.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Their shapes.
    pub shapes: OutputShapes,
    /// Their places in the reply's payload.
    parts: Vec<Part>,
}

impl Placed {
    /// Length of the reply's payload in bytes.
    pub fn bytes(&self) -> u64 {
        payload_bytes(&self.parts)
    }
}

impl Job {
    /// The bytes of input `index` of the signature. Where they lie in the slot, a peer may change
    /// them at any time; see [`Job::inputs_are_private`].
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] if there is no such input, or if the payload ends before it
    /// does: behind the payload lie bytes of an earlier request.
    pub fn input(&self, index: usize) -> Result<View<'_>, MemoryError> {
        let all = match &self.prepared {
            Some(region) => region.view(),
            None => self.arrival.slot.request().part(0, self.arrival.payload_bytes)?,
        };
        let place = self.binding.inputs.get(index).map(|t| (t.offset, t.bytes));
        let (at, bytes) = range(place, index, all.bytes())?;
        all.part(at, bytes)
    }

    /// The room for output `index` of the signature, or the output itself once the job is done: to
    /// read, or for native code that writes there while the job is its own.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] if there is no such output, or if the slot has no room for it.
    pub fn output(&self, index: usize) -> Result<View<'_>, MemoryError> {
        let all = self.arrival.slot.reply();
        let (at, bytes) = self.output_range(index, all.bytes())?;
        all.part(at, bytes)
    }

    /// Where output `index` of the signature begins in the reply's payload, in bytes.
    ///
    /// # Errors
    /// As [`output`](Job::output).
    pub fn output_offset(&self, index: usize) -> Result<usize, MemoryError> {
        let room = self.arrival.slot.reply().bytes();
        self.output_range(index, room).map(|(offset, _)| offset)
    }

    /// The room for output `index` of the signature, to write.
    ///
    /// # Errors
    /// As [`output`](Job::output).
    pub fn output_mut(&mut self, index: usize) -> Result<ViewMut<'_>, MemoryError> {
        let (at, bytes) = self.output_range(index, self.arrival.slot.reply().bytes())?;
        self.arrival.slot.reply_mut().into_part(at, bytes)
    }

    /// The only input to read and the only output to write, at once; the first of each, where a
    /// model has more.
    ///
    /// # Errors
    /// As [`input`](Job::input) and [`output_mut`](Job::output_mut).
    pub fn input_and_output(&mut self) -> Result<(View<'_>, ViewMut<'_>), MemoryError> {
        let (at, bytes) = self.output_range(0, self.arrival.slot.reply().bytes())?;
        let Job { arrival, binding, prepared, .. } = self;
        let payload_bytes = arrival.payload_bytes;
        let (request, reply) = arrival.slot.halves_mut();
        let payload = match prepared {
            Some(region) => region.view(),
            None => request.part(0, payload_bytes)?,
        };
        let place = binding.inputs.first().map(|t| (t.offset, t.bytes));
        let (from, len) = range(place, 0, payload.bytes())?;
        Ok((payload.part(from, len)?, reply.into_part(at, bytes)?))
    }

    fn output_range(&self, index: usize, room: usize) -> Result<(usize, usize), MemoryError> {
        let place = match &self.placed {
            Some(placed) => placed.parts.get(index).map(|part| (part.offset, part.bytes)),
            None => self.binding.outputs.get(index).map(|t| (t.offset, t.bytes)),
        };
        range(place, index, room)
    }

    /// Gives the outputs the shapes that the model made them, and with them their places: call it
    /// before they are written, where a shape may be another one than `binding` has.
    ///
    /// # Errors
    /// [`EngineError::ReplyTooLarge`] if the slot has no room for them; the shapes are kept, so
    /// that the client learns how much it needs. [`EngineError::Run`] if a reply cannot tell of
    /// them.
    pub fn place_outputs<S: AsRef<[u64]>>(
        &mut self,
        shapes: impl IntoIterator<Item = S>,
    ) -> Result<(), EngineError> {
        let shapes = OutputShapes::of(shapes).map_err(|why| EngineError::Run(why.to_string()))?;
        let agreed = self.binding.outputs.iter().map(|tensor| tensor.shape.as_slice());
        if shapes.iter().eq(agreed) {
            self.placed = None;
            return Ok(());
        }
        let parts = self.binding.parts(&shapes).ok_or_else(|| {
            let (has, wants) = (shapes.len(), self.binding.outputs.len());
            EngineError::Run(format!("the model gave {has} outputs, and has {wants}"))
        })?;
        let placed = self.placed.insert(Box::new(Placed { shapes, parts }));
        let room = self.arrival.slot.reply().bytes() as u64;
        let beyond = placed.parts.iter().position(|part| part.end() > room);
        let Some(first) = beyond else { return Ok(()) };
        let tensor = &self.binding.outputs[first];
        Err(EngineError::ReplyTooLarge(Box::new(TooLarge {
            name: tensor.name.clone(),
            dtype: tensor.dtype,
            shape: placed.shapes.get(first).unwrap_or_default().to_vec(),
            bytes: placed.bytes(),
            room,
        })))
    }

    /// Whether nobody but the engine can change the inputs while it runs.
    pub fn inputs_are_private(&self) -> bool {
        self.prepared.is_some() || self.arrival.slot.request_bytes().is_some()
    }
}

/// Where tensor `index` lies and how long it is, in this machine's numbers.
fn range(
    place: Option<(u64, u64)>,
    index: usize,
    room: usize,
) -> Result<(usize, usize), MemoryError> {
    let none = MemoryError::OutOfRange { at: index, len: 1, bytes: 0 };
    let (offset, bytes) = place.ok_or(none)?;
    let outside = |_| MemoryError::OutOfRange { at: usize::MAX, len: 0, bytes: room };
    Ok((usize::try_from(offset).map_err(outside)?, usize::try_from(bytes).map_err(outside)?))
}

/// A job that ended.
#[derive(Debug)]
pub struct Finished {
    /// Given back.
    pub job: Job,
    /// The stages that the engine timed (`copy_in`, `preprocess`, `infer`, `postprocess`,
    /// `copy_out`), or why it failed. All outputs are in place if it did not.
    pub outcome: Result<StageTimes, EngineError>,
}

/// Outputs that do not fit a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// The first output that does not fit.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<u64>,
    /// What all outputs take, in bytes.
    pub bytes: u64,
    /// What the slot has for them, in bytes.
    pub room: u64,
}

impl std::fmt::Display for TooLarge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let TooLarge { name, dtype, shape, bytes, room } = self;
        write!(
            f,
            "output {name:?} has shape {shape:?} of {dtype}, and with it the reply has {bytes} \
             bytes where the session has room for {room}: open a session with room for replies of \
             {bytes} bytes, or set [outputs] in the model's TOML"
        )
    }
}

/// Why a model could not be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The native library is missing or too old.
    #[error("{library} is not usable: {why}")]
    Library {
        /// Which library.
        library: &'static str,
        /// Why, and what to do.
        why: String,
    },
    /// The file is not a model that this engine can run.
    #[error("model is not usable: {0}")]
    Model(String),
    /// The shapes of a session cannot be run.
    #[error("shapes cannot be run: {0}")]
    Shapes(String),
    /// This process can no longer use the device, and every later run fails too: the
    /// engine is dropped once its jobs are back.
    #[error("device lost: {0}")]
    Lost(String),
    /// The model does not take the values of an input, such as an index behind the end.
    #[error("the model does not take these inputs: {0}")]
    Input(String),
    /// The model failed while it ran.
    #[error("run failed: {0}")]
    Run(String),
    /// The outputs are larger than the slot's room for them.
    #[error("{0}")]
    ReplyTooLarge(Box<TooLarge>),
    /// Memory could not be reached.
    #[error("reach tensor memory")]
    Memory(#[from] MemoryError),
}
