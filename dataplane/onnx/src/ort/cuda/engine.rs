//! An instance of a model on a CUDA device.

use std::sync::Arc;
use std::time::Instant;

use ferry_core::{BoundSignature, Signature, error_text};
use ferry_cuda::{CudaPlacer, Flight, Priority};
use ferry_engine::{Engine, EngineError, Finished, Job, Picture};
use ferry_memory::Placer;

use super::context::{Context, RecordError};
use super::errands::{Back, Errand, Errands};
use super::error::failed;
use super::held::{Held, Places};
use super::model::{Completion, CudaModel};
use super::pictures::Pictures;
use super::schedule::Schedule;
use super::start::{Launched, Start, launch};

/// Streams of high priority, at most: urgent requests are few.
const STREAMS_HIGH_MAX: usize = 4;

/// Requests that an instance takes beyond those that run: they wait here for their session's turn,
/// so that the pool's queue, which knows no sessions, does not decide whose turn it is.
const WAITING_MAX: usize = 64;

/// An instance of a model on a device: some streams, driven by the one thread that calls it.
#[derive(Debug)]
pub struct CudaEngine {
    seats: Vec<Seat>,
    schedule: Schedule<(Job, Instant)>,
    /// Who starts what takes long; `None` where requests run to completion.
    errands: Option<Errands>,
    model: Arc<CudaModel>,
    /// Requests that never took off: they could not be started, or ran to their end at once.
    ended: Vec<Finished>,
    /// Set where raw pictures come to this engine.
    pictures: Option<Pictures>,
    /// Graphs of batches are there.
    is_ready: bool,
}

/// Where a stream is.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one per stream; boxed, one per request")]
enum Seat {
    /// Here, with nothing on it.
    Free(Box<Context>),
    /// Here, with a request on it; dropped in this order, as a flight ends before what it uses.
    Flying(Flight<Held>, Box<Context>),
    /// With an errand.
    Away,
}

impl Seat {
    /// Whether its request is over: done, or failed.
    fn is_over(&self) -> bool {
        matches!(self, Seat::Flying(flight, _) if !matches!(flight.is_done(), Ok(false)))
    }

    fn context(&self) -> Option<&Context> {
        match self {
            Seat::Free(context) | Seat::Flying(_, context) => Some(context),
            Seat::Away => None,
        }
    }
}

impl CudaEngine {
    pub(super) fn new(model: Arc<CudaModel>) -> Result<CudaEngine, EngineError> {
        let streams = model.options().streams.max(1);
        let high = streams.min(STREAMS_HIGH_MAX);
        let normal = std::iter::repeat_n(Priority::Normal, streams);
        let all = normal.chain(std::iter::repeat_n(Priority::High, high));
        let seats = all.map(|priority| {
            let context = Context::new(model.device(), priority)?;
            Ok::<_, EngineError>(Seat::Free(Box::new(context)))
        });
        let seats = seats.collect::<Result<Vec<_>, _>>()?;
        let runs_on = model.options().completion == Completion::Poll;
        let errands = runs_on.then(|| Errands::new(&model, seats.len())).transpose()?;
        Ok(CudaEngine {
            seats,
            schedule: Schedule::new(streams, high, model.options().beside_urgent),
            errands,
            model,
            ended: Vec::new(),
            pictures: None,
            is_ready: false,
        })
    }

    /// Bytes of device memory that its streams hold beside the weights; those on which a request
    /// is being started by another thread are not counted.
    pub fn streams_bytes(&self) -> usize {
        self.seats.iter().filter_map(Seat::context).map(Context::bytes).sum()
    }

    /// Starts what streams are free for.
    fn advance(&mut self) {
        while let Some((stream, (job, since))) = self.schedule.next(Instant::now()) {
            if let Some(over) = self.start(stream, job, Some(since)) {
                self.end(stream, over);
            }
        }
    }

    /// A request that is over leaves its stream to the next.
    fn end(&mut self, stream: usize, over: Finished) {
        self.schedule.done(stream, Instant::now());
        self.ended.push(over);
    }

    /// The stream, if nothing is on it; it is away until its seat is taken again.
    fn leave(&mut self, index: usize) -> Option<Box<Context>> {
        match std::mem::replace(&mut self.seats[index], Seat::Away) {
            Seat::Free(context) => Some(context),
            other => {
                self.seats[index] = other;
                None
            }
        }
    }

    /// Records graphs of batches of these shapes, whose rows rise, on each stream of normal priority,
    /// and those of one row on the others; of how many shapes, from the first on.
    fn get_ready(&mut self, batches: &[Arc<BoundSignature>]) -> usize {
        let model = Arc::clone(&self.model);
        let mut ready = batches.len();
        model.sessions().expect(ready);
        while let Some(largest) = ready.checked_sub(1).and_then(|last| batches.get(last)) {
            let made = self.contexts().try_for_each(|context| match context.priority() {
                Priority::Normal => context.make_ready(largest),
                Priority::High => context.make_ready(&batches[0]),
            });
            let Err(error) = made else { break };
            self.is_not_ready(largest, &error_text(&error));
            self.contexts().for_each(Context::forget_ready);
            ready -= 1;
        }
        // All streams of a size before the next: the library chooses algorithms once for each size
        // that follows another.
        for (done, shapes) in batches.iter().enumerate().take(ready) {
            let Err(error) = self.record_ready(shapes, done == 0) else { continue };
            let why = match error {
                RecordError::Unrecordable(why) => {
                    model.give_up_graphs(&why);
                    return 0;
                }
                RecordError::TooManyShapes => "as many are recorded as may be".to_owned(),
                RecordError::Engine(error) => error_text(&error),
            };
            self.is_not_ready(shapes, &why);
            return done;
        }
        ready
    }

    /// Records a batch on each stream of normal priority, or on all.
    fn record_ready(
        &mut self,
        shapes: &Arc<BoundSignature>,
        on_all: bool,
    ) -> Result<(), RecordError> {
        let model = Arc::clone(&self.model);
        let mut streams = self.contexts().filter(|it| on_all || it.priority() == Priority::Normal);
        streams.try_for_each(|it| it.record_ready(&model, shapes))
    }

    fn contexts(&mut self) -> impl Iterator<Item = &mut Context> {
        self.seats.iter_mut().filter_map(|seat| match seat {
            Seat::Free(context) => Some(&mut **context),
            Seat::Flying(..) | Seat::Away => None,
        })
    }

    fn is_not_ready(&self, shapes: &BoundSignature, why: &str) {
        let rows = shapes.inputs.first().and_then(|input| input.shape.first());
        let (model, rows) = (self.model.path().display(), rows.copied().unwrap_or(0));
        tracing::warn!(%model, rows, why, "no batches of this size and above");
    }

    /// Puts a request on a stream, or has it put there. What is returned is over already.
    fn start(&mut self, index: usize, job: Job, since: Option<Instant>) -> Option<Finished> {
        let Some(mut context) = self.leave(index) else {
            let error = EngineError::Run("a stream that is in use".to_owned());
            return Some(Finished { job, outcome: Err(error) });
        };
        // This one runs already, for the schedule.
        let (model, others) = (&self.model, self.schedule.running().saturating_sub(1));
        let places = Places::of(model, &mut context, self.pictures.as_mut(), &job, others);
        let places = match places {
            Ok(places) => places,
            Err(error) => {
                self.seats[index] = Seat::Free(context);
                return Some(Finished { job, outcome: Err(error) });
            }
        };
        let mut start = Start { job, places, since };
        if let Some(errands) = &self.errands
            && start.is_slow(model, &context)
        {
            match errands.send(Errand { stream: index, start, context }) {
                Ok(()) => return None,
                // No thread takes it: this one does.
                Err(errand) => (start, context) = (errand.start, errand.context),
            }
        }
        let launched = launch(model, &mut context, start);
        self.seat(index, context, launched)
    }

    /// Takes back a stream on which a request was started; what is returned is over already.
    fn seat(
        &mut self,
        index: usize,
        context: Box<Context>,
        launched: Launched,
    ) -> Option<Finished> {
        let (seat, over) = match launched {
            Ok(flight) => (Seat::Flying(flight, context), None),
            Err(over) => (Seat::Free(context), Some(*over)),
        };
        self.seats[index] = seat;
        over
    }

    /// Takes back the streams whose requests were started elsewhere.
    fn welcome(&mut self) {
        while let Some(back) = self.errands.as_ref().and_then(Errands::take) {
            let Back { stream, outcome, context } = back;
            // As if it had panicked here: the pool drops an engine that does.
            let launched = outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            if let Some(over) = self.seat(stream, context, launched) {
                self.end(stream, over);
            }
        }
    }

    /// The request of a stream, if it is over.
    fn land(&mut self, index: usize) -> Option<Finished> {
        if !self.seats[index].is_over() {
            return None;
        }
        let Seat::Flying(flight, mut context) =
            std::mem::replace(&mut self.seats[index], Seat::Away)
        else {
            return None;
        };
        let (held, times) = flight.finish(&mut context.runner);
        self.seats[index] = Seat::Free(context);
        Some(match times {
            Ok(times) => {
                let (job, times) = held.land(times);
                Finished { job, outcome: times.map_err(EngineError::from) }
            }
            Err(error) => Finished { job: held.into_job(), outcome: Err(failed(error)) },
        })
    }
}

impl Engine for CudaEngine {
    fn signature(&self) -> &Signature {
        self.model.signature()
    }

    fn depth(&self) -> usize {
        match self.model.options().completion {
            Completion::Wait => 1,
            Completion::Poll => self.seats.len() + WAITING_MAX,
        }
    }

    fn batches_at_once(&self) -> usize {
        match self.model.options().completion {
            Completion::Wait => 1,
            Completion::Poll => self.model.options().streams.max(1),
        }
    }

    fn ready_for(&mut self, batches: &[Arc<BoundSignature>]) -> Option<usize> {
        // At every change of shape the library would choose its algorithms anew: only graphs have
        // them all at hand.
        let ready = if self.model.has_graphs() { self.get_ready(batches) } else { 0 };
        self.is_ready = ready > 0;
        Some(ready)
    }

    fn gathers(&self) -> bool {
        self.is_ready && self.model.has_graphs()
    }

    fn prepares(&mut self, picture: &Picture) -> bool {
        let signature = self.model.signature();
        let kernels = self.model.kernels();
        self.pictures = kernels.and_then(|_| Pictures::new(picture, signature).ok().flatten());
        self.pictures.is_some()
    }

    fn placer(&self) -> Option<Arc<dyn Placer>> {
        Some(Arc::new(CudaPlacer::registered(self.model.device())))
    }

    fn submit(&mut self, job: Job) -> Option<Finished> {
        let urgent = job.arrival.what.priority > 0;
        let (high, priority) = match urgent {
            true => (self.seats.len() - 1, Priority::High),
            false => (0, Priority::Normal),
        };
        if self.model.options().completion == Completion::Wait {
            let over = self.start(high, job, None);
            if over.is_some() {
                return over;
            }
            while matches!(self.seats[high], Seat::Flying(..)) {
                if let Some(landed) = self.land(high) {
                    return Some(landed);
                }
                std::hint::spin_loop();
            }
            return None;
        }
        self.schedule.push(job.arrival.session, priority, (job, Instant::now()));
        self.advance();
        None
    }

    fn poll(&mut self, finished: &mut Vec<Finished>) {
        finished.append(&mut self.ended);
        if self.schedule.is_idle() {
            return;
        }
        self.welcome();
        for stream in 0..self.seats.len() {
            if let Some(landed) = self.land(stream) {
                self.schedule.done(stream, Instant::now());
                finished.push(landed);
            }
        }
        self.advance();
        finished.append(&mut self.ended);
    }
}
