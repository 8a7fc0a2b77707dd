//! One stream of a model: its workspace, its own tensors, and its recorded graphs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferry_core::{BoundSignature, error_text};
use ferry_cuda::{Arena, Device, DeviceBacking, Graph, PinnedBacking, Priority, Runner};
use ferry_engine::EngineError;
use ferry_memory::{HeapBacking, Region, View};

use super::allocator::{with_arena, with_pins};
use super::error::{failed, without_memory};
use super::held::Places;
use super::model::CudaModel;
use super::pins::Pins;
use super::recording::{CudaSession, not_recording, recording};
use crate::file::one_line;
use crate::ort::declarations::{is_another_shape, other_shape};
use crate::ort::native::given::Left;

/// How many graphs a stream keeps: one for each slot whose device memory is used in place, and
/// one for all others. A graph of ResNet50 takes some 0.5 MiB of the host.
const GRAPHS_MAX: usize = 256;

/// Why there is no graph.
#[derive(Debug)]
pub(super) enum RecordError {
    /// The model ran, and cannot be recorded: it waits for the device on the way, or calls the
    /// host.
    Unrecordable(String),
    /// It did not run, as many other shapes are recorded as may be.
    TooManyShapes,
    /// It did not run.
    Engine(EngineError),
}

impl From<EngineError> for RecordError {
    fn from(error: EngineError) -> RecordError {
        RecordError::Engine(error)
    }
}

/// One stream. Its graphs share one workspace: they never run at the same time.
#[derive(Debug)]
pub(super) struct Context {
    /// By [`key`].
    graphs: HashMap<Vec<u64>, Kept>,
    staging: Option<Staging>,
    /// What graphs were got ready for; it stays as it is.
    ready: Option<Staging>,
    workspace: Arc<Arena>,
    pub(super) runner: Runner,
    /// Counts runs, to tell which graph was used last.
    runs: u64,
}

#[derive(Debug)]
struct Kept {
    recorded: Recorded,
    shapes: Arc<BoundSignature>,
    last_run: u64,
    /// It was got ready, and stays.
    stays: bool,
}

impl Kept {
    fn is_for(&self, shapes: &Arc<BoundSignature>) -> bool {
        Arc::ptr_eq(&self.shapes, shapes) || self.shapes == *shapes
    }
}

/// A recorded run.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) graph: Graph,
    /// What the graph leaves elsewhere than in the places of the outputs.
    pub(super) strays: Vec<Stray>,
    /// What the graph copies from; after it.
    _pins: Arc<Pins>,
    /// Whose kernels it launches; after it.
    _session: Arc<CudaSession>,
}

/// An output that the model does not write, because another tensor is it: an input, or another
/// output. It is copied behind each run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stray {
    /// Its place.
    pub(super) to: u64,
    /// Where the library has it.
    pub(super) from: u64,
    pub(super) bytes: usize,
}

/// Memory of the stream's own, where a slot's cannot be used in place. A clone keeps it for a
/// request under way.
#[derive(Clone, Debug)]
pub(super) struct Staging {
    request: Arc<Region>,
    reply: Arc<Region>,
    /// Room for a raw picture; `None` until one was copied.
    raw: Option<Arc<Region>>,
    /// Pinned memory of the host, for payloads in memory that is not registered with the device;
    /// `None` until there was one. The only one that this process writes by itself.
    bounce_in: Option<Arc<Mutex<Region>>>,
    /// As `bounce_in`, for replies: the device writes it.
    bounce_out: Option<Arc<Region>>,
}

/// Bytes that a request needs beside its tensors.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Needs {
    /// For a raw picture on the device.
    pub(super) raw: usize,
    /// For the payload in pinned memory.
    pub(super) bounce_in: usize,
    /// For the reply in pinned memory.
    pub(super) bounce_out: usize,
}

impl Staging {
    pub(super) fn request(&self) -> View<'_> {
        self.request.view()
    }

    pub(super) fn reply(&self) -> View<'_> {
        self.reply.view()
    }

    pub(super) fn raw(&self) -> Option<View<'_>> {
        self.raw.as_ref().map(|it| it.view())
    }

    /// Nobody waits for it: a stream has one request at a time.
    pub(super) fn bounce_in(&self) -> Option<MutexGuard<'_, Region>> {
        self.bounce_in.as_ref().map(|it| it.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn bounce_out(&self) -> Option<View<'_>> {
        self.bounce_out.as_ref().map(|it| it.view())
    }

    /// Of device memory.
    fn bytes(&self) -> usize {
        let raw = self.raw.as_ref().map_or(0, |it| it.bytes());
        self.request.bytes() + self.reply.bytes() + raw
    }
}

impl Context {
    pub(super) fn new(device: &Arc<Device>, priority: Priority) -> Result<Context, EngineError> {
        let runner = Runner::new(device, priority).map_err(failed)?;
        let workspace = Arc::new(Arena::new(device));
        let (graphs, staging, ready) = (HashMap::new(), None, None);
        Ok(Context { graphs, staging, ready, workspace, runner, runs: 0 })
    }

    /// Makes the memory that graphs are got ready for, with room for tensors of these shapes.
    pub(super) fn make_ready(&mut self, shapes: &BoundSignature) -> Result<(), EngineError> {
        self.ready = None;
        self.ready = Some(self.new_staging(shapes, (0, 0))?);
        Ok(())
    }

    /// Gives back what was made ready; nothing was recorded for it yet.
    pub(super) fn forget_ready(&mut self) {
        self.ready = None;
    }

    /// Records the model for requests of these shapes, which have room in what was made ready.
    pub(super) fn record_ready(
        &mut self,
        model: &CudaModel,
        shapes: &Arc<BoundSignature>,
    ) -> Result<(), RecordError> {
        let none = || EngineError::Run("no memory was made ready".to_owned());
        let staging = self.ready.as_ref().ok_or_else(none)?;
        let addresses = Places::addresses_in(staging, shapes)?;
        self.record(model, shapes, &addresses)?;
        if let Some(kept) = self.graphs.get_mut(&key(shapes, &addresses)) {
            kept.stays = true;
        }
        Ok(())
    }

    /// Whether graphs were got ready, for memory of the stream's own.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.is_some()
    }

    /// How urgent its requests are.
    pub(super) fn priority(&self) -> Priority {
        self.runner.stream().priority()
    }

    /// The memory that its graphs compute in.
    pub(super) fn workspace(&self) -> &Arc<Arena> {
        &self.workspace
    }

    /// Bytes of device memory that it holds beside the weights.
    pub(super) fn bytes(&self) -> usize {
        let staging = self.staging.iter().chain(&self.ready).map(Staging::bytes).sum::<usize>();
        self.workspace.stats().held_bytes + staging
    }

    /// Memory for tensors of these shapes, and for what else a request needs; made or grown where
    /// there is too little. What requests in flight use stays until they are done.
    pub(super) fn staging(
        &mut self,
        shapes: &BoundSignature,
        needs: Needs,
    ) -> Result<Staging, EngineError> {
        let (request, reply) = lengths(shapes)?;
        let device = Arc::clone(self.runner.stream().device());
        let fits = |it: &Staging| it.request.bytes() >= request && it.reply.bytes() >= reply;
        let is_ready = self.ready.as_ref().is_some_and(fits);
        if !is_ready && !self.staging.as_ref().is_some_and(fits) {
            let old =
                self.staging.as_ref().map_or((0, 0), |it| (it.request.bytes(), it.reply.bytes()));
            let new = self.new_staging(shapes, old)?;
            let old = self.staging.take();
            // Recorded graphs know the old addresses.
            self.runner.stream().synchronize().map_err(failed)?;
            self.graphs.retain(|_, kept| kept.stays);
            self.staging = Some(match old {
                Some(old) => Staging { request: new.request, reply: new.reply, ..old },
                None => new,
            });
        }
        let gone = || EngineError::Run("staging memory is gone".to_owned());
        let staging = if is_ready { self.ready.as_mut() } else { self.staging.as_mut() };
        let staging = staging.ok_or_else(gone)?;
        let region = |bytes| region(&device, bytes);
        let pinned = |bytes: usize| {
            let heap = Region::whole(HeapBacking::new(bytes)?);
            let backing = PinnedBacking::new(&device, heap).map_err(without_memory)?;
            Ok::<_, EngineError>(Region::whole(backing))
        };
        let has = staging.bounce_in().map_or(0, |it| it.bytes());
        grow(&mut staging.raw, |it| it.bytes(), needs.raw, region)?;
        grow(
            &mut staging.bounce_in,
            |_| has,
            needs.bounce_in,
            |bytes| pinned(bytes).map(|it| Arc::new(Mutex::new(it))),
        )?;
        grow(
            &mut staging.bounce_out,
            |it| it.bytes(),
            needs.bounce_out,
            |bytes| pinned(bytes).map(Arc::new),
        )?;
        Ok(staging.clone())
    }

    /// Memory for tensors of these shapes, of at least so many bytes for a request and for a reply.
    fn new_staging(
        &self,
        shapes: &BoundSignature,
        least: (usize, usize),
    ) -> Result<Staging, EngineError> {
        let device = self.runner.stream().device();
        let (request, reply) = lengths(shapes)?;
        let request = region(device, request.max(least.0))?;
        let reply = region(device, reply.max(least.1))?;
        Ok(Staging { request, reply, raw: None, bounce_in: None, bounce_out: None })
    }

    /// Whether there is a graph for tensors at these addresses, inputs first.
    pub(super) fn has(&self, shapes: &Arc<BoundSignature>, addresses: &[u64]) -> bool {
        self.graphs.get(&key(shapes, addresses)).is_some_and(|kept| kept.is_for(shapes))
    }

    /// Sees to it that there is a graph for tensors at these addresses, inputs first.
    ///
    /// The first time, the model runs twice on what lies there: the library tries out algorithms.
    pub(super) fn record(
        &mut self,
        model: &CudaModel,
        shapes: &Arc<BoundSignature>,
        addresses: &[u64],
    ) -> Result<(), RecordError> {
        self.runs += 1;
        let key = key(shapes, addresses);
        if let Some(kept) = self.graphs.get_mut(&key).filter(|kept| kept.is_for(shapes)) {
            kept.last_run = self.runs;
            return Ok(());
        }
        let recorded = self.capture(model, shapes, addresses)?;
        if self.graphs.len() >= GRAPHS_MAX {
            let others = self.graphs.iter().filter(|(_, kept)| !kept.stays);
            let oldest = others.min_by_key(|(_, kept)| kept.last_run);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.runner.stream().synchronize().map_err(failed)?;
                self.graphs.remove(&oldest);
            }
        }
        let shapes = Arc::clone(shapes);
        let kept = Kept { recorded, shapes, last_run: self.runs, stays: false };
        self.graphs.insert(key, kept);
        Ok(())
    }

    fn capture(
        &self,
        model: &CudaModel,
        shapes: &Arc<BoundSignature>,
        addresses: &[u64],
    ) -> Result<Recorded, RecordError> {
        // What the slot or the staging area holds is being written by this stream.
        self.runner.stream().synchronize().map_err(failed)?;
        let session = model.recording_session(shapes).ok_or(RecordError::TooManyShapes)?;
        let stream = model.session_stream();
        let settle = || stream.stream().synchronize().map_err(|error| error.to_string());
        let trials = Arc::new(Arena::new(model.device()));
        for arena in [&trials, &self.workspace] {
            // Each run has a binding of its own: what one leaves elsewhere is bound afterwards.
            let bound = model.bind(&session, shapes, addresses)?;
            let ran = not_recording(|| with_arena(arena, || stream.run(&bound)));
            let ran = ran.map_err(|error| one_line(error.message())).and_then(|()| settle());
            ran.map_err(|why| self.failure(why)).map_err(unless_declared_wrongly)?;
        }
        let bound = model.bind(&session, shapes, addresses)?;
        let pins = Arc::new(Pins::of_recording(model.device()));
        let priority = self.runner.stream().priority();
        let record = || Graph::capture(stream.stream(), priority, || stream.record(&bound));
        let recorded = recording(|| with_arena(&self.workspace, || with_pins(&pins, record)));
        let graph = recorded.map_err(|error| {
            let why = one_line(&error_text(&error));
            match self.failure(why) {
                EngineError::Run(why) => RecordError::Unrecordable(why),
                lost => RecordError::Engine(lost),
            }
        })?;
        let left = bound.left(shapes, addresses);
        let left = left.map_err(|error| EngineError::Run(one_line(error.message())))?;
        let made = left.iter().map(|(index, given)| (index, &*given.shape, given.address));
        let strays = strays(made, shapes, addresses).map_err(RecordError::Unrecordable)?;
        Ok(Recorded { graph, strays, _pins: pins, _session: session })
    }

    /// What the library says does not tell whether the device is lost: a stream does.
    fn failure(&self, why: String) -> EngineError {
        match self.runner.stream().synchronize() {
            Err(error) if error.is_fatal() => EngineError::Lost(format!("{why}; {error}")),
            _ => EngineError::Run(why),
        }
    }

    /// The graph that [`Context::record`] saw to, with the stream to run it on.
    pub(super) fn graph(
        &mut self,
        shapes: &BoundSignature,
        addresses: &[u64],
    ) -> Option<(&mut Runner, &Recorded)> {
        let kept = self.graphs.get(&key(shapes, addresses))?;
        Some((&mut self.runner, &kept.recorded))
    }

    /// Runs a model without a graph, and waits for it. Gives the outputs that are elsewhere than at
    /// their addresses.
    pub(super) fn run_plainly(
        &self,
        model: &CudaModel,
        shapes: &Arc<BoundSignature>,
        addresses: &[u64],
    ) -> Result<Left, EngineError> {
        let bound = model.bind(&model.plain_session()?, shapes, addresses)?;
        let stream = model.session_stream();
        let (ran, settled) = not_recording(|| {
            let ran = with_arena(&self.workspace, || stream.run(&bound));
            let settled = stream.stream().synchronize();
            // Outputs that are weights, and those that were computed on the host, are copied there.
            (ran, settled.and_then(|()| model.device().synchronize_default()))
        });
        settled.map_err(failed)?;
        let left = ran.and_then(|()| bound.left(shapes, addresses));
        left.map_err(|error| EngineError::Run(one_line(error.message())))
    }
}

/// What tells a graph from others of its stream: where its tensors are, and, as all sizes share the
/// stream's own memory, the dimensions of its inputs.
fn key(shapes: &BoundSignature, addresses: &[u64]) -> Vec<u64> {
    let dims = shapes.inputs.iter().flat_map(|input| &input.shape);
    addresses.iter().chain(dims).copied().collect()
}

/// How long the tensors of a request and of its reply are.
fn lengths(shapes: &BoundSignature) -> Result<(usize, usize), EngineError> {
    let length = |bytes: u64| {
        usize::try_from(bytes)
            .map_err(|_too_long| EngineError::Shapes(format!("tensors of {bytes} bytes")))
    };
    Ok((length(shapes.request_bytes())?, length(shapes.reply_bytes())?))
}

fn region(device: &Arc<Device>, bytes: usize) -> Result<Arc<Region>, EngineError> {
    let backing = DeviceBacking::new(device, bytes).map_err(without_memory)?;
    Ok(Arc::new(Region::whole(backing)))
}

/// A run that failed because an output has another shape than was declared is no reason to fail:
/// without a graph its size is what the model makes it.
fn unless_declared_wrongly(error: EngineError) -> RecordError {
    match error {
        EngineError::Run(why) if is_another_shape(&why) => RecordError::Unrecordable(why),
        other => RecordError::Engine(other),
    }
}

/// What a recorded run leaves elsewhere than at the addresses of its outputs. `made` has the index
/// of each such output, its shape, and where it is.
fn strays<'a>(
    made: impl Iterator<Item = (usize, &'a [u64], usize)> + Clone,
    shapes: &BoundSignature,
    addresses: &[u64],
) -> Result<Vec<Stray>, String> {
    let made_shapes = made.clone().map(|(index, shape, _)| (index, shape));
    if let Some(other) = other_shape(made_shapes, shapes, |_| true) {
        return Err(format!("{other}, and declares another one"));
    }
    let places = addresses.get(shapes.inputs.len()..).unwrap_or_default();
    let stray = |(index, _, from): (usize, &[u64], usize)| {
        let (to, tensor) = (*places.get(index)?, shapes.outputs.get(index)?);
        let bytes = usize::try_from(tensor.bytes).ok()?;
        Some(Stray { to, from: from as u64, bytes })
    };
    let no_place = || "an output without a place".to_owned();
    made.map(|made| stray(made).ok_or_else(no_place)).collect()
}

/// Memory of at least `bytes` bytes.
fn grow<R>(
    room: &mut Option<R>,
    length: impl Fn(&R) -> usize,
    bytes: usize,
    make: impl Fn(usize) -> Result<R, EngineError>,
) -> Result<(), EngineError> {
    if room.as_ref().map_or(0, length) < bytes {
        // The old one first: the two together might not fit.
        *room = None;
        *room = Some(make(bytes)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ferry_core::{DType, Dim, Signature, TensorSpec};

    use super::*;

    fn one_in_two_out() -> BoundSignature {
        let spec = |name: &str| TensorSpec {
            name: name.into(),
            dtype: DType::F32,
            shape: vec![Dim::Fixed(4)],
        };
        let (inputs, outputs) = (vec![spec("x")], vec![spec("x"), spec("y")]);
        Signature { inputs, outputs }.bind(&[]).unwrap()
    }

    #[test]
    fn outputs_that_are_elsewhere_are_copied_to_their_places() {
        let shapes = one_in_two_out();
        let addresses = [0x1000, 0x2000, 0x3000];
        let of =
            |made: &[(usize, &[u64], usize)]| strays(made.iter().copied(), &shapes, &addresses);
        assert_eq!(of(&[]), Ok(Vec::new()));
        let input = Stray { to: 0x2000, from: 0x1000, bytes: 16 };
        assert_eq!(of(&[(0, &[4], 0x1000)]), Ok(vec![input]));
        let other = Stray { to: 0x3000, from: 0x2000, bytes: 16 };
        assert_eq!(of(&[(0, &[4], 0x1000), (1, &[4], 0x2000)]), Ok(vec![input, other]));
    }

    #[test]
    fn an_output_of_another_shape_is_not_recorded() {
        let shapes = one_in_two_out();
        let made = [(1, &[5][..], 0x2000)].into_iter();
        let why = strays(made, &shapes, &[0x1000, 0x2000, 0x3000]).unwrap_err();
        assert!(why.contains("output 1") && why.contains("[5]"), "{why}");
        let nowhere = strays([(1, &[4][..], 0x2000)].into_iter(), &shapes, &[0x1000, 0x2000]);
        assert!(nowhere.is_err());
    }

    #[test]
    fn a_wrong_declaration_is_not_recorded_and_other_failures_fail() {
        let why = "y: shape verification failed".to_owned();
        let declared = unless_declared_wrongly(EngineError::Run(why));
        assert!(matches!(declared, RecordError::Unrecordable(_)));
        for error in
            [EngineError::Run("no".into()), EngineError::Lost("shape verification failed".into())]
        {
            assert!(matches!(unless_declared_wrongly(error), RecordError::Engine(_)));
        }
    }
}
