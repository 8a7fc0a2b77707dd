//! Requests without a graph: each runs to its end on the thread that starts it.
//!
//! So do all requests of a model of which a graph would not repeat everything, and those of which
//! an output is open. The library then finds memory for the outputs from the first open one on, as
//! their places in the reply are known no earlier, and after the run each output is asked where it
//! is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{Stage, StageTimes};
use ferry_engine::{EngineError, Finished, Job};

use super::context::{Context, Needs};
use super::error::flown;
use super::held::{Places, Way, add, long, no_bounce};
use super::model::CudaModel;
use super::start::Start;
use super::steps::{self, Half};
use crate::ort::native::given::Left;

pub(super) fn run_to_end(
    model: &Arc<CudaModel>,
    context: &mut Context,
    mut start: Start,
) -> Box<Finished> {
    let outcome = run(model, context, &mut start);
    Box::new(Finished { job: start.job, outcome })
}

fn run(
    model: &CudaModel,
    context: &mut Context,
    start: &mut Start,
) -> Result<StageTimes, EngineError> {
    let Start { job, places, since } = start;
    let waited = since.map_or(Duration::ZERO, |since| since.elapsed());
    let kernels = model.kernels().map(|kernels| &**kernels);
    let filled = places.fill(job)?;
    let half = Half::In { poison: model.options().poison };
    let mut times =
        steps::copy_and_wait(&mut context.runner, job, places, kernels, half).map_err(flown)?;
    add(&mut times, Stage::Queue, Some(waited));
    add(&mut times, Stage::CopyIn, filled);
    let begun = Instant::now();
    let left = compute(model, context, job, places)?;
    add(&mut times, Stage::Infer, Some(begun.elapsed()));
    let is_in_place = left.is_empty();
    let (out, drained) = if is_in_place {
        let half = Half::Out;
        let out =
            steps::copy_and_wait(&mut context.runner, job, places, kernels, half).map_err(flown)?;
        (out, places.drain(job)?)
    } else {
        land(context, job, places, left)?
    };
    for stage in [Stage::CopyOut, Stage::Postprocess] {
        times.put(stage, out.of(stage));
    }
    add(&mut times, Stage::CopyOut, drained);
    times.set_staged(places.staged);
    Ok(times)
}

/// Runs the model: a second time if it does not keep to the shapes that it declares, and nobody
/// knew.
fn compute(
    model: &CudaModel,
    context: &Context,
    job: &Job,
    places: &mut Places,
) -> Result<Left, EngineError> {
    let ran = context.run_plainly(model, &job.binding, places.addresses());
    let bound: Vec<bool> = places.outputs(job).map(|place| place.is_some()).collect();
    let is_bound = |index: usize| bound.get(index) == Some(&true);
    if !model.declarations().learn(ran.as_ref(), &job.binding, is_bound) {
        return ran;
    }
    drop(ran);
    places.forget_outputs(job);
    context.run_plainly(model, &job.binding, places.addresses())
}

/// Brings the outputs to their places in the slot, which are known now; the times of that, and how
/// long the host copied.
fn land(
    context: &mut Context,
    job: &mut Job,
    places: &mut Places,
    left: Left,
) -> Result<(StageTimes, Option<Duration>), EngineError> {
    left.place(job)?;
    let reply_bytes =
        job.placed.as_ref().map_or(job.binding.reply_bytes(), |placed| placed.bytes());
    if places.reply == Way::Bounce {
        let needs = Needs { bounce_out: long(reply_bytes).max(1), ..Needs::default() };
        places.staging = context.staging(&job.binding, needs)?;
    }
    let times = steps::gather_and_wait(&mut context.runner, job, places, left).map_err(flown)?;
    let Way::Bounce = places.reply else { return Ok((times, None)) };
    let start = Instant::now();
    let bounce = places.staging.bounce_out().ok_or_else(no_bounce)?;
    for index in 0..job.binding.outputs.len() {
        let at = job.output_offset(index)?;
        let mut to = job.output_mut(index)?;
        let bytes = to.bytes();
        to.copy_from(&bounce.part(at, bytes)?, bytes)?;
    }
    Ok((times, Some(start.elapsed())))
}
