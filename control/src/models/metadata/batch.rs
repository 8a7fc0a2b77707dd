//! `[batch]`: which requests to a model run as one.

use std::collections::BTreeMap;
use std::time::Duration;

use ferry_core::{Dim, Signature};
use ferry_engine::batch::BATCH_ROWS_MAX;
use ferry_engine::{BatchOptions, RunOn, why_not_batched};
use serde::Deserialize;

use super::{DimSizes, Metadata};

/// Most rows of a batch where nobody says otherwise: a CPU computes no more in larger ones, and
/// each request waits for the whole batch.
const ROWS_DEFAULT: u64 = 32;

/// Most elements of one tensor of a batch where no table asks for batches: 64 MiB as FP32. Of what is
/// larger, copying costs as much as a batch saves, and each instance keeps room for a batch.
const ELEMENTS_DEFAULT: u64 = 16 << 20;

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    /// Whether requests are batched; with a table they are, unless this says no.
    pub enabled: Option<bool>,
    /// Most rows.
    pub max: Option<i64>,
    /// How long a batch waits, in microseconds.
    pub delay_us: i64,
    /// Sizes that batches are cut to.
    pub preferred: Vec<i64>,
}

/// Whether requests to a model run as one.
#[derive(Clone, Debug)]
pub struct Batches {
    /// How; `None` where each runs alone.
    pub options: Option<BatchOptions>,
    /// Why, or why not.
    pub why: String,
    /// Whether nothing but the operator's word says that rows mean nothing to each other.
    pub is_promise: bool,
}

/// What is known of a model when it is decided whether its requests run as one.
#[derive(Clone, Copy, Debug)]
pub(in crate::models) struct Loaded<'a> {
    /// What it takes and gives.
    pub signature: &'a Signature,
    /// The name of its engine.
    pub engine: &'static str,
    /// Whether it runs on a GPU.
    pub on_gpu: bool,
    /// The sizes that its engine was built for.
    pub dims: &'a BTreeMap<String, DimSizes>,
    /// Why its graph does not show that rows mean nothing to each other; `None` if it does.
    pub doubt: Option<&'a str>,
}

impl Batches {
    fn off(why: impl Into<String>) -> Batches {
        Batches { options: None, why: why.into(), is_promise: false }
    }

    /// For people: whether requests run as one, and why.
    pub fn told(&self) -> String {
        let Some(options) = &self.options else { return format!("off: {}", self.why) };
        let BatchOptions { rows_max, delay, preferred, .. } = options;
        let mut told = format!("up to {rows_max} rows a run");
        if !preferred.is_empty() {
            let sizes: Vec<_> = preferred.iter().map(u64::to_string).collect();
            told += &format!(", preferred {}", sizes.join(", "));
        }
        if !delay.is_zero() {
            told += &format!(", waiting for at most {} µs", delay.as_micros());
        }
        format!("{told}: {}", self.why)
    }
}

impl Batch {
    /// Whether and how requests to a model are batched.
    ///
    /// # Errors
    /// A text that says what in the table does not fit the model. What does not fit whatever else
    /// the file says is found when the pool is started.
    pub(in crate::models) fn decide(
        metadata: &Metadata,
        model: Loaded<'_>,
    ) -> Result<Batches, String> {
        let rows_max = rows_max(metadata, model);
        let Some(table) = &metadata.batch else { return Ok(by_itself(metadata, model, rows_max)) };
        if table.enabled == Some(false) {
            return Ok(Batches::off("enabled = false in [batch]"));
        }
        if rows_max < 2 {
            return Err(format!(
                "[batch] is given, and the model takes no more than {rows_max} row: raise \
                 max_batch (with tensorrt also the max of the dimension in [dims]), or leave \
                 [batch] out"
            ));
        }
        let max = match table.max {
            Some(max) => number("max", max)?,
            None => rows_max.min(ROWS_DEFAULT),
        };
        // What no model may have is told by the pool.
        if max > rows_max && max <= BATCH_ROWS_MAX {
            return Err(format!(
                "batch.max = {max}, and the model takes {rows_max} rows: set max_batch (with \
                 tensorrt also the max of the dimension in [dims]) to as many"
            ));
        }
        let preferred = table.preferred.iter().map(|&it| number("preferred", it));
        Ok(Batches {
            options: Some(BatchOptions {
                rows_max: max,
                delay: Duration::from_micros(number("delay_us", table.delay_us)?),
                preferred: preferred.collect::<Result<_, _>>()?,
                elements_max: metadata.shapes.elements_max,
            }),
            why: match model.doubt {
                None => SHOWN.to_owned(),
                Some(doubt) => format!(
                    "[batch] promises that rows mean nothing to each other, which its graph does \
                     not show ({doubt})"
                ),
            },
            is_promise: model.doubt.is_some(),
        })
    }
}

const SHOWN: &str = "its graph shows that rows mean nothing to each other";

/// Without a table: a model that looks from one row to another would mix what its clients sent, so
/// that only those are batched whose graphs show that they do not.
fn by_itself(metadata: &Metadata, model: Loaded<'_>, rows_max: u64) -> Batches {
    if let Some(why) = why_not_batched(model.signature) {
        return Batches::off(why);
    }
    if let Some(doubt) = model.doubt {
        return Batches::off(format!(
            "its graph does not show that rows mean nothing to each other ({doubt}): if you know \
             that they do not, say so with [batch] in its TOML"
        ));
    }
    if model.on_gpu {
        return Batches::off(
            "on a GPU requests run beside each other: give its TOML a [batch] table to have them \
             run as one",
        );
    }
    if model.engine == "tract" {
        return Batches::off(
            "tract computes a batch no faster than its requests, and prepares for each size of one \
             when it first meets it: give its TOML a [batch] table to have them all the same",
        );
    }
    if metadata.run == RunOn::Lane {
        return Batches::off("run = \"lane\": it runs one request at a time");
    }
    if rows_max < 2 {
        return Batches::off(format!("max_batch = {rows_max}"));
    }
    Batches {
        options: Some(BatchOptions {
            rows_max: rows_max.min(ROWS_DEFAULT),
            delay: Duration::ZERO,
            preferred: Vec::new(),
            elements_max: metadata.shapes.elements_max.min(ELEMENTS_DEFAULT),
        }),
        why: SHOWN.to_owned(),
        is_promise: false,
    }
}

/// A number of the table, which may not be negative.
fn number(key: &str, given: i64) -> Result<u64, String> {
    u64::try_from(given)
        .map_err(|_negative| format!("batch.{key} = {given}; it cannot be negative"))
}

/// How many rows the model may be given at once.
fn rows_max(metadata: &Metadata, model: Loaded<'_>) -> u64 {
    let first = model.signature.inputs.first().and_then(|input| input.shape.first());
    let built = match first {
        Some(Dim::Named(rows)) => model.dims.get(rows).map(|sizes| sizes.max),
        _ => None,
    };
    metadata.shapes.batch_max.min(built.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
