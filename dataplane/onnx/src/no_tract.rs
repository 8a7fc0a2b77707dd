//! In the place of tract in a build without it.

use std::path::Path;
use std::sync::Arc;

use ferry_core::Signature;
use ferry_engine::{EngineError, FileDigest};

use crate::ort::OrtEngine;

/// There is none.
pub(crate) const TRACT_VERSION: &str = "";

/// No file is one.
#[derive(Debug)]
pub enum TractModel {}

impl TractModel {
    /// Refuses every file.
    ///
    /// # Errors
    /// Always [`EngineError::Library`].
    pub fn open(_path: &Path) -> Result<Arc<TractModel>, EngineError> {
        let why = "this build has none: build ferryd with its feature `tract` (`cargo build \
                   --release`), or use engine = \"onnx\"";
        Err(EngineError::Library { library: "tract", why: why.to_owned() })
    }

    pub(crate) fn signature(&self) -> &Signature {
        match *self {}
    }

    pub(crate) fn files(&self) -> &[FileDigest] {
        match *self {}
    }

    pub(crate) fn doubt(&self) -> Option<&str> {
        match *self {}
    }

    pub(crate) fn instance(&self) -> OrtEngine {
        match *self {}
    }
}
