//! What is wrong with a model's file, in words that name it.

use std::any::Any;
use std::path::Path;

use ferry_core::without_middle;
use ferry_engine::EngineError;

/// What to do about a file that cannot be read as ONNX.
pub(crate) const EXPORT_AGAIN: &str =
    "check that the copy is complete, or export the model to ONNX again";

/// An error that names the file, the reason and the remedy.
pub(crate) fn unusable(path: &Path, why: impl std::fmt::Display, fix: &str) -> EngineError {
    EngineError::Model(format!("{}: {why}: {fix}", path.display()))
}

/// Refuses what no library should be asked to read.
pub(crate) fn check(path: &Path) -> Result<(), EngineError> {
    let metadata = std::fs::metadata(path)
        .map_err(|error| unusable(path, error, "give the path of an ONNX file that can be read"))?;
    if !metadata.is_file() {
        return Err(unusable(path, "not a file", "give the path of the .onnx file itself"));
    }
    if metadata.len() == 0 {
        return Err(unusable(path, "the file is empty", EXPORT_AGAIN));
    }
    Ok(())
}

/// What a panic said, if it said it in words.
pub(crate) fn text_of(panic: &(dyn Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "a panic without a text".to_owned(),
    }
}

/// Why a library gave a file up, on one line of bearable length.
pub(crate) fn one_line(text: &str) -> String {
    /// Longer messages are dumps of a node or a graph between what failed and why. A slot has room
    /// for this and what is said around it.
    const BYTES_MAX: usize = 3000;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let told = without_middle(&line, BYTES_MAX);
    if told.len() < line.len() {
        tracing::debug!("all of a long message: {line}");
    }
    told.into_owned()
}
