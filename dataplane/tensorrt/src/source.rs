//! A model's file, read once.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use ferry_engine::EngineError;
use sha2::{Digest, Sha256};

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
    pub(crate) sha256: [u8; 32],
}

impl Source {
    pub(crate) fn read(path: &Path) -> Result<Source, EngineError> {
        let unreadable =
            |error| unusable(path, error, "give the path of an ONNX file that can be read");
        let metadata = std::fs::metadata(path).map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(unusable(path, "not a file", "give the path of the .onnx file itself"));
        }
        if metadata.len() == 0 {
            return Err(unusable(path, "the file is empty", EXPORT_AGAIN));
        }
        if metadata.len() > BYTES_MAX {
            let why = format!("{} bytes, an ONNX file has at most {BYTES_MAX}", metadata.len());
            return Err(unusable(path, why, EXPORT_AGAIN));
        }
        let bytes = Bytes::from(std::fs::read(path).map_err(unreadable)?);
        let sha256 = Sha256::digest(&bytes).into();
        Ok(Source { path: path.to_owned(), bytes, sha256 })
    }

    /// An error that names the file, the reason and the remedy.
    pub(crate) fn unusable(&self, why: impl std::fmt::Display, fix: &str) -> EngineError {
        unusable(&self.path, why, fix)
    }
}

fn unusable(path: &Path, why: impl std::fmt::Display, fix: &str) -> EngineError {
    EngineError::Model(format!("{}: {why}: {fix}", path.display()))
}
