//! An instance of a model on a CUDA device.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{DType, Signature, Stage, StageTimes};
use ferry_cuda::{Flight, Priority};
use ferry_engine::{Engine, EngineError, Finished, Job, Picture, check_binding};

use super::context::{Context, failed};
use super::held::{Held, Places};
use super::model::{Completion, CudaModel};
use super::native;
use super::pictures::Pictures;
use super::schedule::Schedule;

/// Streams of high priority, at most: urgent requests are few.
const STREAMS_HIGH_MAX: usize = 4;

/// Requests that an instance takes beyond those that run: they wait here for their session's turn,
/// so that the pool's queue, which knows no sessions, does not decide whose turn it is.
const WAITING_MAX: usize = 64;

/// An instance of a model on a device: some streams, driven by the one thread that calls it.
#[derive(Debug)]
pub struct CudaEngine {
    /// First: they end before what they use. One for each stream.
    flights: Vec<Option<Flight<Held>>>,
    schedule: Schedule<(Job, Instant)>,
    contexts: Vec<Context>,
    model: Arc<CudaModel>,
    /// Requests that could not be started.
    failed: Vec<Finished>,
    /// Set where raw pictures come to this engine.
    pictures: Option<Pictures>,
}

impl CudaEngine {
    pub(super) fn new(model: Arc<CudaModel>) -> Result<CudaEngine, EngineError> {
        if let Some(input) = model.signature().inputs.iter().find(|it| it.dtype == DType::Bool) {
            let why = format!("input {input} is boolean, which is not served on a GPU");
            return Err(EngineError::Model(format!("{why}: use device = \"cpu\"")));
        }
        let streams = model.options().streams.max(1);
        let high = streams.min(STREAMS_HIGH_MAX);
        let normal = std::iter::repeat_n(Priority::Normal, streams);
        let all = normal.chain(std::iter::repeat_n(Priority::High, high));
        let contexts = all.map(|priority| Context::new(model.device(), priority));
        let contexts = contexts.collect::<Result<Vec<_>, _>>()?;
        Ok(CudaEngine {
            flights: contexts.iter().map(|_| None).collect(),
            schedule: Schedule::new(streams, high, model.options().beside_urgent),
            contexts,
            model,
            failed: Vec::new(),
            pictures: None,
        })
    }

    /// Bytes of device memory that its streams hold beside the weights.
    pub fn streams_bytes(&self) -> usize {
        self.contexts.iter().map(Context::bytes).sum()
    }

    /// Starts what streams are free for.
    fn advance(&mut self) {
        while let Some((stream, (job, since))) = self.schedule.next(Instant::now()) {
            let waited = since.elapsed();
            match self.start(stream, job, waited) {
                Ok(flight) => self.flights[stream] = Some(flight),
                Err((job, error)) => {
                    self.schedule.done(stream, Instant::now());
                    self.failed.push(Finished { job, outcome: Err(error) });
                }
            }
        }
    }

    /// Puts a request on a stream.
    #[expect(clippy::result_large_err, reason = "the caller gets its request back")]
    fn start(
        &mut self,
        index: usize,
        job: Job,
        waited: Duration,
    ) -> Result<Flight<Held>, (Job, EngineError)> {
        // This one runs already, for the schedule.
        let (model, others) = (&self.model, self.schedule.running().saturating_sub(1));
        let context = &mut self.contexts[index];
        let places = match Places::of(model, context, self.pictures.as_mut(), &job, others) {
            Ok(places) => places,
            Err(error) => return Err((job, error)),
        };
        if let Err(error) = context.record(model, &job.binding, places.addresses()) {
            return Err((job, error));
        }
        let held = Held::new(job, &places, model, context, waited);
        let kernels = model.kernels().map(|kernels| &**kernels);
        let Some((runner, graph)) = context.graph(places.addresses()) else {
            let gone = "a graph that was just made is gone".to_owned();
            return Err((held.into_job(), EngineError::Run(gone)));
        };
        let steps = native::Steps { places: &places, kernels, graph };
        let started = runner.start(held, |held, plan| native::enqueue(plan, &held.job, &steps));
        started.map_err(|(held, error)| (held.into_job(), EngineError::Run(error.to_string())))
    }

    /// Runs a request of a model that cannot be recorded, and waits for it.
    fn run_plainly(&mut self, index: usize, job: &Job) -> Result<StageTimes, EngineError> {
        let (model, context) = (&self.model, &mut self.contexts[index]);
        let places = Places::of(model, context, self.pictures.as_mut(), job, 0)?;
        let kernels = model.kernels().map(|kernels| &**kernels);
        let flown = |error: ferry_cuda::FlightError| EngineError::Run(error.to_string());
        let way = native::Half::In;
        let mut times = native::copy_and_wait(&mut context.runner, job, &places, kernels, way)
            .map_err(flown)?;
        let start = Instant::now();
        context.run_plainly(model, &job.binding, places.addresses())?;
        times.set(Stage::Infer, u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        let way = native::Half::Out;
        let out = native::copy_and_wait(&mut context.runner, job, &places, kernels, way)
            .map_err(flown)?;
        for stage in [Stage::CopyOut, Stage::Postprocess] {
            times.put(stage, out.of(stage));
        }
        times.set_staged(places.staged);
        Ok(times)
    }

    fn land(&mut self, index: usize, flight: Flight<Held>) -> Finished {
        let (held, times) = flight.finish(&mut self.contexts[index].runner);
        match times {
            Ok(times) => {
                let (job, times) = held.land(times);
                Finished { job, outcome: Ok(times) }
            }
            Err(error) => Finished { job: held.into_job(), outcome: Err(failed(error)) },
        }
    }
}

impl Engine for CudaEngine {
    fn signature(&self) -> &Signature {
        self.model.signature()
    }

    fn depth(&self) -> usize {
        match self.model.options().completion {
            Completion::Wait => 1,
            Completion::Poll => self.contexts.len() + WAITING_MAX,
        }
    }

    fn prepares(&mut self, picture: &Picture) -> bool {
        let signature = self.model.signature();
        let kernels = self.model.kernels();
        self.pictures = kernels.and_then(|_| Pictures::new(picture, signature).ok().flatten());
        self.pictures.is_some()
    }

    fn submit(&mut self, job: Job) -> Option<Finished> {
        if let Err(error) = check_binding(self.model.signature(), &job.binding) {
            return Some(Finished { job, outcome: Err(error) });
        }
        let urgent = job.arrival.what.priority > 0;
        let (high, priority) = match urgent {
            true => (self.contexts.len() - 1, Priority::High),
            false => (0, Priority::Normal),
        };
        if !self.model.has_graphs() {
            let outcome = self.run_plainly(high, &job);
            return Some(Finished { job, outcome });
        }
        if self.model.options().completion == Completion::Wait {
            return Some(match self.start(high, job, Duration::ZERO) {
                Err((job, error)) => Finished { job, outcome: Err(error) },
                Ok(flight) => {
                    while matches!(flight.is_done(), Ok(false)) {
                        std::hint::spin_loop();
                    }
                    self.land(high, flight)
                }
            });
        }
        self.schedule.push(job.arrival.session, priority, (job, Instant::now()));
        self.advance();
        None
    }

    fn poll(&mut self, finished: &mut Vec<Finished>) {
        finished.append(&mut self.failed);
        if self.schedule.is_idle() {
            return;
        }
        for stream in 0..self.flights.len() {
            // An error ends it too.
            let is_over = |it: &Flight<Held>| !matches!(it.is_done(), Ok(false));
            if self.flights[stream].as_ref().is_some_and(is_over)
                && let Some(flight) = self.flights[stream].take()
            {
                let landed = self.land(stream, flight);
                self.schedule.done(stream, Instant::now());
                finished.push(landed);
            }
        }
        self.advance();
        finished.append(&mut self.failed);
    }
}
