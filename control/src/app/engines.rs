//! The engines that this build has.

#[cfg(feature = "tensorrt")]
pub(super) mod tensorrt;
#[cfg(not(feature = "tensorrt"))]
#[path = "engines/no_tensorrt.rs"]
pub(super) mod tensorrt;

use ferry_core::error_text;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use ferry_cuda::libraries::{self, LibrarySearch, cudnn_version};
use ferry_engine::{Echo, Engine, EngineError, Rebuild, RunOn};
use ferry_onnx::{
    Completion, CudaEngine, CudaModel, CudaOptions, Options, Precision, Probe, Search,
};

use self::tensorrt::Tensorrt;
use crate::config::Config;
use crate::host::machine::VERSION;
use crate::models::{
    CompletionName, DeviceChoice, EngineChoice, EngineLoader, Instances, LoadSpec, Metadata,
    Precision as ComputesIn, PrecisionName, ShapeLimits,
};

/// Instances of echo beyond the cores: each serves one lane or one thread of gRPC at a time.
const ECHO_SPARE: usize = 4;

/// Loads ONNX files.
#[derive(Debug)]
struct Engines {
    onnx: Onnx,
    tensorrt: Tensorrt,
}

/// Loads them with ONNX Runtime and tract.
#[derive(Debug)]
struct Onnx {
    library: Search,
    cuda_libraries: LibrarySearch,
}

/// Where the project's script puts ONNX Runtime, below the folder of the project.
const FETCHED: &str = ".cache/onnxruntime/1.30.0/libonnxruntime.so";

/// Where a script of the project's may have put something: below the working folder, or below one
/// of the folders above the binary.
fn fetched(what: &str) -> Vec<PathBuf> {
    let binary = std::env::current_exe().unwrap_or_default();
    let above = binary.ancestors().skip(1).map(|folder| folder.join(what));
    std::iter::once(what.into()).chain(above).collect()
}

/// The operator's path alone; else where the script puts the library.
fn search(config: &Config) -> Search {
    Search { explicit: config.onnxruntime.clone(), candidates: fetched(FETCHED) }
}

/// What loads the files of the model folder.
pub(super) fn loader(config: &Config) -> Arc<dyn EngineLoader> {
    let cuda_libraries = config.cuda_libraries.clone();
    let onnx = Onnx { library: search(config), cuda_libraries };
    Arc::new(Engines { onnx, tensorrt: Tensorrt::new(config) })
}

/// Whether ONNX Runtime is there.
pub(super) fn probe(config: &Config) -> Probe {
    ferry_onnx::probe(&search(config))
}

/// Versions of the native libraries and the names of the GPUs, a JSON object.
pub(super) fn libraries_json(config: &Config) -> String {
    let mut all = serde_json::Map::new();
    if let Probe::Found { version, .. } = probe(config) {
        all.insert("onnxruntime".into(), version.into());
    }
    if let Some(version) = tensorrt::version(config) {
        all.insert("tensorrt".into(), version.into());
    }
    if let Ok(driver) = ferry_cuda::probe() {
        all.insert("cuda".into(), driver.version().into());
        let cudnn = cudnn_version(&config.cuda_libraries).map(|it| it.to_string());
        let told = [("nvidia_driver", ferry_cuda::nvml::driver_version().ok()), ("cudnn", cudnn)];
        all.extend(told.into_iter().filter_map(|(key, it)| Some((key.to_owned(), it?.into()))));
        let listed = ferry_cuda::list().unwrap_or_default();
        let gpus: Vec<_> = listed.into_iter().flatten().map(|gpu| gpu.name).collect();
        all.insert("gpus".into(), gpus.into());
    }
    serde_json::Value::Object(all).to_string()
}

impl EngineLoader for Engines {
    fn load(&self, spec: &LoadSpec<'_>) -> Result<Instances, EngineError> {
        match spec.engine {
            EngineChoice::Auto => self.onnx.load(spec, ferry_onnx::EngineChoice::Auto),
            EngineChoice::Onnx => self.onnx.load(spec, ferry_onnx::EngineChoice::Ort),
            EngineChoice::Tract => self.onnx.load(spec, ferry_onnx::EngineChoice::Tract),
            EngineChoice::Tensorrt => self.tensorrt.load(spec),
        }
    }
}

/// What only TensorRT has. Refused on every machine: what runs on the CPU must not depend on
/// whether a GPU was found.
fn check(spec: &LoadSpec<'_>) -> Result<Precision, EngineError> {
    if !spec.dims.is_empty() {
        let why = "[dims] says what an engine of tensorrt is built for: leave it out (max_batch \
                   and max_elements bound sessions), or use engine = \"tensorrt\"";
        return Err(EngineError::Model(why.to_owned()));
    }
    match spec.gpu.precision {
        PrecisionName::Fp32 => Ok(Precision::Fp32),
        PrecisionName::Tf32 => Ok(Precision::Tf32),
        PrecisionName::Fp16 => {
            let why = "gpu.precision = \"fp16\", and ONNX Runtime computes in the types of the \
                       file: export the model in 16 bits and leave the precision out, or use \
                       engine = \"tensorrt\"";
            Err(EngineError::Model(why.to_owned()))
        }
    }
}

impl Onnx {
    fn load(
        &self,
        spec: &LoadSpec<'_>,
        choice: ferry_onnx::EngineChoice,
    ) -> Result<Instances, EngineError> {
        let precision = check(spec)?;
        if let Some(on_device) = self.on_device(spec, precision)? {
            return Ok(on_device);
        }
        let options = Options { threads: spec.threads, library: self.library.clone() };
        let model = ferry_onnx::open(choice, spec.file, &options)?;
        let instances = (0..spec.instances).map(|_| model.instance());
        let engines = instances.collect::<Result<Vec<_>, _>>()?;
        let signature = engines.first().map(|engine| engine.signature());
        Ok(Instances {
            // What was chosen is for a GPU: a CPU has no other products of 32-bit floats.
            precision: signature.map(|it| ComputesIn::of(it, PrecisionName::Fp32)),
            engines,
            engine: model.engine_name(),
            engine_version: model.library_version().to_owned(),
            device: None,
            dims: BTreeMap::new(),
            files: model.files().to_vec(),
            rebuild: Some(Rebuild::new(move || model.instance())),
        })
    }

    /// The model on a GPU; `None` where it is to run on the CPU, or nothing else is possible and
    /// nobody asked for a GPU by name.
    fn on_device(
        &self,
        spec: &LoadSpec<'_>,
        precision: Precision,
    ) -> Result<Option<Instances>, EngineError> {
        let ordinal = match (spec.device, spec.engine) {
            (DeviceChoice::Cpu, _) | (DeviceChoice::Auto, EngineChoice::Tract) => return Ok(None),
            (DeviceChoice::Cuda(ordinal), EngineChoice::Tract) => {
                let why = format!("tract runs on the CPU, and device is cuda:{ordinal}");
                return Err(EngineError::Model(why + ": use engine = \"onnx\""));
            }
            (DeviceChoice::Auto, _) => 0,
            (DeviceChoice::Cuda(ordinal), _) => ordinal,
        };
        match self.cuda(spec, precision, ordinal) {
            Ok(instances) => Ok(Some(instances)),
            Err(error) if spec.device == DeviceChoice::Auto => {
                let why = error_text(&error);
                tracing::info!(model = %spec.file.display(), why, "runs on the CPU");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn cuda(
        &self,
        spec: &LoadSpec<'_>,
        precision: Precision,
        ordinal: u32,
    ) -> Result<Instances, EngineError> {
        let gpu = spec.gpu;
        let options = CudaOptions {
            device: ordinal,
            precision,
            channels_last: gpu.channels_last,
            streams: gpu.streams,
            beside_urgent: gpu.beside_urgent,
            completion: match gpu.completion {
                CompletionName::Poll => Completion::Poll,
                CompletionName::Wait => Completion::Wait,
            },
            ..CudaOptions::default()
        };
        // Without a driver they are of no use, and the model says what is missing.
        if ferry_cuda::probe().is_ok() {
            let opened = libraries::open(&self.cuda_libraries);
            opened.map_err(|error| EngineError::Library {
                library: "CUDA",
                why: error_text(&error),
            })?;
        }
        let model = Arc::new(CudaModel::open(spec.file, &self.library, options)?);
        let instances = (0..spec.instances).map(|_| model.instance());
        let boxed = |it: CudaEngine| Box::new(it) as Box<dyn Engine>;
        let computes_in = ComputesIn::of(model.signature(), gpu.precision);
        tracing::info!(
            model = %spec.file.display(), device = model.device().name(), ordinal,
            graphs = model.has_graphs(), weights_bytes = model.weights_bytes(),
            streams = gpu.streams,
            precision = computes_in.name(), "runs on a GPU"
        );
        Ok(Instances {
            engines: instances.map(|it| it.map(boxed)).collect::<Result<_, _>>()?,
            engine: "onnx-cuda",
            engine_version: model.library_version().to_owned(),
            device: Some(Arc::clone(model.device())),
            precision: Some(computes_in),
            dims: BTreeMap::new(),
            files: model.files().to_vec(),
            rebuild: Some(Rebuild::new(move || Ok(boxed(model.instance()?)))),
        })
    }
}

/// The built-in model `echo`, run by the lane itself: it costs less than waking a thread.
pub(super) fn echo(base: Metadata) -> (Instances, Metadata) {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let instances = cores + ECHO_SPARE;
    let metadata = Metadata {
        description: "gives back what it got, cut or repeated to the length asked for".into(),
        instances,
        threads: 1,
        run: RunOn::Lane,
        shapes: ShapeLimits::NONE,
        ..base
    };
    let engines = (0..instances).map(|_| Box::new(Echo::new()) as Box<dyn Engine>);
    let rebuild = Rebuild::new(|| Ok(Box::new(Echo::new())));
    let instances = Instances {
        engines: engines.collect(),
        engine: "echo",
        engine_version: VERSION.to_owned(),
        device: None,
        precision: None,
        dims: BTreeMap::new(),
        files: Vec::new(),
        rebuild: Some(rebuild),
    };
    (instances, metadata)
}
