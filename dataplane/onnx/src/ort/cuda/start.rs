//! One request: from its places to a flight on its stream, or to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_cuda::Flight;
use ferry_engine::{EngineError, Finished, Job};

use super::context::{Context, RecordError};
use super::error::flown;
use super::held::{Held, Places};
use super::model::CudaModel;
use super::plain::run_to_end;
use super::steps;

/// What is to be started.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) job: Job,
    pub(super) places: Places,
    /// Since when it waits for a stream; `None` where it does not.
    pub(super) since: Option<Instant>,
}

/// A request on its stream; or one that is over already, most often because it failed.
pub(super) type Launched = Result<Flight<Held>, Box<Finished>>;

impl Start {
    /// Whether [`launch`] may take long, and is not for the thread that drives the streams.
    pub(super) fn is_slow(&self, model: &CudaModel, context: &Context) -> bool {
        !model.records(&self.job.binding)
            || self.places.copies_wait()
            || !context.has(&self.job.binding, self.places.addresses())
    }
}

/// Puts a request on its stream. Records the model for these addresses if it was not yet; one that
/// cannot be recorded runs to its end.
pub(super) fn launch(model: &Arc<CudaModel>, context: &mut Context, start: Start) -> Launched {
    if !model.records(&start.job.binding) {
        return Err(without_graph(model, context, start));
    }
    match context.record(model, &start.job.binding, start.places.addresses()) {
        Ok(()) => {}
        Err(RecordError::Unrecordable(why)) => {
            model.give_up_graphs(&why);
            return Err(without_graph(model, context, start));
        }
        Err(RecordError::TooManyShapes) => return Err(without_graph(model, context, start)),
        Err(RecordError::Engine(error)) => return Err(over(start.job, error)),
    }
    let Start { job, places, since } = start;
    let waited = since.map_or(Duration::ZERO, |since| since.elapsed());
    let filled = match places.fill(&job) {
        Ok(filled) => filled,
        Err(error) => return Err(over(job, error.into())),
    };
    let shapes = Arc::clone(&job.binding);
    let held = Held::new(job, &places, model, context, waited, filled);
    let kernels = model.kernels().map(|kernels| &**kernels);
    let Some((runner, recorded)) = context.graph(&shapes, places.addresses()) else {
        let error = EngineError::Run("a graph that was just made is gone".to_owned());
        return Err(over(held.into_job(), error));
    };
    let poison = model.options().poison;
    let parts = steps::Parts { places: &places, kernels, recorded, poison };
    let started = runner.start(held, |held, plan| steps::enqueue(plan, &held.job, &parts));
    started.map_err(|(held, error)| over(held.into_job(), flown(error)))
}

fn without_graph(model: &Arc<CudaModel>, context: &mut Context, start: Start) -> Box<Finished> {
    if start.job.members.is_empty() {
        return run_to_end(model, context, start);
    }
    // They come one by one then, and batches are put together by the host from now on.
    over(start.job, EngineError::Run("a batch of a model that has no graphs any more".to_owned()))
}

fn over(job: Job, error: EngineError) -> Box<Finished> {
    Box::new(Finished { job, outcome: Err(error) })
}
