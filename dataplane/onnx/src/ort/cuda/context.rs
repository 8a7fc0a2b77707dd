//! One stream of a model: its workspace, its own tensors, and its recorded graphs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferry_core::{BoundSignature, error_text};
use ferry_cuda::{Arena, Device, DeviceBacking, Graph, PinnedBacking, Priority, Runner};
use ferry_engine::EngineError;
use ferry_memory::{HeapBacking, Region, View};

use super::allocator::with_arena;
use super::error::{failed, without_memory};
use super::model::CudaModel;
use crate::file::one_line;

/// How many graphs a stream keeps: one for each slot whose device memory is used in place, and
/// one for all others. A graph of ResNet50 takes some 0.5 MiB of the host.
const GRAPHS_MAX: usize = 256;

/// Why there is no graph.
#[derive(Debug)]
pub(super) enum RecordError {
    /// The model ran, and cannot be recorded: it waits for the device on the way, or calls the
    /// host.
    Unrecordable(String),
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
    graphs: HashMap<Vec<u64>, Kept>,
    staging: Option<Staging>,
    workspace: Arc<Arena>,
    pub(super) runner: Runner,
    /// Counts runs, to tell which graph was used last.
    runs: u64,
}

#[derive(Debug)]
struct Kept {
    graph: Graph,
    shapes: Arc<BoundSignature>,
    last_run: u64,
}

impl Kept {
    fn is_for(&self, shapes: &Arc<BoundSignature>) -> bool {
        Arc::ptr_eq(&self.shapes, shapes) || self.shapes == *shapes
    }
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
        Ok(Context { graphs: HashMap::new(), staging: None, workspace, runner, runs: 0 })
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
        let staging = self.staging.as_ref().map_or(0, Staging::bytes);
        self.workspace.stats().held_bytes + staging
    }

    /// Memory for tensors of these shapes, and for what else a request needs; made or grown where
    /// there is too little. What requests in flight use stays until they are done.
    pub(super) fn staging(
        &mut self,
        shapes: &BoundSignature,
        needs: Needs,
    ) -> Result<Staging, EngineError> {
        let length = |bytes: u64| {
            usize::try_from(bytes)
                .map_err(|_too_long| EngineError::Shapes(format!("tensors of {bytes} bytes")))
        };
        let (request, reply) = (length(shapes.request_bytes())?, length(shapes.reply_bytes())?);
        let device = Arc::clone(self.runner.stream().device());
        let region = |bytes: usize| {
            let backing = DeviceBacking::new(&device, bytes).map_err(without_memory)?;
            Ok::<_, EngineError>(Arc::new(Region::whole(backing)))
        };
        let fits = |it: &Staging| it.request.bytes() >= request && it.reply.bytes() >= reply;
        if !self.staging.as_ref().is_some_and(fits) {
            let old =
                self.staging.as_ref().map_or((0, 0), |it| (it.request.bytes(), it.reply.bytes()));
            let (request, reply) = (region(request.max(old.0))?, region(reply.max(old.1))?);
            let old = self.staging.take();
            // Recorded graphs know the old addresses.
            self.runner.stream().synchronize().map_err(failed)?;
            self.graphs.clear();
            self.staging = Some(match old {
                Some(old) => Staging { request, reply, ..old },
                None => Staging { request, reply, raw: None, bounce_in: None, bounce_out: None },
            });
        }
        let gone = || EngineError::Run("staging memory is gone".to_owned());
        let staging = self.staging.as_mut().ok_or_else(gone)?;
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

    /// Whether there is a graph for tensors at these addresses, inputs first.
    pub(super) fn has(&self, shapes: &Arc<BoundSignature>, addresses: &[u64]) -> bool {
        self.graphs.get(addresses).is_some_and(|kept| kept.is_for(shapes))
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
        if let Some(kept) = self.graphs.get_mut(addresses).filter(|kept| kept.is_for(shapes)) {
            kept.last_run = self.runs;
            return Ok(());
        }
        let graph = self.capture(model, shapes, addresses)?;
        if self.graphs.len() >= GRAPHS_MAX {
            let oldest = self.graphs.iter().min_by_key(|(_, kept)| kept.last_run);
            if let Some(oldest) = oldest.map(|(addresses, _)| addresses.clone()) {
                self.runner.stream().synchronize().map_err(failed)?;
                self.graphs.remove(&oldest);
            }
        }
        let kept = Kept { graph, shapes: Arc::clone(shapes), last_run: self.runs };
        self.graphs.insert(addresses.to_vec(), kept);
        Ok(())
    }

    fn capture(
        &self,
        model: &CudaModel,
        shapes: &Arc<BoundSignature>,
        addresses: &[u64],
    ) -> Result<Graph, RecordError> {
        // What the slot or the staging area holds is being written by this stream.
        self.runner.stream().synchronize().map_err(failed)?;
        let bound = model.bind(shapes, addresses)?;
        let stream = model.session_stream();
        let run = || stream.run(&bound).map_err(|error| one_line(error.message()));
        let settle = || stream.stream().synchronize().map_err(|error| error.to_string());
        let trials = Arc::new(Arena::new(model.device()));
        let tried = with_arena(&trials, || run().and_then(|()| settle()));
        let warmed =
            tried.and_then(|()| with_arena(&self.workspace, || run().and_then(|()| settle())));
        warmed.map_err(|why| self.failure(why))?;
        let captured = with_arena(&self.workspace, || {
            Graph::capture(stream.stream(), self.runner.stream().priority(), || stream.run(&bound))
        });
        captured.map_err(|error| {
            let why = one_line(&error_text(&error));
            match self.failure(why) {
                EngineError::Run(why) => RecordError::Unrecordable(why),
                lost => RecordError::Engine(lost),
            }
        })
    }

    /// What the library says does not tell whether the device is lost: a stream does.
    fn failure(&self, why: String) -> EngineError {
        match self.runner.stream().synchronize() {
            Err(error) if error.is_fatal() => EngineError::Lost(format!("{why}; {error}")),
            _ => EngineError::Run(why),
        }
    }

    /// The graph that [`Context::record`] saw to, with the stream to run it on.
    pub(super) fn graph(&mut self, addresses: &[u64]) -> Option<(&mut Runner, &Graph)> {
        let graph = self.graphs.get(addresses)?;
        Some((&mut self.runner, &graph.graph))
    }

    /// Runs a model that cannot be recorded, and waits for it.
    pub(super) fn run_plainly(
        &self,
        model: &CudaModel,
        shapes: &Arc<BoundSignature>,
        addresses: &[u64],
    ) -> Result<(), EngineError> {
        let bound = model.bind(shapes, addresses)?;
        let stream = model.session_stream();
        let ran = with_arena(&self.workspace, || stream.run(&bound));
        let settled = stream.stream().synchronize();
        settled.map_err(failed)?;
        ran.map_err(|error| EngineError::Run(one_line(error.message())))
    }
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
