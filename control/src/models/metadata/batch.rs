//! `[batch]`: which requests to a model run as one.

use std::collections::BTreeMap;
use std::time::Duration;

use ferry_core::{Dim, Signature};
use ferry_engine::{BatchOptions, RunOn, why_not_batched};
use serde::Deserialize;

use super::{DimSizes, Metadata};

/// Most rows of a batch where nobody says otherwise: a CPU computes no more in larger ones, and
/// each request waits for the whole batch.
const ROWS_DEFAULT: u64 = 32;

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    /// Whether requests are batched; with a table they are, unless this says no.
    pub enabled: Option<bool>,
    /// Most rows.
    pub max: Option<u64>,
    /// How long a batch waits, in microseconds.
    pub delay_us: u64,
    /// Sizes that batches are cut to.
    pub preferred: Vec<u64>,
}

impl Batch {
    /// How requests to a model are batched; the second text is for the log where they are not.
    /// `dims` are the sizes that its engine was built for.
    ///
    /// # Errors
    /// A text that says what in the table does not fit the model. What does not fit whatever else
    /// the file says is found when the pool is started.
    pub(in crate::models) fn options(
        metadata: &Metadata,
        signature: &Signature,
        dims: &BTreeMap<String, DimSizes>,
        is_on_gpu: bool,
    ) -> Result<Result<BatchOptions, String>, String> {
        let rows_max = rows_max(metadata, signature, dims);
        let elements_max = metadata.shapes.elements_max;
        let Some(table) = &metadata.batch else {
            let (rows_max, delay) = (rows_max.min(ROWS_DEFAULT), Duration::ZERO);
            let default = BatchOptions { rows_max, delay, preferred: Vec::new(), elements_max };
            return Ok(why_not_by_default(metadata, signature, is_on_gpu, rows_max)
                .map_or(Ok(default), Err));
        };
        if table.enabled == Some(false) {
            return Ok(Err("enabled = false in [batch]".to_owned()));
        }
        let max = table.max.unwrap_or(rows_max.min(ROWS_DEFAULT));
        if max > rows_max {
            return Err(format!(
                "batch.max = {max}, and the model takes {rows_max} rows: set max_batch (with \
                 tensorrt also the max of the dimension in [dims]) to as many"
            ));
        }
        Ok(Ok(BatchOptions {
            rows_max: max,
            delay: Duration::from_micros(table.delay_us),
            preferred: table.preferred.clone(),
            elements_max,
        }))
    }
}

/// How many rows the model may be given at once.
fn rows_max(metadata: &Metadata, signature: &Signature, dims: &BTreeMap<String, DimSizes>) -> u64 {
    let first = signature.inputs.first().and_then(|input| input.shape.first());
    let built = match first {
        Some(Dim::Named(rows)) => dims.get(rows).map(|sizes| sizes.max),
        _ => None,
    };
    metadata.shapes.batch_max.min(built.unwrap_or(u64::MAX))
}

/// Why requests are not batched where the operator says nothing of it.
fn why_not_by_default(
    metadata: &Metadata,
    signature: &Signature,
    is_on_gpu: bool,
    rows_max: u64,
) -> Option<String> {
    if let Some(why) = why_not_batched(signature) {
        return Some(why);
    }
    // As for `max_batch`: the only dimension of a tensor is as likely its length as a batch.
    if let Some(flat) = signature.inputs.iter().find(|input| input.shape.len() < 2) {
        return Some(format!("input {flat} has one dimension, which need not be a batch"));
    }
    if metadata.run == RunOn::Lane {
        return Some("it runs on the lane".to_owned());
    }
    if is_on_gpu {
        // One stream each, until the queue is longer than that; and a graph for every size.
        return Some("on a GPU a [batch] table must say so".to_owned());
    }
    (rows_max < 2).then(|| "it takes one row at a time".to_owned())
}

#[cfg(test)]
mod tests;
