//! The engines of this build: one file for each, and one line in [`all`].

mod echo;
mod onnx;
#[cfg(feature = "tensorrt")]
mod tensorrt;
#[cfg(not(feature = "tensorrt"))]
#[path = "engines/no_tensorrt.rs"]
mod tensorrt;

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

use ferry_core::Found;
use ferry_cuda::libraries::cudnn_version;
use ferry_cuda::{ComputeMode, Listed, nvml};
use ferry_engine::{EngineError, FileDigest};
use ferry_onnx::EngineChoice::{Auto, Ort, Tract};

use crate::config::Config;
use crate::models::{DeviceChoice, EngineLoader, GpuFacts, Instances, LoadSpec};

pub(super) use echo::echo;

/// An engine: what it makes of a model's file, and whether it can.
trait EngineFactory: Debug + Send + Sync {
    /// The name in a model's TOML.
    fn name(&self) -> &'static str;

    /// Loads a model's file. May take seconds.
    ///
    /// # Errors
    /// What is wrong with the file, or what the model asks for and this engine has not.
    fn load(&self, spec: &LoadSpec<'_>) -> Result<Instances, EngineError>;

    /// Whether it could run on a GPU.
    fn uses_gpus(&self) -> bool {
        true
    }

    /// Whether it can run here, and what to do where it cannot; `gpu` is what was found of GPUs.
    fn survey(&self, gpu: &[Found]) -> Vec<Found>;

    /// The name and the version of its native library, where that can be used.
    fn library(&self) -> Option<(&'static str, String)> {
        None
    }
}

/// Every engine of this build.
fn all(config: &Config) -> Vec<Box<dyn EngineFactory>> {
    vec![
        Box::new(onnx::Onnx::new(Auto, config)),
        Box::new(onnx::Onnx::new(Ort, config)),
        Box::new(tensorrt::Tensorrt::new(config)),
        Box::new(onnx::Onnx::new(Tract, config)),
    ]
}

/// Loads a model with the engine that it names.
#[derive(Debug)]
struct Engines(Vec<Box<dyn EngineFactory>>);

/// What loads the files of the model folder.
pub(super) fn loader(config: &Config) -> Arc<dyn EngineLoader> {
    Arc::new(Engines(all(config)))
}

impl EngineLoader for Engines {
    fn load(&self, spec: &LoadSpec<'_>) -> Result<Instances, EngineError> {
        let Engines(all) = self;
        let found = all.iter().find(|it| it.name() == spec.engine);
        let unknown = || {
            let known: Vec<_> = all.iter().map(|it| it.name()).collect();
            let known = known.join(", ");
            EngineError::Model(format!("engine = {:?}; known are {known}", spec.engine))
        };
        found.ok_or_else(unknown)?.load(spec)
    }

    fn gpus(&self, engine: &str) -> Vec<GpuFacts> {
        let uses_gpus = self.0.iter().any(|it| it.name() == engine && it.uses_gpus());
        // A device that does not say what it is cannot be used.
        let listed = uses_gpus.then(|| ferry_cuda::list().ok()).flatten().unwrap_or_default();
        let usable = listed.into_iter().flatten();
        let usable = usable.filter(|gpu| gpu.compute_mode != ComputeMode::Prohibited);
        let facts = |gpu: Listed| GpuFacts {
            ordinal: gpu.ordinal,
            free_bytes: nvml::free_bytes(&gpu.pci),
            name: gpu.name,
        };
        usable.map(facts).collect()
    }
}

/// Why the GPU that a model was loaded on was chosen; empty where it was named.
fn auto_why(spec: &LoadSpec<'_>) -> String {
    let chosen = spec.auto_gpu.filter(|_| spec.device == DeviceChoice::Auto);
    chosen.map(|choice| choice.why.clone()).unwrap_or_default()
}

/// What the files of a model have together, of which weights are the most: as many bytes of weights
/// does an engine have at least that repeats none.
fn files_bytes(files: &[FileDigest]) -> u64 {
    files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes))
}

/// What was found of each; `gpu` is what was found of GPUs.
pub(super) fn survey(config: &Config, gpu: &[Found]) -> Vec<Found> {
    let echo = Found::good("echo", "part of this build");
    all(config).iter().flat_map(|it| it.survey(gpu)).chain([echo]).collect()
}

/// Versions of the native libraries and the names of the GPUs, a JSON object.
pub(super) fn libraries_json(config: &Config) -> String {
    let mut versions: serde_json::Map<_, _> = all(config)
        .iter()
        .filter_map(|it| it.library())
        .map(|(name, version)| (name.to_owned(), version.into()))
        .collect();
    if let Ok(driver) = ferry_cuda::probe() {
        versions.insert("cuda".into(), driver.version().into());
        let cudnn = cudnn_version(&config.cuda_libraries).map(|it| it.to_string());
        let told = [("nvidia_driver", ferry_cuda::nvml::driver_version().ok()), ("cudnn", cudnn)];
        versions
            .extend(told.into_iter().filter_map(|(key, it)| Some((key.to_owned(), it?.into()))));
        let listed = ferry_cuda::list().unwrap_or_default();
        let gpus: Vec<_> = listed.into_iter().flatten().map(|gpu| gpu.name).collect();
        versions.insert("gpus".into(), gpus.into());
    }
    serde_json::Value::Object(versions).to_string()
}

/// Where a script of the project's may have put something: below the working folder, or below one
/// of the folders above the binary.
fn fetched(what: &str) -> Vec<PathBuf> {
    let binary = std::env::current_exe().unwrap_or_default();
    let above = binary.ancestors().skip(1).map(|folder| folder.join(what));
    std::iter::once(what.into()).chain(above).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use crate::models::Gpu;

    use super::*;

    #[test]
    fn an_engine_that_is_not_there_is_refused_with_those_that_are() {
        let spec = LoadSpec {
            file: Path::new("/nowhere.onnx"),
            engine: "torch",
            device: DeviceChoice::Auto,
            auto_gpu: None,
            gpu: Gpu::default(),
            dims: &BTreeMap::new(),
            instances: 1,
            threads: 1,
        };
        let error = loader(&Config::default()).load(&spec).unwrap_err().to_string();
        let told = |what: &str| error.contains(what);
        assert!(told("\"torch\"") && told("auto") && told("onnx") && told("tract"), "{error}");
    }
}
