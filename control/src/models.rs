//! The models that are served: found in the model folder, loaded, described, unloaded.

mod cache;
mod changes;
mod control;
mod counts;
mod error;
mod folder;
mod given;
mod load;
mod metadata;
mod model_config;
mod placement;
mod policy;
mod precision;
mod profile;
mod progress;
mod registry;
mod residency;
mod rooms;
mod shapes;
mod timings;
mod used;
mod warmup;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ferry_cuda::Device;
use ferry_engine::{Engine, EngineError, FileDigest, Rebuild};

pub use cache::{Cache, CacheStats, Cached, Key as CacheKey};
pub use control::ModelControl;
pub use counts::{Counted, Counts, Runs, Tally};
pub use error::ModelError;
pub use folder::{NAME_BYTES_MAX, Source, check_name};
pub use given::Given;
pub use load::Served;
pub use metadata::{
    Batch, Batches, CompletionName, DeviceChoice, DimSizes, Gpu, Metadata, MetadataError,
    PrecisionName, QueueRules,
};
pub use model_config::Declared;
pub use placement::{Choice, GpuFacts};
pub use policy::VersionPolicy;
pub use precision::Precision;
pub use profile::Profile;
pub use progress::Progress;
pub use registry::{Key, Listed, Loading, Memory, Models, Residency, State, Turnover, Watch};
pub use residency::{Budget, Place, Presence, ResidencyState, Shortage};
pub use rooms::Rooms;
pub use shapes::ShapeLimits;
pub use timings::{BOUNDS_NS, Histogram, OfTransport, RANGES, Timed, Timings};
pub use used::Used;
pub use warmup::{Filling, Warmup, WarmupInput};

/// What is to be loaded.
#[derive(Clone, Debug)]
pub struct LoadSpec<'a> {
    /// The model's file.
    pub file: &'a Path,
    /// The name of the engine that runs it.
    pub engine: &'a str,
    /// Which device runs it.
    pub device: DeviceChoice,
    /// The GPU that `auto` means; `None` where there is none to choose.
    pub auto_gpu: Option<&'a Choice>,
    /// How it runs on a GPU.
    pub gpu: Gpu,
    /// Sizes of open dimensions that an engine is built for, by the dimension's name.
    pub dims: &'a BTreeMap<String, DimSizes>,
    /// How many instances.
    pub instances: usize,
    /// Threads of each.
    pub threads: usize,
}

/// Instances of a model, ready to run.
pub struct Instances {
    /// At least one.
    pub engines: Vec<Box<dyn Engine>>,
    /// The engine's name: `onnx`, `tract`, `tensorrt`, `echo`.
    pub engine: &'static str,
    /// The version of its library.
    pub engine_version: String,
    /// The GPU that they run on; `None` for the CPU.
    pub device: Option<Arc<Device>>,
    /// Why `auto` is that device; empty where the device was named.
    pub device_why: String,
    /// What their weights take of that memory, as far as the engine knows.
    pub weights_bytes: u64,
    /// In which numbers they compute; `None` where nothing is computed.
    pub precision: Option<Precision>,
    /// Sizes of open dimensions that they were built for; those that are not here may have any.
    pub dims: BTreeMap<String, DimSizes>,
    /// The files that they were made of, the model's own first; none for a built-in model.
    pub files: Vec<FileDigest>,
    /// Why the model's graph does not show that its rows mean nothing to each other; `None` if it
    /// does.
    pub doubt: Option<String>,
    /// Makes another instance.
    pub rebuild: Option<Rebuild>,
}

impl std::fmt::Debug for Instances {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Instances { engines, engine, engine_version, .. } = self;
        f.debug_struct("Instances")
            .field("engine", engine)
            .field("engine_version", engine_version)
            .field("count", &engines.len())
            .finish_non_exhaustive()
    }
}

/// Turns a model's file into instances. The composition root knows the engines; this does not.
pub trait EngineLoader: Send + Sync + std::fmt::Debug {
    /// Loads a model. May take seconds.
    ///
    /// # Errors
    /// What the engine says; with `auto`, what the last engine that was tried says.
    fn load(&self, spec: &LoadSpec<'_>) -> Result<Instances, EngineError>;

    /// The GPUs that an engine could use now; none where it uses none.
    fn gpus(&self, _engine: &str) -> Vec<GpuFacts> {
        Vec::new()
    }
}
