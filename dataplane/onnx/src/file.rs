//! A model's file, read once; and what is wrong with it, in words that name it.

use std::fs::File;
use std::path::{Path, PathBuf};

use ferry_core::error_text;
use ferry_engine::{EngineError, FileBytes, FileDigest, FileError};

pub(crate) use ferry_engine::library::one_line;

use crate::external::{self, Files, Weights};

/// What to do about a file that cannot be read as ONNX.
pub(crate) const EXPORT_AGAIN: &str =
    "check that the copy is complete, or export the model to ONNX again";

/// More bytes than that a file of the format cannot have: protobuf counts with 31 bits.
const BYTES_MAX: u64 = (1 << 31) - 1;

/// An error that names the file, the reason and the remedy.
pub(crate) fn unusable(path: &Path, why: impl std::fmt::Display, fix: &str) -> EngineError {
    EngineError::Model(format!("{}: {why}: {fix}", path.display()))
}

/// A model's file and the weights that lie beside it, in memory: what is loaded and what is hashed
/// are the same bytes, and no library maps a file.
#[derive(Debug)]
pub(crate) struct ModelFile {
    pub(crate) path: PathBuf,
    /// The file; weights from other files are inside or refer to `weights`.
    pub(crate) model: Vec<u8>,
    /// Files of weights, by the name that the model gives them. Empty where all are inside.
    pub(crate) weights: Files,
    /// The file, and those of its weights.
    pub(crate) digests: Vec<FileDigest>,
    /// As many, open.
    pub(crate) open: Vec<File>,
}

impl ModelFile {
    pub(crate) fn read(path: &Path, weights: Weights) -> Result<ModelFile, EngineError> {
        ModelFile::made_of(path, weights, FileBytes::read)
    }

    /// Reads what was read before once more, though other files may lie there by now.
    pub(crate) fn again(
        digests: &[FileDigest],
        open: &[File],
        weights: Weights,
    ) -> Result<ModelFile, EngineError> {
        let path = digests.first().map_or(Path::new(""), |digest| &digest.path);
        let file = ModelFile::made_of(path, weights, |path, bytes_max| {
            let known = digests.iter().zip(open).find(|(digest, _)| digest.path == path);
            match known {
                Some((_, file)) => FileBytes::again(path, file, bytes_max),
                None => FileBytes::read(path, bytes_max),
            }
        })?;
        if file.digests != digests {
            const LOAD_AGAIN: &str = "load the model again";
            return Err(unusable(path, "the file was written since it was loaded", LOAD_AGAIN));
        }
        Ok(file)
    }

    fn made_of(
        path: &Path,
        weights: Weights,
        read: impl Fn(&Path, u64) -> Result<FileBytes, FileError>,
    ) -> Result<ModelFile, EngineError> {
        const READABLE: &str = "give the path of an ONNX file that can be read";
        let FileBytes { bytes: model, digest, file } =
            read(path, BYTES_MAX).map_err(|error| unusable(path, error_text(&error), READABLE))?;
        if model.is_empty() {
            return Err(unusable(path, "the file is empty", EXPORT_AGAIN));
        }
        let mut file = ModelFile {
            path: path.to_owned(),
            model,
            weights: Files::new(),
            digests: vec![digest],
            open: vec![file],
        };
        let broken = |why: String| unusable(path, why, EXPORT_AGAIN);
        for name in external::names(&file.model).map_err(broken)? {
            const COMPLETE: &str = "copy the weights' files together with the model's";
            let FileBytes { bytes, digest, file: open } =
                read(&path.with_file_name(&name), u64::MAX)
                    .map_err(|error| unusable(path, error_text(&error), COMPLETE))?;
            file.weights.insert(name, bytes);
            file.digests.push(digest);
            file.open.push(open);
        }
        if !file.weights.is_empty() {
            file.model = external::resolved(&file.model, &file.weights, weights).map_err(broken)?;
        }
        if weights == Weights::Inside {
            file.weights.clear();
        }
        Ok(file)
    }
}
