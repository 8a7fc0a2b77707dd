//! `[cache]`: whether answers of a model are kept.

use std::path::Path;

use ferry_engine::FileBytes;
use serde::Deserialize;

/// Most bytes that may be kept: more is not this machine's.
const BYTES_MAX: u64 = 1 << 40;

/// Largest file that is looked at, in bytes; none is larger, as protobuf counts.
const FILE_BYTES_MAX: u64 = 2 << 30;

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CacheTable {
    /// Most bytes of answers that are kept.
    bytes: u64,
}

impl CacheTable {
    /// How many bytes are kept.
    ///
    /// # Errors
    /// A text that says what is out of bounds.
    pub(super) fn bytes(self) -> Result<u64, String> {
        let bytes = self.bytes;
        let why = || format!("cache.bytes = {bytes}; allowed are 1 to {BYTES_MAX}");
        (1..=BYTES_MAX).contains(&bytes).then_some(bytes).ok_or_else(why)
    }
}

/// Refuses to keep answers of a model that draws random numbers: each of its answers is another one.
/// What operators of other domains do, and engines that were built elsewhere, cannot be told.
///
/// # Errors
/// A text that names the operator.
pub(in crate::models) fn check(file: &Path) -> Result<(), String> {
    let is_onnx = file.extension().is_some_and(|it| it == "onnx");
    if !is_onnx {
        return Ok(());
    }
    let file = FileBytes::read(file, FILE_BYTES_MAX).map_err(|error| error.to_string())?;
    match ferry_onnx_file::random::operator(&file.bytes)? {
        None => Ok(()),
        Some(operator) => Err(format!(
            "[cache] keeps answers, and the model has an operator {operator}, which draws random \
             numbers: remove the table"
        )),
    }
}
