//! The engines of this build: with `app`, the only place that names them.

use std::path::PathBuf;

use ferry_engine::{Echo, Engine, EngineError, Rebuild};
use ferry_onnx::{EngineChoice as Onnx, Options, Probe, Search, open, probe};

use crate::models::{EngineChoice, EngineLoader, Instances, LoadSpec};

/// Where the script puts ONNX Runtime, below the folder of the project or of the binary.
const FETCHED: &str = ".cache/onnxruntime/1.30.0/libonnxruntime.so";

/// Loads ONNX files.
#[derive(Clone, Debug)]
pub struct OnnxLoader {
    library: Search,
}

impl OnnxLoader {
    /// Looks for ONNX Runtime at `explicit` alone, or else where the project's script puts it:
    /// below the working folder, or below one of the folders above the binary.
    pub fn new(explicit: Option<PathBuf>) -> OnnxLoader {
        let binary = std::env::current_exe().unwrap_or_default();
        let above = binary.ancestors().skip(1).map(|folder| folder.join(FETCHED));
        let candidates = std::iter::once(PathBuf::from(FETCHED)).chain(above).collect();
        OnnxLoader { library: Search { explicit, candidates } }
    }

    /// Whether ONNX Runtime is usable, and if not, what to do.
    pub fn probe(&self) -> Probe {
        probe(&self.library)
    }
}

impl EngineLoader for OnnxLoader {
    fn load(&self, spec: &LoadSpec<'_>) -> Result<Instances, EngineError> {
        let choice = match spec.engine {
            EngineChoice::Auto => Onnx::Auto,
            EngineChoice::Onnx => Onnx::Ort,
            EngineChoice::Tract => Onnx::Tract,
        };
        let options = Options { threads: spec.threads, library: self.library.clone() };
        let model = open(choice, spec.file, &options)?;
        let engines = (0..spec.instances).map(|_| model.instance()).collect::<Result<_, _>>()?;
        let (engine, engine_version) = (model.engine_name(), model.library_version().to_owned());
        let rebuild = Some(Rebuild::new(move || model.instance()));
        Ok(Instances { engines, engine, engine_version, rebuild })
    }
}

/// The built-in model `echo`: as many instances as there can be lanes at work, since it runs on
/// them.
pub fn echo(instances: usize) -> Instances {
    let engines = (0..instances).map(|_| Box::new(Echo::new()) as Box<dyn Engine>).collect();
    Instances {
        engines,
        engine: "echo",
        engine_version: env!("CARGO_PKG_VERSION").to_owned(),
        rebuild: Some(Rebuild::new(|| Ok(Box::new(Echo::new())))),
    }
}
