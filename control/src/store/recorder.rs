//! The near end of the store: bounded queues that are never waited for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use ferry_core::RequestRecord;
use tokio::sync::{mpsc, oneshot};

use super::health::Counters;
use super::lost::Lost;
use super::{Event, ResourceSample, StoreHealth};

/// What recorder and writer share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) requests: ArrayQueue<RequestRecord>,
    pub(crate) events: ArrayQueue<Event>,
    /// Apart from the events, which they must never push out.
    pub(crate) samples: ArrayQueue<ResourceSample>,
    pub(crate) lost: Lost,
    pub(crate) counters: Counters,
}

impl Shared {
    /// Whether nothing waits to be stored.
    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.events.is_empty() && self.samples.is_empty()
    }

    /// Counts request rows that are not stored and never will be.
    pub(crate) fn lose(&self, run: i64, rows: u64) {
        self.lost.add(run, rows);
        self.counters.rows_lost.fetch_add(rows, Ordering::Relaxed);
    }
}

/// Asks the writer to store what waits, and to say how that went.
pub(crate) type FlushSender = oneshot::Sender<Result<(), String>>;

/// Records requests and events. Cheap to clone; nothing in it blocks, waits or allocates, but
/// [`Recorder::flush`].
#[derive(Clone, Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
    flushes: mpsc::Sender<FlushSender>,
}

/// Why a flush did not store everything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlushError {
    /// The store fails. The rows are kept and tried again.
    #[error("the store fails, what waits is kept: {0}")]
    Failing(String),
    /// It took too long. The rows are kept.
    #[error("the store did not take what waits within {0:?}")]
    Late(Duration),
    /// The writer has ended.
    #[error("the store's writer has ended")]
    Stopped,
}

impl Recorder {
    pub(crate) fn new(shared: Arc<Shared>, flushes: mpsc::Sender<FlushSender>) -> Recorder {
        Recorder { shared, flushes }
    }

    /// Records a finished request. Where the queue is full, the row is lost and counted; whether it
    /// was not.
    ///
    /// A session's [`Event::Opened`] has to be recorded before its first request.
    pub fn record(&self, record: RequestRecord) -> bool {
        let is_taken = !self.shared.counters.stopped() && self.shared.requests.push(record).is_ok();
        if !is_taken {
            self.shared.lose(record.run, 1);
        }
        is_taken
    }

    /// Counts rows of a run that were lost before they came here.
    pub fn lose(&self, run: i64, rows: u64) {
        if rows > 0 {
            self.shared.lose(run, rows);
        }
    }

    /// Records what was in use. Where the queue is full, the oldest sample is lost and counted.
    pub fn sample(&self, sample: ResourceSample) {
        let stopped = self.shared.counters.stopped();
        if stopped || self.shared.samples.force_push(sample).is_some() {
            self.shared.counters.events_lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records what happens seldom. Where the queue is full, the event is lost and counted.
    pub fn event(&self, event: Event) {
        if self.shared.counters.stopped() || self.shared.events.push(event).is_err() {
            self.shared.counters.events_lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How the store is doing.
    pub fn health(&self) -> StoreHealth {
        self.shared.counters.read(self.shared.requests.len())
    }

    /// Waits until everything recorded before the call is stored. Call it before a run's end is
    /// noted.
    ///
    /// # Errors
    ///
    /// Where the store fails or is slow; nothing is lost by that.
    pub async fn flush(&self, wait: Duration) -> Result<(), FlushError> {
        let (sender, receiver) = oneshot::channel();
        let answer = async {
            let sent = self.flushes.send(sender).await;
            sent.map_err(|_writer_gone| FlushError::Stopped)?;
            let stored = receiver.await.map_err(|_writer_gone| FlushError::Stopped)?;
            stored.map_err(FlushError::Failing)
        };
        tokio::time::timeout(wait, answer).await.map_err(|_elapsed| FlushError::Late(wait))?
    }
}
