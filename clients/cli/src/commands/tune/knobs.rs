//! Which settings of a model are tried, and with which values.

use std::iter::successors;

use ferry_bench::tune::{Knob, Space};
use ferry_client::v1;
use ferry_core::{Dim, TensorSpec};

use super::config::{BATCH_MAX, Config, DELAY};
use crate::args::TuneArgs;
use crate::failure::Failure;
use crate::shapes;

/// What the server takes where the TOML says nothing, as docs/MODELS.md has it.
const ROWS_DEFAULT: u64 = 32;
const MAX_BATCH_DEFAULT: u64 = 256;
const STREAMS_DEFAULT: u64 = 16;

/// Most rows of a batch that are tried: on CPUs and GPUs alike nothing was gained above.
const ROWS_MAX: u64 = 128;

/// Most streams of a GPU that are tried: twice as many as are used where nobody says otherwise.
const STREAMS_MAX: u64 = 32;

/// How long a batch waits, in microseconds. More than half of the bound is never tried.
const DELAYS_US: [u64; 7] = [0, 200, 500, 1_000, 2_000, 5_000, 10_000];

/// 1, 2, 4, … and `max`.
fn doubled(max: u64) -> impl Iterator<Item = u64> {
    successors(Some(1), |it: &u64| it.checked_mul(2)).take_while(move |it| *it < max).chain([max])
}

/// The knobs that mean something to the model.
pub(super) fn space(
    model: &v1::Model,
    config: &Config,
    cores: u64,
    args: &TuneArgs,
) -> Result<Space, Failure> {
    let mut knobs = Vec::new();
    if model.device.starts_with("cuda") {
        let present = config.number("gpu.streams").unwrap_or(STREAMS_DEFAULT);
        knobs.push(Knob::new("gpu.streams", doubled(STREAMS_MAX), present));
    } else {
        knobs.push(Knob::new("instances", doubled(cores), model.instances.into()));
        // tract has one thread, whatever is said.
        if model.engine != "tract" {
            knobs.push(Knob::new("threads", doubled(cores), model.threads.into()));
        }
    }
    if batches(model, config, args)? {
        let rows_max = config.number("max_batch").unwrap_or(MAX_BATCH_DEFAULT);
        let default = if config.has_batches() { rows_max.min(ROWS_DEFAULT) } else { 1 };
        let said = config.number(BATCH_MAX).filter(|_| config.has_batches());
        let present = said.unwrap_or(default);
        knobs.push(Knob::new(BATCH_MAX, doubled(rows_max.min(ROWS_MAX)), present));
        let bound_us = args.slo_ms * 500.0;
        let delays = DELAYS_US.into_iter().filter(|&it| it as f64 <= bound_us);
        let present = config.number(DELAY).unwrap_or(0);
        knobs.push(Knob::new(DELAY, delays, present).beside(BATCH_MAX));
    }
    Ok(Space::new(knobs))
}

/// Whether batches are tried: where rows may be computed together, as only its operator knows.
fn batches(model: &v1::Model, config: &Config, args: &TuneArgs) -> Result<bool, Failure> {
    if !config.has_batches() && !args.try_batches {
        return Ok(false);
    }
    let signature = shapes::signature(model)?;
    let rows = signature.inputs.first().and_then(|input| input.shape.first().cloned());
    let begins = |spec: &TensorSpec| spec.shape.first() == rows.as_ref();
    let is_batched = matches!(rows, Some(Dim::Named(_)))
        && signature.inputs.iter().chain(&signature.outputs).all(begins);
    if args.try_batches && !is_batched {
        let text = format!(
            "--try-batches: not all tensors of {} begin with one open dimension",
            model.name
        );
        return Err(Failure::Usage(text));
    }
    Ok(is_batched)
}
