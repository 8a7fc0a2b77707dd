//! `[batch]`: which requests to a model run as one.

use std::collections::BTreeMap;
use std::time::Duration;

use ferry_core::{Dim, Signature};
use ferry_engine::{BatchOptions, why_not_batched};
use serde::Deserialize;

use super::{DimSizes, Metadata};

/// Most rows of a batch where nobody says otherwise: a CPU computes no more in larger ones, and
/// each request waits for the whole batch.
const ROWS_DEFAULT: u64 = 32;

/// A batch of a model that looks from one row to another mixes what its clients sent: nobody is
/// batched whose operator does not say that this is none.
const UNSAID: &str = "no [batch] table says that its rows mean nothing to each other";

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
    ) -> Result<Result<BatchOptions, String>, String> {
        let rows_max = rows_max(metadata, signature, dims);
        let Some(table) = &metadata.batch else {
            return Ok(Err(why_not_batched(signature).unwrap_or_else(|| UNSAID.to_owned())));
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
            elements_max: metadata.shapes.elements_max,
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

#[cfg(test)]
mod tests;
