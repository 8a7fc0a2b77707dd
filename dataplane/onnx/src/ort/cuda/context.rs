//! One stream of a model: its workspace, its own tensors, and its recorded graphs.

use std::collections::HashMap;
use std::sync::Arc;

use ferry_core::BoundSignature;
use ferry_cuda::{Arena, CudaError, Device, DeviceBacking, Graph, Priority, Runner};
use ferry_engine::EngineError;
use ferry_memory::{Region, View};

use super::allocator::with_arena;
use super::model::CudaModel;
use crate::file::one_line;

/// How many graphs a stream keeps: one for each slot whose device memory is used in place, and
/// one for all others. A graph of ResNet50 takes some 0.5 MiB of the host.
const GRAPHS_MAX: usize = 256;

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

/// Device memory of the stream's own, where a slot's cannot be used in place.
#[derive(Clone, Debug)]
pub(super) struct Staging {
    request: Region,
    reply: Region,
    /// Room for a raw picture; `None` until one was copied.
    raw: Option<Region>,
}

impl Staging {
    pub(super) fn request(&self) -> View<'_> {
        self.request.view()
    }

    pub(super) fn reply(&self) -> View<'_> {
        self.reply.view()
    }

    pub(super) fn raw(&self) -> Option<View<'_>> {
        self.raw.as_ref().map(Region::view)
    }

    fn bytes(&self) -> usize {
        let raw = self.raw.as_ref().map_or(0, Region::bytes);
        self.request.bytes() + self.reply.bytes() + raw
    }
}

pub(super) fn failed(error: CudaError) -> EngineError {
    EngineError::Run(error.to_string())
}

impl Context {
    pub(super) fn new(device: &Arc<Device>, priority: Priority) -> Result<Context, EngineError> {
        let runner = Runner::new(device, priority).map_err(failed)?;
        let workspace = Arc::new(Arena::new(device));
        Ok(Context { graphs: HashMap::new(), staging: None, workspace, runner, runs: 0 })
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

    /// Device memory for tensors of these shapes, and for a raw picture of `raw_bytes`; made or
    /// grown where there is too little. What requests in flight use stays until they are done.
    pub(super) fn staging(
        &mut self,
        shapes: &BoundSignature,
        raw_bytes: usize,
    ) -> Result<Staging, EngineError> {
        let length = |bytes: u64| {
            usize::try_from(bytes)
                .map_err(|_too_long| EngineError::Shapes(format!("tensors of {bytes} bytes")))
        };
        let (request, reply) = (length(shapes.request_bytes())?, length(shapes.reply_bytes())?);
        let device = Arc::clone(self.runner.stream().device());
        let region = |bytes: usize| {
            Ok::<_, EngineError>(Region::whole(Arc::new(DeviceBacking::new(&device, bytes)?)))
        };
        let fits = |it: &Staging| it.request.bytes() >= request && it.reply.bytes() >= reply;
        if !self.staging.as_ref().is_some_and(fits) {
            let old =
                self.staging.as_ref().map_or((0, 0), |it| (it.request.bytes(), it.reply.bytes()));
            let (request, reply) = (region(request.max(old.0))?, region(reply.max(old.1))?);
            let raw = self.staging.take().and_then(|old| old.raw);
            // Recorded graphs know the old addresses.
            self.runner.stream().synchronize().map_err(failed)?;
            self.graphs.clear();
            self.staging = Some(Staging { request, reply, raw });
        }
        let gone = || EngineError::Run("staging memory is gone".to_owned());
        let staging = self.staging.as_mut().ok_or_else(gone)?;
        if staging.raw.as_ref().map_or(0, Region::bytes) < raw_bytes {
            staging.raw = Some(region(raw_bytes)?);
        }
        Ok(staging.clone())
    }

    /// Sees to it that there is a graph for tensors at these addresses, inputs first.
    ///
    /// The first time, the model runs twice on what lies there: the library tries out algorithms.
    pub(super) fn record(
        &mut self,
        model: &CudaModel,
        shapes: &Arc<BoundSignature>,
        addresses: &[u64],
    ) -> Result<(), EngineError> {
        self.runs += 1;
        let same = |kept: &Kept| Arc::ptr_eq(&kept.shapes, shapes) || kept.shapes == *shapes;
        if let Some(kept) = self.graphs.get_mut(addresses).filter(|kept| same(kept)) {
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
    ) -> Result<Graph, EngineError> {
        // What the slot or the staging area holds is being written by this stream.
        self.runner.stream().synchronize().map_err(failed)?;
        let bound = model.bind(shapes, addresses)?;
        let stream = model.runner();
        let run = || model.run(&bound, &stream).map_err(|error| one_line(error.message()));
        let settle = || stream.stream().synchronize().map_err(|error| error.to_string());
        let trials = Arc::new(Arena::new(model.device()));
        let tried = with_arena(&trials, || run().and_then(|()| settle()));
        let warmed =
            tried.and_then(|()| with_arena(&self.workspace, || run().and_then(|()| settle())));
        warmed.map_err(EngineError::Run)?;
        let captured = with_arena(&self.workspace, || {
            Graph::capture(stream.stream(), self.runner.stream().priority(), || {
                model.run(&bound, &stream)
            })
        });
        captured.map_err(|error| {
            EngineError::Run(format!(
                "record the model as a graph: {}",
                one_line(&error.to_string())
            ))
        })
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
        let stream = model.runner();
        let ran = with_arena(&self.workspace, || model.run(&bound, &stream));
        let settled = stream.stream().synchronize();
        ran.map_err(|error| EngineError::Run(one_line(error.message())))?;
        settled.map_err(failed)
    }
}
