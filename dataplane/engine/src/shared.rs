//! What a pool and its workers share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ferry_core::{RequestKind, Signature, StageTimes, Status};
use ferry_memory::{Arrival, Departure};

use crate::batch::Batching;
use crate::instance::Instance;
use crate::options::{PoolOptions, Rebuild, RunOn};
use crate::prepare::Unfit;
use crate::queue::{Gate, GivenBack, Hopeless, Outlook, Queue, Refused, Work};
use crate::runs::Watch;

/// Most bytes of raw pixels that are resized on a lane. More takes longer than waking a worker, and
/// so does decoding any JPEG file: a few of its bytes can order millions of pixels, and meanwhile
/// the lane would serve nobody.
const RAW_ON_LANE_BYTES_MAX: usize = 256 << 10;

/// What the pool and its workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) model: String,
    pub(crate) signature: Signature,
    pub(crate) options: PoolOptions,
    pub(crate) queue: Queue,
    /// `None` where each request runs alone.
    pub(crate) batching: Option<Batching>,
    pub(crate) instances: Vec<Instance>,
    pub(crate) refused: AtomicU64,
    /// Of these, those that were too late.
    pub(crate) late: AtomicU64,
    /// Of these, those that nobody waited for any more.
    pub(crate) cancelled: AtomicU64,
    /// Requests that failed before they reached an instance.
    pub(crate) failed: AtomicU64,
    pub(crate) watch: Watch,
    abandoned: AtomicBool,
    working: Mutex<usize>,
    signed_off: Condvar,
}

impl Shared {
    pub(crate) fn new(
        model: &str,
        signature: Signature,
        instances: Vec<Instance>,
        options: PoolOptions,
    ) -> Shared {
        let workers = instances.len();
        // They are instances of one model: what the first wants all want.
        let ways = instances.first().map(|instance| instance.lock().ways()).unwrap_or_default();
        let batching = options.batch.clone().map(|options| Batching::new(options, ways));
        Shared {
            model: model.to_owned(),
            signature,
            queue: Queue::new(options.queue, options.levels, options.wait, workers),
            batching,
            instances,
            options,
            refused: AtomicU64::new(0),
            late: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            watch: Watch::default(),
            abandoned: AtomicBool::new(false),
            working: Mutex::new(workers),
            signed_off: Condvar::new(),
        }
    }

    /// From now on workers leave what they have.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }

    pub(crate) fn rebuild(&self) -> Option<&Rebuild> {
        self.options.rebuild.as_ref()
    }

    /// Whether a request may run on the lane that brought it, should an instance be free.
    pub(crate) fn runs_here(&self, arrival: &Arrival) -> bool {
        let suits = match arrival.what.kind {
            RequestKind::Ping | RequestKind::Tensor => true,
            RequestKind::Raw { .. } => arrival.payload_bytes <= RAW_ON_LANE_BYTES_MAX,
            RequestKind::Jpeg => false,
        };
        // What waits already comes first, or a busy lane would overtake it for ever.
        let idle = self.queue.is_open() && self.queue.len() == 0;
        suits && idle && self.options.run == RunOn::Lane
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    /// A request that was taken out of the queue, unless it has waited in vain: it is answered then.
    pub(crate) fn still_wanted(&self, work: Work, now: Instant) -> Option<Work> {
        let Some(why) = work.in_vain(now) else { return Some(work) };
        self.give_back(vec![(work, why)]);
        None
    }

    /// Answers requests that waited and will not run.
    pub(crate) fn give_back(&self, given_back: GivenBack) {
        for (work, why) in given_back {
            let reply_to = Arc::clone(&work.reply_to);
            reply_to.depart(self.refuse(work, why));
        }
    }

    /// How fast the queue is emptied at best.
    pub(crate) fn outlook(&self) -> Outlook {
        let runs = self.instances.iter().map(|it| it.counters.run_ns.load(Ordering::Relaxed));
        let batching = self.batching.as_ref().filter(|batching| !batching.is_off());
        let rows_max = batching.map_or(1, |batching| batching.options.rows_max);
        Outlook {
            // One that has not run yet may be as fast as any.
            run: Duration::from_nanos(runs.filter(|&ns| ns > 0).min().unwrap_or(0)),
            parallel: self.instances.iter().map(|it| it.depth).fold(0, usize::saturating_add),
            of_run_max: usize::try_from(rows_max).unwrap_or(usize::MAX),
        }
    }

    /// Batches fail whose requests do not: from now on each runs alone.
    pub(crate) fn stop_batches(&self, batching: &Batching) {
        if batching.turn_off() {
            tracing::error!(
                model = %self.model,
                "batches failed or had outputs of other shapes, and their requests alone did not: \
                 no more are made. Set enabled = false in [batch] of the model's TOML"
            );
        }
    }

    /// Answers what nobody will serve any more.
    pub(crate) fn refuse_queued(&self, works: Vec<Work>) {
        let why = Refused::Closed(self.queue.gate());
        self.give_back(works.into_iter().map(|work| (work, why)).collect());
    }

    /// Interrupts what runs and can be, and answers what waits; whether anything can be.
    pub(crate) fn cut(&self) -> bool {
        self.queue.drain();
        self.refuse_queued(self.queue.empty());
        self.instances.iter().for_each(|instance| instance.runs.close());
        self.instances.iter().any(|instance| instance.runs.is_watched())
    }

    /// A worker ends.
    pub(crate) fn sign_off(&self) {
        let mut working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        *working = working.saturating_sub(1);
        drop(working);
        self.signed_off.notify_all();
    }

    /// Signs off workers whose threads could not be started.
    pub(crate) fn never_started(&self, workers: usize) {
        for _ in 0..workers {
            self.sign_off();
        }
    }

    /// Waits for all workers to end; how many did not.
    pub(crate) fn wait_for_workers(&self, at_most: Duration) -> usize {
        let start = Instant::now();
        let mut working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        while *working > 0 {
            let left = at_most.saturating_sub(start.elapsed());
            if left.is_zero() {
                break;
            }
            let woken = self.signed_off.wait_timeout(working, left);
            working = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        *working
    }

    /// Answers a request that does not fit its session.
    pub(crate) fn unfit(&self, arrival: Arrival, unfit: &Unfit) -> Departure {
        self.failed.fetch_add(1, Ordering::Relaxed);
        arrival.fail(unfit.status, &unfit.text, StageTimes::NONE)
    }

    /// Answers a request that does not run.
    pub(crate) fn refuse(&self, work: Work, why: Refused) -> Departure {
        self.refused.fetch_add(1, Ordering::Relaxed);
        match why {
            Refused::Late(_) => self.late.fetch_add(1, Ordering::Relaxed),
            Refused::Gone | Refused::SessionOver => self.cancelled.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
        let (status, text) = self.why_refused(why);
        work.arrival.fail(status, &text, StageTimes::NONE)
    }

    fn why_refused(&self, why: Refused) -> (Status, String) {
        let model = &self.model;
        match why {
            Refused::Full { level } => (Status::Overloaded, self.is_full(level)),
            Refused::Displaced { level } => {
                let text = format!(
                    "{}; of all that waited this one's turn was the last: other clients have fewer \
                     requests there",
                    self.is_full(level)
                );
                (Status::Overloaded, text)
            }
            Refused::Late(None) => {
                let text = format!(
                    "the request's deadline passed before model {model} ran: allow more time, or \
                     send when less waits"
                );
                (Status::Late, text)
            }
            Refused::Late(Some(Hopeless { ahead, run })) => {
                let text = format!(
                    "{ahead} requests are before this one, and a run of model {model} takes {run:?}, \
                     so that its deadline cannot be kept: allow more time, or send when less waits"
                );
                (Status::Late, text)
            }
            Refused::SessionOver => {
                (Status::SessionEnded, "the session ended while the request waited".to_owned())
            }
            Refused::Gone => (Status::Cancelled, "its caller went away".to_owned()),
            Refused::Closed(Gate::Dead) => {
                let text = format!(
                    "model {model} has no working instance left, all panicked or lost their \
                     device: load it again, or restart the server if a device was lost, and see \
                     the server's log"
                );
                (Status::EngineFailed, text)
            }
            Refused::Closed(_) => {
                let text = format!("model {model} is draining: use another server, or try later");
                (Status::Draining, text)
            }
        }
    }

    fn is_full(&self, level: usize) -> String {
        let (model, bound) = (&self.model, self.queue.bound());
        let which = match (level, self.options.levels) {
            (0, _) => "normal".to_owned(),
            (_, 2) => "urgent".to_owned(),
            _ => format!("priority {level}"),
        };
        format!(
            "the {which} queue of model {model} is full with {bound} requests: try again later, or \
             raise `queue` in {model}.toml"
        )
    }
}
