//! An ONNX file on a CUDA device.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ferry_core::{BoundSignature, Signature, error_text};
use ferry_cuda::{Arena, Device, Kernels, Priority, Runner};
use ferry_engine::{EngineError, FileDigest, check_binding};
use ferry_onnx_file::{GraphProto, rows};
use ort::ep::{ArbitrarilyConfigurableExecutionProvider, CUDA};
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;

use super::allocator::{register, with_arena};
use super::engine::CudaEngine;
use super::native::{Bound, RunOptions, SessionStream};
use super::recording::{CudaSession, not_recording};
use super::sessions::Sessions;
use crate::external::Weights;
use crate::file::{EXPORT_AGAIN, ModelFile, one_line, unusable};
use crate::graph;
use crate::ort::declarations::Declarations;
use crate::ort::model::{floats_are_plain, signature_of};
use crate::ort::native::commit_from_memory;
use crate::runtime::{self, Opened, Search};

/// In which numbers a model computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// As the file says: products of 32-bit floats in full, and a file in half precision in half
    /// precision.
    #[default]
    Fp32,
    /// Products of 32-bit floats with 10 bits of mantissa, on tensor cores.
    Tf32,
}

impl Precision {
    /// The name in a model's TOML and in SQL.
    pub const fn name(self) -> &'static str {
        match self {
            Precision::Fp32 => "fp32",
            Precision::Tf32 => "tf32",
        }
    }
}

/// When an instance says that a request is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Completion {
    /// It is asked again and again, and meanwhile takes other requests.
    #[default]
    Poll,
    /// It waits for each request before it takes the next: run to completion.
    Wait,
}

/// How a model runs on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaOptions {
    /// The device's number.
    pub device: u32,
    /// In which numbers it computes.
    pub precision: Precision,
    /// Whether convolutions keep their channels innermost, which suits tensor cores.
    pub channels_last: bool,
    /// Streams of normal priority, and as many of high.
    pub streams: usize,
    /// Normal requests that may be started while an urgent one runs; at least 1. Kernels share
    /// the multiprocessors whatever their priority, so that this is what an urgent request feels.
    pub beside_urgent: usize,
    /// When an instance says that a request is done.
    pub completion: Completion,
    /// Whether the places of outputs are filled with a pattern before each run, so that what is not
    /// written shows: for tests.
    pub poison: bool,
}

impl Default for CudaOptions {
    fn default() -> Self {
        CudaOptions {
            device: 0,
            precision: Precision::Fp32,
            channels_last: false,
            streams: 4,
            beside_urgent: 1,
            completion: Completion::Poll,
            poison: cfg!(debug_assertions),
        }
    }
}

/// A loaded file: a session whose weights are in device memory once, and for each further shape
/// that is recorded another one: see `sessions.rs`.
#[derive(Debug)]
pub struct CudaModel {
    path: PathBuf,
    options: CudaOptions,
    library: &'static Opened,
    signature: Signature,
    files: Vec<FileDigest>,
    /// The same files.
    open: Vec<File>,
    sessions: Sessions,
    device: Arc<Device>,
    weights: Arc<Arena>,
    run_options: RunOptions,
    recording_options: RunOptions,
    declarations: Declarations,
    /// The sessions' own stream, on which runs are made or recorded, one at a time.
    runner: Mutex<Runner>,
    /// Whether all of the model can run on the device and be recorded, as far as is known.
    graphs: AtomicBool,
    /// Whether its operators take floats for numbers and nothing else.
    floats_are_plain: bool,
    /// Why the graph does not show that rows mean nothing to each other; `None` if it does.
    doubt: Option<String>,
    /// Kernels of ours; without the compiler's library there are none.
    kernels: Option<Arc<Kernels>>,
}

impl CudaModel {
    /// Loads and optimises a file, and puts its weights on the device.
    ///
    /// # Errors
    /// [`EngineError::Library`] if ONNX Runtime, its CUDA provider or the driver is missing,
    /// [`EngineError::Model`] if the file is not one that it can run.
    pub fn open(
        path: &Path,
        search: &Search,
        options: CudaOptions,
    ) -> Result<CudaModel, EngineError> {
        let missing = |why: String| EngineError::Library { library: "CUDA", why };
        let device = Device::open(options.device).map_err(|error| missing(error_text(&error)))?;
        let library = runtime::opened(search).map_err(|why| EngineError::Library {
            library: "onnxruntime",
            why: runtime::missing(&why),
        })?;
        let file = ModelFile::read(path, Weights::Beside)?;
        register(library, &device).map_err(|error| missing(error.message().to_owned()))?;
        let runner = Runner::new(&device, Priority::Normal);
        let runner = runner.map_err(|error| missing(error.to_string()))?;
        let weights = Arc::new(Arena::new(&device));
        let load =
            |graphs| with_arena(&weights, || commit(&file, library, options, &runner, graphs));
        let load = |graphs| not_recording(|| load(graphs));
        // With graphs the library refuses a model of which a part would run on the CPU. What else
        // a graph would not repeat, it does not refuse.
        let proto = graph::read(&file.model).map_err(|why| unusable(path, why, EXPORT_AGAIN))?;
        let graph = proto.graph.as_ref();
        let why = match graph.and_then(unrepeatable) {
            Some(why) => Err(why),
            None => load(true).map_err(|why| one_line(why.message())),
        };
        let (session, graphs) = match why {
            Ok(session) => (session, true),
            Err(why) => {
                tracing::info!(model = %path.display(), why, "no graphs for this model");
                (load(false).map_err(|error| refused(path, &error))?, false)
            }
        };
        let signature = signature_of(&file, &session)?;
        let floats_are_plain = floats_are_plain(&file)?;
        let doubt = rows::doubt(&file.model);
        let kernels = Kernels::of(&device)
            .inspect_err(|error| tracing::warn!(%error, "no picture kernel, no mapped memory"))
            .ok();
        let no_options =
            |error: ort::Error| unusable(path, one_line(error.message()), EXPORT_AGAIN);
        Ok(CudaModel {
            path: path.to_owned(),
            options,
            library,
            signature,
            files: file.digests,
            open: file.open,
            sessions: Sessions::new(session.into()),
            device,
            weights,
            run_options: RunOptions::of_run().map_err(no_options)?,
            recording_options: RunOptions::of_recording().map_err(no_options)?,
            declarations: Declarations::default(),
            runner: Mutex::new(runner),
            graphs: AtomicBool::new(graphs),
            floats_are_plain,
            doubt,
            kernels,
        })
    }

    /// What the model takes and gives.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// What it was loaded from.
    pub fn files(&self) -> &[FileDigest] {
        &self.files
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Why the graph does not show that rows mean nothing to each other; `None` if it does.
    pub fn doubt(&self) -> Option<&str> {
        self.doubt.as_deref()
    }

    /// The version of ONNX Runtime, such as `1.31.1`.
    pub fn library_version(&self) -> &str {
        &self.library.version
    }

    /// How it runs.
    pub fn options(&self) -> CudaOptions {
        self.options
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Bytes of device memory that the weights take.
    pub fn weights_bytes(&self) -> usize {
        self.weights.stats().held_bytes
    }

    /// Whether its operators take floats for numbers and nothing else.
    pub(super) fn floats_are_plain(&self) -> bool {
        self.floats_are_plain
    }

    /// Whether requests run as recorded graphs. Those of a model with an output that is open do
    /// not: see [`BoundTensor::open`](ferry_core::BoundTensor::open).
    pub fn has_graphs(&self) -> bool {
        self.graphs.load(Ordering::Relaxed) && self.signature.open_output().is_none()
    }

    /// Whether requests of these shapes do. A graph has one size for each tensor.
    pub(super) fn records(&self, shapes: &BoundSignature) -> bool {
        let graphs = self.graphs.load(Ordering::Relaxed);
        graphs && self.known_outputs(shapes) == shapes.outputs.len()
    }

    /// How many outputs, from the first on, have a place before the model has run.
    pub(super) fn known_outputs(&self, shapes: &BoundSignature) -> usize {
        if self.declarations.are_wrong() {
            return 0;
        }
        shapes.outputs.iter().take_while(|output| !output.open).count()
    }

    /// Whether the model keeps to the shapes that it declares.
    pub(super) fn declarations(&self) -> &Declarations {
        &self.declarations
    }

    /// From now on requests run without graphs, one at a time.
    pub(super) fn give_up_graphs(&self, why: &str) {
        if self.graphs.swap(false, Ordering::Relaxed) {
            tracing::warn!(
                model = %self.path.display(), why,
                "the model cannot be recorded as a graph: its requests run one at a time"
            );
        }
    }

    /// Makes an instance with streams of its own.
    ///
    /// # Errors
    /// [`EngineError::Run`] with what the driver says.
    pub fn instance(self: &Arc<Self>) -> Result<CudaEngine, EngineError> {
        CudaEngine::new(Arc::clone(self))
    }

    /// Kernels for pictures and mapped memory; `None` where NVRTC is missing.
    pub fn kernels(&self) -> Option<&Arc<Kernels>> {
        self.kernels.as_ref()
    }

    /// The stream of the sessions, for one run at a time.
    pub(super) fn session_stream(&self) -> SessionStream<'_> {
        SessionStream::new(self, self.runner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The session in which these shapes are recorded; `None` where as many are as may be.
    pub(super) fn recording_session(&self, shapes: &BoundSignature) -> Option<Arc<CudaSession>> {
        // Before the sessions, as where one is run.
        let runner = self.runner.lock().unwrap_or_else(PoisonError::into_inner);
        self.sessions.recorded(shapes, || self.reopen(&runner, true))
    }

    /// The session for runs that are not recorded.
    pub(super) fn plain_session(&self) -> Result<Arc<CudaSession>, EngineError> {
        let runner = self.runner.lock().unwrap_or_else(PoisonError::into_inner);
        self.sessions.plain(|| self.reopen(&runner, false))
    }

    /// Opens the file once more.
    fn reopen(&self, runner: &Runner, graphs: bool) -> Result<CudaSession, EngineError> {
        let file = ModelFile::again(&self.files, &self.open, Weights::Beside)?;
        let commit = || commit(&file, self.library, self.options, runner, graphs);
        let session = not_recording(|| with_arena(&self.weights, commit));
        session.map(CudaSession::from).map_err(|error| refused(&self.path, &error))
    }

    pub(super) fn run_options(&self) -> &RunOptions {
        &self.run_options
    }

    pub(super) fn recording_options(&self) -> &RunOptions {
        &self.recording_options
    }

    pub(super) fn bind(
        &self,
        session: &Arc<CudaSession>,
        shapes: &BoundSignature,
        addresses: &[u64],
    ) -> Result<Bound, EngineError> {
        check_binding(&self.signature, shapes)?;
        Bound::new(session, &self.device, &self.signature, shapes, addresses)
            .map_err(|error| EngineError::Run(one_line(error.message())))
    }
}

/// What of a model a recorded graph would not repeat, though the library records it.
fn unrepeatable(graph: &GraphProto) -> Option<String> {
    // It would go on with the sizes of the request that it was recorded with.
    if let Some(op) = graph::waits_for_values(graph) {
        return Some(format!("{op} gives as many elements as the values of its input say"));
    }
    // The library writes it while a run is set up, on a stream of its own.
    graph::of_no_value(graph)
        .map(|output| format!("output {output} depends on no value of an input"))
}

fn refused(path: &Path, error: &ort::Error) -> EngineError {
    let why = one_line(error.message());
    if why.contains("libcu") || why.contains("providers_cuda") || why.contains("CUDA failure") {
        let fix = "install the CUDA 13 libraries and cuDNN 9 (the Python packages \
                   nvidia-cudnn-cu13, nvidia-cublas, nvidia-cuda-runtime, nvidia-cufft, \
                   nvidia-curand), name their folder with --cuda-libraries if `ferry doctor` does \
                   not find them, or use device = \"cpu\"";
        return EngineError::Library { library: "CUDA provider", why: format!("{why}: {fix}") };
    }
    unusable(path, why, EXPORT_AGAIN)
}

fn commit(
    file: &ModelFile,
    library: &Opened,
    options: CudaOptions,
    runner: &Runner,
    graphs: bool,
) -> ort::Result<Session> {
    let device = i32::try_from(options.device).map_err(ort::Error::wrap)?;
    let provider = CUDA::default()
        .with_device_id(device)
        .with_cuda_graph(graphs)
        .with_tf32(options.precision == Precision::Tf32)
        .with_prefer_nhwc(options.channels_last)
        .with_arbitrary_config("has_user_compute_stream", "1")
        .with_arbitrary_config("user_compute_stream", runner.stream().raw().addr().to_string());
    let builder = Session::builder(&library.environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(1)?
        .with_inter_threads(1)?
        .with_intra_op_spinning(false)?
        .with_env_allocators()?
        .with_execution_providers([provider.build().error_on_failure()])?;
    commit_from_memory(builder, file)
}
