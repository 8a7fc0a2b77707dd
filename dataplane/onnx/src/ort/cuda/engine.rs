//! An instance of a model on a CUDA device.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use ferry_core::{DType, SessionId, Signature, Stage, StageTimes};
use ferry_cuda::{Flight, Priority};
use ferry_engine::{Engine, EngineError, Finished, Job};

use super::context::{Context, failed};
use super::held::{Held, Places};
use super::model::{Completion, CudaModel};
use super::native;
use crate::signature::check_binding;

/// Sessions whose stream is remembered. One more, and all are forgotten, which costs them nothing
/// but a change of stream.
const SESSIONS_MAX: usize = 4096;

/// An instance of a model on a device: some streams, driven by the one thread that calls it.
///
/// Each session keeps to one stream; sessions share streams where there are more of them.
/// Requests of high priority run on streams of high priority.
#[derive(Debug)]
pub struct CudaEngine {
    /// First: they end before what they use.
    flights: Vec<VecDeque<Flight<Held>>>,
    contexts: Vec<Context>,
    model: Arc<CudaModel>,
    by_session: HashMap<(SessionId, Priority), usize>,
    in_flight: usize,
}

impl CudaEngine {
    pub(super) fn new(model: Arc<CudaModel>) -> Result<CudaEngine, EngineError> {
        if let Some(input) = model.signature().inputs.iter().find(|it| it.dtype == DType::Bool) {
            let why = format!("input {input} is boolean, which is not served on a GPU");
            return Err(EngineError::Model(format!("{why}: use device = \"cpu\"")));
        }
        let streams = model.options().streams.max(1);
        let normal = std::iter::repeat_n(Priority::Normal, streams);
        let all = normal.chain(std::iter::repeat_n(Priority::High, streams));
        let contexts = all.map(|priority| Context::new(model.device(), priority));
        let contexts = contexts.collect::<Result<Vec<_>, _>>()?;
        let flights = contexts.iter().map(|_| VecDeque::new()).collect();
        Ok(CudaEngine { flights, contexts, model, by_session: HashMap::new(), in_flight: 0 })
    }

    /// Bytes of device memory that its streams hold beside the weights.
    pub fn streams_bytes(&self) -> usize {
        self.contexts.iter().map(Context::bytes).sum()
    }

    /// The session's stream, or the one with the fewest sessions.
    fn stream_of(&mut self, job: &Job) -> usize {
        let urgent = job.arrival.what.priority > 0;
        let priority = if urgent { Priority::High } else { Priority::Normal };
        let key = (job.arrival.session, priority);
        if let Some(&known) = self.by_session.get(&key) {
            return known;
        }
        let half = self.contexts.len() / 2;
        let range = if urgent { half..self.contexts.len() } else { 0..half };
        let mut sessions = vec![0_usize; self.contexts.len()];
        for &stream in self.by_session.values() {
            sessions[stream] += 1;
        }
        let least = range.min_by_key(|&i| (sessions[i], self.flights[i].len())).unwrap_or(0);
        if self.by_session.len() >= SESSIONS_MAX {
            self.by_session.clear();
        }
        self.by_session.insert(key, least);
        least
    }

    /// Puts a request on a stream.
    #[expect(clippy::result_large_err, reason = "the caller gets its request back")]
    fn start(&mut self, index: usize, job: Job) -> Result<Flight<Held>, (Job, EngineError)> {
        let model = &self.model;
        let context = &mut self.contexts[index];
        let places = match Places::of(model, context, &job) {
            Ok(places) => places,
            Err(error) => return Err((job, error)),
        };
        if let Err(error) = context.record(model, &job.binding, places.addresses()) {
            return Err((job, error));
        }
        let held = Held::new(job, model, context.workspace());
        let Some((runner, graph)) = context.graph(places.addresses()) else {
            let gone = "a graph that was just made is gone".to_owned();
            return Err((held.into_job(), EngineError::Run(gone)));
        };
        let started =
            runner.start(held, |held, plan| native::enqueue(plan, &held.job, &places, Some(graph)));
        started.map_err(|(held, error)| (held.into_job(), EngineError::Run(error.to_string())))
    }

    /// Runs a request of a model that cannot be recorded, and waits for it.
    fn run_plainly(&mut self, index: usize, job: &Job) -> Result<StageTimes, EngineError> {
        let (model, context) = (&self.model, &mut self.contexts[index]);
        let places = Places::of(model, context, job)?;
        let flown = |error: ferry_cuda::FlightError| EngineError::Run(error.to_string());
        let mut times = native::copy_and_wait(&mut context.runner, job, &places, Stage::CopyIn)
            .map_err(flown)?;
        let start = Instant::now();
        context.run_plainly(model, &job.binding, places.addresses())?;
        times.set(Stage::Infer, u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        let out = native::copy_and_wait(&mut context.runner, job, &places, Stage::CopyOut)
            .map_err(flown)?;
        if let Some(ns) = out.of(Stage::CopyOut) {
            times.set(Stage::CopyOut, ns);
        }
        Ok(times)
    }

    fn land(&mut self, index: usize, flight: Flight<Held>) -> Finished {
        let (held, times) = flight.finish(&mut self.contexts[index].runner);
        Finished { job: held.into_job(), outcome: times.map_err(failed) }
    }
}

impl Engine for CudaEngine {
    fn signature(&self) -> &Signature {
        self.model.signature()
    }

    fn depth(&self) -> usize {
        self.contexts.len()
    }

    fn submit(&mut self, job: Job) -> Option<Finished> {
        if let Err(error) = check_binding(self.model.signature(), &job.binding) {
            return Some(Finished { job, outcome: Err(error) });
        }
        let index = self.stream_of(&job);
        if !self.model.has_graphs() {
            let outcome = self.run_plainly(index, &job);
            return Some(Finished { job, outcome });
        }
        match self.start(index, job) {
            Err((job, error)) => Some(Finished { job, outcome: Err(error) }),
            Ok(flight) if self.model.options().completion == Completion::Wait => {
                while matches!(flight.is_done(), Ok(false)) {
                    std::hint::spin_loop();
                }
                Some(self.land(index, flight))
            }
            Ok(flight) => {
                self.flights[index].push_back(flight);
                self.in_flight += 1;
                None
            }
        }
    }

    fn poll(&mut self, finished: &mut Vec<Finished>) {
        if self.in_flight == 0 {
            return;
        }
        for index in 0..self.flights.len() {
            // A stream ends its work in order. An error ends it too.
            while self.flights[index].front().is_some_and(|it| !matches!(it.is_done(), Ok(false))) {
                let Some(flight) = self.flights[index].pop_front() else { break };
                self.in_flight -= 1;
                let landed = self.land(index, flight);
                finished.push(landed);
            }
        }
    }
}
