//! Timings of requests, from the path of a request to the server's store.
//!
//! The path only pushes into a bounded queue; a task sends what is there every
//! [`SEND_EVERY`]. What finds no room is counted, and the count travels with the next batch.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use crate::key::Channel;
use crate::options::Options;
use crossbeam_queue::ArrayQueue;
use ferry_core::{RequestRecord, SessionId};
use ferry_proto::v1::runs_client::RunsClient;
use ferry_proto::{BATCH_ROWS_MAX, append_row, v1};
use ferry_transport::RecordSink;
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

/// Room for records that wait to be sent: a third of a second of 200,000 requests a second, in
/// 12 MB.
const QUEUE_RECORDS: usize = 64 * 1024;

/// How often waiting records are sent. Also sent when the queue is a quarter full.
pub(crate) const SEND_EVERY: Duration = Duration::from_millis(50);

/// Batches that wait for the network. Behind them the queue fills, and then records are counted
/// as lost: serving goes on.
const BATCHES_IN_FLIGHT: usize = 4;

/// How long the server may take to say what it stored.
const SUMMARY_WITHIN: Duration = Duration::from_secs(10);

/// What became of the records of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordCounts {
    /// The server took them into its own queue.
    pub accepted: u64,
    /// Found no room, here or at the server.
    pub lost: u64,
    /// The connection broke before the server said what it took: they may be stored, or not.
    pub unknown: u64,
    /// The server did not take them: no such session or run.
    pub refused: u64,
}

#[derive(Debug)]
pub(crate) struct Recorder {
    queue: ArrayQueue<RequestRecord>,
    /// Lost here, by session and run, not yet reported to the server.
    lost: std::sync::Mutex<HashMap<(SessionId, i64), u64>>,
    wake: Notify,
    sender: Mutex<Sender>,
}

/// The sending half, used by one task at a time.
#[derive(Debug)]
struct Sender {
    channel: Channel,
    stream: Option<Stream>,
    counts: RecordCounts,
}

/// One call of `Runs.Record`.
#[derive(Debug)]
struct Stream {
    batches: mpsc::Sender<v1::TimingBatch>,
    /// Rows given to this call: nobody knows of them if it breaks.
    rows: u64,
    answer: JoinHandle<Result<v1::RecordSummary, tonic::Status>>,
}

impl RecordSink for Recorder {
    fn record(&self, record: RequestRecord) {
        if self.queue.push(record).is_err() {
            *self.lost().entry((record.session, record.run)).or_default() += 1;
        } else if self.queue.len() == QUEUE_RECORDS / 4 {
            self.wake.notify_one();
        }
    }
}

impl Recorder {
    pub(crate) fn new(channel: Channel) -> Recorder {
        Recorder {
            queue: ArrayQueue::new(QUEUE_RECORDS),
            lost: std::sync::Mutex::default(),
            wake: Notify::new(),
            sender: Mutex::new(Sender { channel, stream: None, counts: RecordCounts::default() }),
        }
    }

    fn lost(&self) -> MutexGuard<'_, HashMap<(SessionId, i64), u64>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is time to send.
    pub(crate) async fn due(&self) {
        let _either = tokio::time::timeout(SEND_EVERY, self.wake.notified()).await;
    }

    /// Sends what waits. `sessions` gives the credentials under which records are reported.
    pub(crate) async fn send(&self, sessions: &HashMap<SessionId, v1::SessionRef>) {
        let mut sender = self.sender.lock().await;
        self.send_all(&mut sender, sessions).await;
    }

    /// Sends what waits, and waits until the server says what it took.
    pub(crate) async fn flush(
        &self,
        sessions: &HashMap<SessionId, v1::SessionRef>,
    ) -> RecordCounts {
        let mut sender = self.sender.lock().await;
        self.send_all(&mut sender, sessions).await;
        sender.finish().await;
        sender.counts
    }

    async fn send_all(&self, sender: &mut Sender, sessions: &HashMap<SessionId, v1::SessionRef>) {
        // At most what the queue holds: records that come while this one sends are for the next.
        let mut left = self.queue.len();
        while left > 0 {
            let mut batches: HashMap<(SessionId, i64), v1::TimingBatch> = HashMap::new();
            for _ in 0..left.min(BATCH_ROWS_MAX) {
                let Some(record) = self.queue.pop() else { break };
                let batch = batches.entry((record.session, record.run)).or_default();
                append_row(batch, &record);
            }
            left = left.saturating_sub(BATCH_ROWS_MAX);
            for ((session, run_id), mut batch) in batches {
                batch.run_id = run_id;
                batch.session = sessions.get(&session).cloned();
                sender.send(batch).await;
            }
        }
        // Each loss is reported for its own session, or it would count for another run.
        let lost = std::mem::take(&mut *self.lost());
        for ((session, run_id), lost) in lost {
            sender.counts.lost += lost;
            let session = sessions.get(&session).cloned();
            sender.send(v1::TimingBatch { session, run_id, lost, ..Default::default() }).await;
        }
    }
}

impl Sender {
    async fn send(&mut self, batch: v1::TimingBatch) {
        let rows = batch.request.len() as u64;
        if batch.session.is_none() {
            self.counts.refused += rows;
            return;
        }
        let stream = self.stream.get_or_insert_with(|| Stream::open(self.channel.clone()));
        stream.rows += rows;
        if stream.batches.send(batch).await.is_err() {
            // The call ended early; its answer says why.
            self.finish().await;
        }
    }

    async fn finish(&mut self) {
        let Some(Stream { batches, rows, answer }) = self.stream.take() else { return };
        drop(batches);
        match tokio::time::timeout(SUMMARY_WITHIN, answer).await {
            Ok(Ok(Ok(summary))) => {
                self.counts.accepted += summary.accepted;
                self.counts.lost += summary.lost;
                self.counts.refused += summary.refused;
            }
            broken => {
                tracing::warn!(rows, ?broken, "it is not known whether timings were stored");
                self.counts.unknown += rows;
            }
        }
    }
}

impl Stream {
    fn open(channel: Channel) -> Stream {
        let (batches, receiver) = mpsc::channel(BATCHES_IN_FLIGHT);
        let answer = tokio::spawn(async move {
            let mut runs = RunsClient::new(channel);
            let answer = runs.record(ReceiverStream::new(receiver)).await?;
            Ok(answer.into_inner())
        });
        Stream { batches, rows: 0, answer }
    }
}

/// Where the records of one session go.
#[derive(Debug)]
pub(crate) struct SessionSink {
    recorder: Option<Arc<Recorder>>,
    observer: Option<Arc<dyn RecordSink>>,
    /// Requests up to this number are neither reported nor observed.
    warmup: u64,
}

impl SessionSink {
    pub(crate) fn new(options: &Options, recorder: &Arc<Recorder>) -> Arc<SessionSink> {
        Arc::new(SessionSink {
            recorder: options.record.then(|| Arc::clone(recorder)),
            observer: options.observer.clone(),
            warmup: options.warmup,
        })
    }
}

impl RecordSink for SessionSink {
    fn record(&self, record: RequestRecord) {
        if record.request <= self.warmup {
            return;
        }
        if let Some(observer) = &self.observer {
            observer.record(record);
        }
        if let Some(recorder) = &self.recorder {
            recorder.record(record);
        }
    }
}

#[cfg(test)]
mod tests;
