//! A model's file, read once.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use ferry_core::error_text;
use ferry_engine::{EngineError, FileBytes, FileDigest};
use ferry_onnx_file::{indices, rows};

/// What to do about a file that cannot be read as ONNX.
pub(crate) const EXPORT_AGAIN: &str =
    "check that the copy is complete, or export the model to ONNX again";

/// More bytes than that a file of the format cannot have: protobuf counts with 31 bits.
const BYTES_MAX: u64 = (1 << 31) - 1;

/// A file in memory, so that what is built and what is hashed are the same bytes.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Bytes,
    pub(crate) digest: FileDigest,
}

impl Source {
    pub(crate) fn read(path: &Path) -> Result<Source, EngineError> {
        const READABLE: &str = "give the path of an ONNX file that can be read";
        let FileBytes { bytes, digest, .. } = FileBytes::read(path, BYTES_MAX)
            .map_err(|error| unusable(path, error_text(&error), READABLE))?;
        if bytes.is_empty() {
            return Err(unusable(path, "the file is empty", EXPORT_AGAIN));
        }
        Ok(Source { path: path.to_owned(), bytes: Bytes::from(bytes), digest })
    }

    /// Whether the operators of the graph take floats for numbers and nothing else.
    pub(crate) fn floats_are_plain(&self) -> Result<bool, EngineError> {
        let found = indices::from_floats(&self.bytes);
        let found = found.map_err(|why| self.unusable(why, EXPORT_AGAIN))?;
        if let Some(operator) = &found {
            let model = self.path.display();
            tracing::debug!(%model, operator, "floats are copied before they are used");
        }
        Ok(found.is_none())
    }

    /// Why the graph does not show that rows mean nothing to each other; `None` if it does.
    pub(crate) fn doubt(&self) -> Option<String> {
        rows::doubt(&self.bytes)
    }

    /// An error that names the file, the reason and the remedy.
    pub(crate) fn unusable(&self, why: impl std::fmt::Display, fix: &str) -> EngineError {
        unusable(&self.path, why, fix)
    }
}

fn unusable(path: &Path, why: impl std::fmt::Display, fix: &str) -> EngineError {
    EngineError::Model(format!("{}: {why}: {fix}", path.display()))
}
