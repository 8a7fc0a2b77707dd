//! In the place of TensorRT in a build without it.

use ferry_core::Found;
use ferry_engine::EngineError;

use crate::config::Config;
use crate::models::{Instances, LoadSpec};

/// What is missing.
const WHY: &str = "this build of ferryd has no TensorRT";

/// What to do.
const FIX: &str =
    "build ferryd with its feature `tensorrt` (`cargo build --release`), or use engine = \"onnx\"";

/// Refuses every file.
#[derive(Debug)]
pub(super) struct Tensorrt;

/// Says that no engine can run here.
pub(in crate::app) fn survey(_config: &Config) -> Found {
    Found::bad("tensorrt", WHY, FIX)
}

/// There is none.
pub(super) fn version(_config: &Config) -> Option<String> {
    None
}

impl Tensorrt {
    pub(super) fn new(_config: &Config) -> Tensorrt {
        Tensorrt
    }

    pub(super) fn load(&self, _spec: &LoadSpec<'_>) -> Result<Instances, EngineError> {
        Err(EngineError::Library { library: "TensorRT", why: format!("{WHY}: {FIX}") })
    }
}
