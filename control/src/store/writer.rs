//! The far end of the store: one task that writes what was recorded, in batches.

use ferry_core::error_text;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::health::Counters;
use super::lost::Lost;
use super::recorder::{FlushSender, Shared};
use super::{Batch, Recorder, StoreError, StoreHealth, TimingStore};

/// Bounds of the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterConfig {
    /// Request rows that may wait. The default holds 0.65 s of the 200,000 rows/s that have to be
    /// sustained, in about 25 MB.
    pub requests_max: usize,
    /// Events that may wait.
    pub events_max: usize,
    /// Samples that may wait: one for each run with a session, each second.
    pub samples_max: usize,
    /// Most request rows in one transaction.
    pub batch_rows: usize,
    /// How long rows may wait while few come.
    pub idle: Duration,
    /// First pause after a failed write; each further failure doubles it.
    pub backoff_min: Duration,
    /// Longest pause after a failed write.
    pub backoff_max: Duration,
    /// How long the last rows may take when the writer stops.
    pub stop_wait: Duration,
}

impl Default for WriterConfig {
    fn default() -> Self {
        WriterConfig {
            requests_max: 1 << 17,
            events_max: 1 << 13,
            samples_max: 1 << 11,
            batch_rows: 1 << 14,
            idle: Duration::from_millis(50),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            stop_wait: Duration::from_secs(5),
        }
    }
}

/// How often a batch is given to a store that is full, before its requests are counted as lost: with
/// the pauses between, a third of a second. Whatever is waited for longer, a bound or a disk, is
/// waited for by somebody who reads the numbers.
const FULL_TRIES: u32 = 4;

/// Flushes that may be asked for at once; more wait for their turn.
const FLUSHES_MAX: usize = 64;

/// The task that writes. [`Writer::stop`] ends it and waits; dropping it ends it soon.
#[derive(Debug)]
pub struct Writer {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    shared: Arc<Shared>,
}

impl Writer {
    /// Starts the task on the current runtime. `own_run` is the run that number 0 stands for.
    pub fn spawn(
        store: Arc<dyn TimingStore>,
        own_run: i64,
        config: WriterConfig,
    ) -> (Recorder, Writer) {
        let shared = Arc::new(Shared {
            requests: ArrayQueue::new(config.requests_max),
            events: ArrayQueue::new(config.events_max),
            samples: ArrayQueue::new(config.samples_max),
            lost: Lost::new(),
            counters: Counters::default(),
        });
        let (flush_sender, flushes) = mpsc::channel(FLUSHES_MAX);
        let (stop, stopped) = oneshot::channel();
        let batch = Batch { own_run, ..Batch::default() };
        let shared_by_task = Arc::clone(&shared);
        let task = Task { store, shared: shared_by_task, config, batch, backoff: None, full: 0 };
        let task = tokio::spawn(task.run(flushes, stopped));
        (Recorder::new(Arc::clone(&shared), flush_sender), Writer { stop, task, shared })
    }

    /// Stores what waits, then ends. What cannot be stored in time is counted as lost.
    pub async fn stop(self) -> StoreHealth {
        // The task is gone already if nobody listens.
        self.stop.send(()).ok();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the store's writer panicked");
        }
        self.shared.counters.stop();
        self.shared.counters.read(self.shared.requests.len())
    }
}

/// The state of the writing task.
struct Task {
    store: Arc<dyn TimingStore>,
    shared: Arc<Shared>,
    config: WriterConfig,
    /// What is being stored. Kept until it is, so that a failure loses nothing that was taken out.
    batch: Batch,
    /// How long to pause, while the store fails.
    backoff: Option<Duration>,
    /// How often in a row the store was full.
    full: u32,
}

impl Task {
    async fn run(
        mut self,
        mut flushes: mpsc::Receiver<FlushSender>,
        mut stopped: oneshot::Receiver<()>,
    ) {
        loop {
            let stored = self.step().await;
            let pause = match (self.backoff, stored) {
                (Some(backoff), _) => backoff,
                // A lot is waiting: go on at once, but look at the other branches.
                (None, rows) if rows >= self.config.batch_rows / 2 => Duration::ZERO,
                (None, _) => self.config.idle,
            };
            tokio::select! {
                biased;
                // Also where `Writer` was dropped.
                _ = &mut stopped => break,
                Some(flush) = flushes.recv() => {
                    // Whoever asked may have left.
                    flush.send(self.flush().await).ok();
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.finish().await;
    }

    /// Stores everything that waited when it was called.
    async fn flush(&mut self) -> Result<(), String> {
        // New rows may come as fast as they are stored: no more than the queue can hold waited.
        let steps = self.config.requests_max / self.config.batch_rows.max(1) + 2;
        for _ in 0..steps {
            let stored = self.step().await;
            // What waits for a full store is counted at once: whoever asks wants to know now.
            if self.full > 0 && self.full < FULL_TRIES {
                self.full = FULL_TRIES - 1;
                continue;
            }
            let waits = self.full > 0 && !self.shared.requests.is_empty();
            if self.backoff.is_some() && !waits {
                let error = self.shared.counters.read(0).last_error;
                return Err(error.unwrap_or_default());
            }
            if stored == 0 && !waits {
                break;
            }
        }
        Ok(())
    }

    /// Stores the last rows, and counts those that cannot be.
    async fn finish(mut self) {
        self.shared.counters.stop();
        let late = self.config.stop_wait;
        let flushed = tokio::time::timeout(late, self.flush()).await;
        if !matches!(flushed, Ok(Ok(()))) {
            self.drop_batch();
            let left = Arc::clone(&self.shared);
            while !left.is_empty() {
                self.take();
                self.drop_batch();
            }
            let lost = self.shared.counters.read(0).rows_lost;
            tracing::error!(rows_lost = lost, "the store's writer ended before all was stored");
        }
        if !matches!(tokio::time::timeout(late, self.account()).await, Ok(true)) {
            tracing::error!("what was lost does not stand in the store");
        }
        self.store.close().await;
    }

    /// Stores one batch; how many rows and events it had. 0 also where it failed.
    async fn step(&mut self) -> usize {
        // Events may be left from a batch whose requests found no room.
        if self.batch.requests.is_empty() && !self.take() {
            return 0;
        }
        match self.store.write(&self.batch).await {
            Ok(()) => {
                let rows = self.batch.requests.len();
                let all = rows + self.batch.events.len() + self.batch.samples.len();
                self.clear(rows);
                self.succeeded();
                all
            }
            Err(error) if error.may_pass() => {
                self.failed(&error);
                if matches!(error, StoreError::Full(_)) {
                    self.full = self.full.saturating_add(1);
                    if self.full >= FULL_TRIES {
                        self.lose_requests();
                    }
                    self.account().await;
                }
                0
            }
            Err(error) => {
                tracing::error!(
                    error = error_text(&error),
                    rows = self.batch.requests.len(),
                    "the store refuses a batch, which is dropped"
                );
                self.drop_batch();
                0
            }
        }
    }

    /// Fills the batch from the queues; whether there is anything in it.
    ///
    /// Requests are taken first: the session of each was recorded before it, hence is among the
    /// events that are taken after, hence is stored with or before it.
    fn take(&mut self) -> bool {
        let requests = std::iter::from_fn(|| self.shared.requests.pop());
        self.batch.requests.extend(requests.take(self.config.batch_rows));
        let events = std::iter::from_fn(|| self.shared.events.pop());
        let room = self.config.events_max.saturating_sub(self.batch.events.len());
        self.batch.events.extend(events.take(room));
        if self.batch.samples.is_empty() {
            let samples = std::iter::from_fn(|| self.shared.samples.pop());
            self.batch.samples.extend(samples.take(self.config.samples_max));
        }
        if self.batch.lost.is_empty() {
            self.shared.lost.take(&mut self.batch.lost);
        }
        !self.batch.is_empty()
    }

    /// Counts the requests of the batch as lost.
    fn lose_requests(&mut self) {
        for record in self.batch.requests.drain(..) {
            self.shared.lose(record.run, 1);
        }
    }

    /// Stores what is lost, alone: a few numbers find room where rows do not. Whether it could.
    async fn account(&mut self) -> bool {
        if self.batch.lost.is_empty() {
            self.shared.lost.take(&mut self.batch.lost);
        }
        if self.batch.lost.is_empty() {
            return true;
        }
        let lost = std::mem::take(&mut self.batch.lost);
        let accounts = Batch { own_run: self.batch.own_run, lost, ..Batch::default() };
        let stored = self.store.write(&accounts).await.is_ok();
        if !stored {
            self.batch.lost = accounts.lost;
        }
        stored
    }

    fn clear(&mut self, rows: usize) {
        let rows = u64::try_from(rows).unwrap_or(u64::MAX);
        self.shared.counters.rows_written.fetch_add(rows, Ordering::Relaxed);
        self.batch.requests.clear();
        self.batch.events.clear();
        self.batch.samples.clear();
        self.batch.lost.clear();
    }

    /// Counts the batch as lost.
    fn drop_batch(&mut self) {
        self.lose_requests();
        for (run, rows) in self.batch.lost.drain(..) {
            // Counted in the total already.
            self.shared.lost.add(run, rows);
        }
        let events = self.batch.events.len() + self.batch.samples.len();
        let events = u64::try_from(events).unwrap_or(u64::MAX);
        self.shared.counters.events_lost.fetch_add(events, Ordering::Relaxed);
        self.clear(0);
    }

    fn succeeded(&mut self) {
        self.backoff = None;
        self.full = 0;
        if self.shared.counters.note(None) {
            let health = self.shared.counters.read(self.shared.requests.len());
            tracing::info!(rows_lost = health.rows_lost, "the store can be written again");
        }
    }

    fn failed(&mut self, error: &StoreError) {
        let WriterConfig { backoff_min, backoff_max, .. } = self.config;
        let next = self.backoff.map_or(backoff_min, |backoff| backoff.saturating_mul(2));
        self.backoff = Some(next.min(backoff_max));
        let text = error_text(error);
        if self.shared.counters.note(Some(text.clone())) {
            tracing::error!(error = text, "the store cannot be written; serving goes on");
        }
    }
}
