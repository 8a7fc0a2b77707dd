//! One loaded model: its instances, their threads and the queue in front of them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ferry_core::{RequestKind, SessionId, Signature, StageTimes};
use ferry_memory::{Departure, PeerId};

use crate::clock::StageClock;
use crate::engine::Engine;
use crate::instance::{Instance, Member};
use crate::options::{LEVELS, PoolError, PoolOptions, QUEUE_MAX, RunOn};
use crate::prepare::{Preparation, check, picture_numbers};
use crate::queue::{Gate, Pushed, Refused, Work};
use crate::shared::Shared;
use crate::stats::{InstanceStats, PoolStats};
use crate::worker;

/// How long dropping a pool waits for its workers. Long enough for any model that answers at all;
/// whoever needs another bound calls [`Pool::shutdown`] first.
pub const DROP_WAIT: Duration = Duration::from_secs(5);

/// How long runs that were interrupted may take to end: one operator of the model.
const CUT_WAIT: Duration = Duration::from_secs(5);

/// One loaded model, served by its instances.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    /// Starts a named thread for each of `engines`, which are instances of one model.
    ///
    /// # Errors
    /// [`PoolError`] if the options make no sense for this model, or a thread cannot be started.
    pub fn start(
        model: &str,
        engines: Vec<Box<dyn Engine>>,
        options: PoolOptions,
    ) -> Result<Pool, PoolError> {
        let signature = check_options(&engines, &options)?;
        let count = engines.len();
        let instances = engines.into_iter().enumerate().map(|(i, engine)| {
            let preparation = Preparation::new(options.picture)?;
            // The system shows 15 bytes of a thread's name, so the number comes first.
            let label = format!("{i}:{}", model.replace('\0', ""));
            Ok(Instance::new(label, engine, preparation, &options))
        });
        let instances = instances.collect::<Result<Vec<_>, PoolError>>()?;
        let shared = Arc::new(Shared::new(model, signature, instances, options));
        // From here on, what started is ended by dropping the pool.
        let pool = Pool { shared, threads: Mutex::new(Vec::with_capacity(count)) };
        for i in 0..count {
            let started = pool.spawn(i);
            if let Err(error) = started {
                pool.shared.never_started(count - i);
                return Err(PoolError::Thread(error));
            }
        }
        if pool.shared.instances.iter().any(|instance| instance.runs.is_watched()) {
            let label = format!("w:{}", model.replace('\0', ""));
            let keep = |shared: &Shared| {
                shared.watch.keep(&shared.instances, shared.options.run_at_most);
            };
            pool.spawn_as(label, keep).map_err(PoolError::Thread)?;
        }
        Ok(pool)
    }

    fn spawn(&self, i: usize) -> std::io::Result<()> {
        let label = self.shared.instances[i].label.clone();
        self.spawn_as(label, move |shared| worker::run(shared, &shared.instances[i]))
    }

    fn spawn_as(
        &self,
        label: String,
        run: impl FnOnce(&Shared) + Send + 'static,
    ) -> std::io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name(label).spawn(move || run(&shared))?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// What the model takes and gives.
    pub fn signature(&self) -> &Signature {
        &self.shared.signature
    }

    /// Serves a request, or sees to it that it is served. The reply, if it is ready at once: what
    /// cannot be served, a ping, and what ran on this thread. Otherwise `work.reply_to` gets it
    /// later, and exactly once.
    pub fn dispatch(&self, work: Work) -> Option<Departure> {
        let shared = &*self.shared;
        if work.arrival.what.kind == RequestKind::Ping {
            return Some(work.arrival.depart(0, StageTimes::NONE));
        }
        let picture = shared.options.picture.as_ref();
        if let Err(unfit) = check(&shared.model, &work.arrival, &work.binding, picture) {
            return Some(shared.unfit(work.arrival, &unfit));
        }
        if work.deadline.is_some_and(|deadline| deadline <= work.arrival.visible) {
            return Some(shared.refuse(work, Refused::Late(None)));
        }
        if shared.runs_here(&work.arrival) {
            for instance in &shared.instances {
                let Some(mut core) = instance.try_free() else { continue };
                let clock = StageClock::taken(work.arrival.visible, None);
                let ready = core.start(&instance.counters, Member::new(work, clock));
                let unfinished = core.is_broken() || core.in_flight() > 0;
                drop(core);
                if unfinished {
                    shared.queue.call(&instance.attention);
                }
                return ready.map(|ready| ready.departure);
            }
        }
        let outlook = work.deadline.map(|_| shared.outlook());
        let Pushed { refused, others } = shared.queue.push(work, outlook);
        shared.give_back(others);
        refused.map(|(work, why)| shared.refuse(work, why))
    }

    /// A session is over, or this lease of it, or its link to `peer` broke: what waits of it does not
    /// run, and its places in the queue are free. What runs goes on.
    pub fn session_over(&self, session: SessionId, peer: Option<PeerId>) {
        let all = |_: &Work| Some(Refused::SessionOver);
        self.shared.give_back(self.shared.queue.withdraw(session, peer, &all));
    }

    /// As [`session_over`](Pool::session_over), for the requests of one `peer` of a session whose
    /// callers are gone ([`ReplyTo::is_gone`](ferry_memory::ReplyTo::is_gone)), or whose deadlines
    /// have passed.
    pub fn callers_gone(&self, session: SessionId, peer: PeerId) {
        let now = Instant::now();
        let in_vain = |work: &Work| work.in_vain(now);
        self.shared.give_back(self.shared.queue.withdraw(session, Some(peer), &in_vain));
    }

    /// Takes nothing new from now on; what was taken is finished, and pings are still answered.
    pub fn drain(&self) {
        self.shared.queue.drain();
    }

    /// Drains; interrupts what runs, where the engine can be interrupted, and answers what waits
    /// with [`Draining`](ferry_core::Status::Draining).
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// Drains, waits for at most `at_most`, and ends the threads. What still runs or waits then is
    /// [`cut`](Pool::cut), which may take some seconds more; what is in an engine that hangs and
    /// cannot be interrupted is answered when the engine comes back. May be called again.
    ///
    /// # Errors
    /// [`PoolError::Stuck`] if workers are still in their engines.
    pub fn shutdown(&self, at_most: Duration) -> Result<(), PoolError> {
        self.drain();
        let mut stuck = self.shared.wait_for_workers(at_most);
        if stuck > 0 {
            self.shared.abandon();
            if self.shared.cut() {
                stuck = self.shared.wait_for_workers(CUT_WAIT);
            }
        }
        self.shared.watch.end();
        if stuck > 0 {
            return Err(PoolError::Stuck(stuck));
        }
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!(model = %self.shared.model, "a worker's thread panicked");
            }
        }
        Ok(())
    }

    /// Whether any instance still works.
    pub fn is_healthy(&self) -> bool {
        self.shared.instances.iter().any(|i| i.counters.alive.load(Ordering::Acquire))
    }

    /// Whether every instance is lost: nothing will be served until the model is loaded again.
    /// A pool that drained is not dead.
    pub fn is_dead(&self) -> bool {
        self.shared.queue.gate() == Gate::Dead
    }

    /// What the pool has done and is doing. Numbers of one moment each, not of the same one.
    pub fn stats(&self) -> PoolStats {
        let shared = &*self.shared;
        let instances: Vec<InstanceStats> =
            shared.instances.iter().map(|i| InstanceStats::of(&i.counters)).collect();
        PoolStats {
            queued: shared.queue.len(),
            in_flight: instances.iter().map(|i| i.in_flight).sum(),
            served: instances.iter().map(|i| i.served).sum(),
            failed: instances.iter().map(|i| i.failed).sum::<u64>()
                + shared.failed.load(Ordering::Relaxed),
            refused: shared.refused.load(Ordering::Relaxed),
            late: shared.late.load(Ordering::Relaxed),
            cancelled: shared.cancelled.load(Ordering::Relaxed),
            instances,
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Err(error) = self.shutdown(DROP_WAIT) {
            // Detached: they hold what they use, and end when their engines return.
            tracing::error!(model = %self.shared.model, %error, "pool dropped");
        }
    }
}

fn check_options(
    engines: &[Box<dyn Engine>],
    options: &PoolOptions,
) -> Result<Signature, PoolError> {
    let signature = engines.first().ok_or(PoolError::Empty)?.signature();
    if let Some(i) = engines.iter().position(|engine| engine.signature() != signature) {
        return Err(PoolError::Differs(i));
    }
    if !(1..=QUEUE_MAX).contains(&options.queue) {
        return Err(PoolError::Queue(options.queue));
    }
    if !LEVELS.contains(&options.levels) {
        return Err(PoolError::Levels(options.levels));
    }
    let takes_pictures = picture_numbers(signature.inputs.iter().map(|it| it.dtype)).is_some();
    if options.picture.is_some() && !takes_pictures {
        let all: Vec<String> = signature.inputs.iter().map(ToString::to_string).collect();
        return Err(PoolError::NotForPictures(all.join(", ")));
    }
    if let Some(batch) = &options.batch {
        if options.run == RunOn::Lane {
            let why = "it runs on the lane, one at a time: set run = \"worker\"";
            return Err(PoolError::Batch(why.to_owned()));
        }
        batch.check(signature).map_err(PoolError::Batch)?;
    }
    Ok(signature.clone())
}
