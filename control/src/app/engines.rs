//! The engines that this build has.

use std::sync::Arc;

use ferry_engine::{Echo, Engine, EngineError, Rebuild, RunOn};
use ferry_onnx::{Options, Probe, Search};

use crate::config::Config;
use crate::machine::VERSION;
use crate::models::{EngineChoice, EngineLoader, Instances, LoadSpec, Metadata, ShapeLimits};

/// Instances of echo beyond the cores: each serves one lane or one thread of gRPC at a time.
const ECHO_SPARE: usize = 4;

/// Loads ONNX files.
#[derive(Debug)]
struct Onnx {
    library: Search,
}

/// Where the project's script puts ONNX Runtime, below the folder of the project.
const FETCHED: &str = ".cache/onnxruntime/1.30.0/libonnxruntime.so";

/// The operator's path alone; else where the script puts the library: below the working folder, or
/// below one of the folders above the binary.
fn search(config: &Config) -> Search {
    let binary = std::env::current_exe().unwrap_or_default();
    let above = binary.ancestors().skip(1).map(|folder| folder.join(FETCHED));
    let candidates = std::iter::once(FETCHED.into()).chain(above).collect();
    Search { explicit: config.onnxruntime.clone(), candidates }
}

/// What loads the files of the model folder.
pub(super) fn loader(config: &Config) -> Arc<dyn EngineLoader> {
    Arc::new(Onnx { library: search(config) })
}

/// Whether ONNX Runtime is there.
pub(super) fn probe(config: &Config) -> Probe {
    ferry_onnx::probe(&search(config))
}

/// Versions of the native libraries, a JSON object.
pub(super) fn libraries_json(config: &Config) -> String {
    let mut all = serde_json::Map::new();
    if let Probe::Found { version, .. } = probe(config) {
        all.insert("onnxruntime".into(), version.into());
    }
    serde_json::Value::Object(all).to_string()
}

impl EngineLoader for Onnx {
    fn load(&self, spec: &LoadSpec<'_>) -> Result<Instances, EngineError> {
        let choice = match spec.engine {
            EngineChoice::Auto => ferry_onnx::EngineChoice::Auto,
            EngineChoice::Onnx => ferry_onnx::EngineChoice::Ort,
            EngineChoice::Tract => ferry_onnx::EngineChoice::Tract,
        };
        let options = Options { threads: spec.threads, library: self.library.clone() };
        let model = ferry_onnx::open(choice, spec.file, &options)?;
        let instances = (0..spec.instances).map(|_| model.instance());
        Ok(Instances {
            engines: instances.collect::<Result<_, _>>()?,
            engine: model.engine_name(),
            engine_version: model.library_version().to_owned(),
            rebuild: Some(Rebuild::new(move || model.instance())),
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
        rebuild: Some(rebuild),
    };
    (instances, metadata)
}
