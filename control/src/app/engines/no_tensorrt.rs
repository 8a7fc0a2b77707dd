//! In the place of TensorRT in a build without it.

use ferry_core::Found;
use ferry_engine::EngineError;

use super::EngineFactory;
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

impl Tensorrt {
    pub(super) fn new(_config: &Config) -> Tensorrt {
        Tensorrt
    }
}

impl EngineFactory for Tensorrt {
    fn name(&self) -> &'static str {
        "tensorrt"
    }

    fn load(&self, _spec: &LoadSpec<'_>) -> Result<Instances, EngineError> {
        Err(EngineError::Library { library: "TensorRT", why: format!("{WHY}: {FIX}") })
    }

    fn survey(&self, _gpu: &[Found]) -> Vec<Found> {
        vec![Found::bad("tensorrt", WHY, FIX)]
    }
}
