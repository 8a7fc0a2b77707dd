//! Closed-loop load over the local link, inside the server: `Local.Drive`.

use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferry_core::{Request, RequestRecord, Status};
use ferry_proto::{append_row, v1};
use ferry_transport::RecordSink;
use tokio::sync::mpsc;

use super::inline;
use super::local::Inside;
use crate::error::ApiError;
use crate::sessions::{Tenant, end};
use crate::state::State;
use crate::store::Recorder;

/// Most clients of one call: each is a thread.
const CLIENTS_MAX: u32 = 256;

/// Most requests of one client.
const REQUESTS_MAX: u64 = 100_000_000;

/// Longest time that one call may load the server.
const TIME_MAX: Duration = Duration::from_secs(600);

/// How long one reply may take before its client stops.
const REPLY_WITHIN: Duration = Duration::from_secs(60);

/// Rows of one message.
const ROWS_PER_BATCH: usize = 4096;

/// Messages that wait for a slow reader; then the load waits too.
const BATCHES_WAITING: usize = 64;

/// What is to be done, checked.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    asked: v1::DriveRequest,
    what: Request,
}

impl Plan {
    pub(super) fn check(asked: v1::DriveRequest) -> Result<Plan, ApiError> {
        let what = inline::what(asked.info.as_ref())?;
        let bounds = [
            ("clients", u64::from(asked.clients), u64::from(CLIENTS_MAX)),
            ("requests", asked.requests, REQUESTS_MAX),
            ("window", u64::from(asked.window), u64::from(ferry_core::session::SLOTS_MAX)),
        ];
        for (field, given, most) in bounds {
            if given == 0 || given > most {
                return Err(ApiError::field(field, format!("{given}; allowed are 1 to {most}")));
            }
        }
        if asked.warmup > REQUESTS_MAX {
            return Err(ApiError::field("warmup", format!("at most {REQUESTS_MAX}")));
        }
        Ok(Plan { asked, what })
    }

    fn session(&self) -> v1::OpenSessionRequest {
        let call = v1::InferRequest {
            model: self.asked.model.clone(),
            version: self.asked.version,
            payload: self.asked.payload.clone(),
            shapes: self.asked.shapes.clone(),
            ..Default::default()
        };
        let mut session = inline::own_session(&call, v1::Transport::Local);
        session.slots = self.asked.window;
        session.run_id = self.asked.run_id;
        session.wait = self.asked.wait;
        session.request_bytes_min = session.request_bytes_min.max(self.asked.request_bytes_min);
        session.client = "Drive".into();
        session
    }
}

type Batches = mpsc::Sender<Result<v1::TimingBatch, tonic::Status>>;

/// Takes the records of one client to the store and to the caller.
#[derive(Debug)]
struct Report {
    recorder: Recorder,
    warmup: u64,
    batch: Mutex<v1::TimingBatch>,
    batches: Batches,
}

impl Report {
    /// Sends what there is. Waits for the reader. `false` if there is none.
    fn send(&self) -> bool {
        let mut batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        if batch.request.is_empty() {
            return !self.batches.is_closed();
        }
        let (session, run_id) = (batch.session.clone(), batch.run_id);
        let next = v1::TimingBatch { session, run_id, ..Default::default() };
        let full = std::mem::replace(&mut *batch, next);
        drop(batch);
        self.batches.blocking_send(Ok(full)).is_ok()
    }

    fn is_full(&self) -> bool {
        let batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        batch.request.len() >= ROWS_PER_BATCH
    }
}

impl RecordSink for Report {
    fn record(&self, record: RequestRecord) {
        if record.request <= self.warmup {
            return;
        }
        self.recorder.record(record);
        let mut batch = self.batch.lock().unwrap_or_else(PoisonError::into_inner);
        append_row(&mut batch, &record);
    }
}

/// Opens the sessions and starts a thread for each; what they measure comes by the receiver.
pub(super) async fn start(
    state: Arc<State>,
    tenant: Arc<Tenant>,
    plan: Plan,
) -> Result<mpsc::Receiver<Result<v1::TimingBatch, tonic::Status>>, ApiError> {
    let (batches, receiver) = mpsc::channel(BATCHES_WAITING);
    let mut clients = Vec::new();
    for _ in 0..plan.asked.clients {
        let report = Arc::new(Report {
            recorder: state.recorder.clone(),
            warmup: plan.asked.warmup,
            batch: Mutex::default(),
            batches: batches.clone(),
        });
        let sink = Arc::clone(&report) as Arc<dyn RecordSink>;
        let opened = Inside::open(&state, Arc::clone(&tenant), plan.session(), sink).await;
        match opened {
            Ok(inside) => clients.push((inside, report)),
            Err(error) => {
                for (inside, _) in clients {
                    end(&state, &inside.opened.session, Status::SessionEnded, "closed").await;
                }
                return Err(error);
            }
        }
    }
    let barrier = Arc::new(Barrier::new(clients.len()));
    for (number, (inside, report)) in clients.into_iter().enumerate() {
        let client = Client {
            inside,
            report,
            plan: plan.clone(),
            state: Arc::clone(&state),
            runtime: tokio::runtime::Handle::current(),
        };
        let barrier = Arc::clone(&barrier);
        let spawned = std::thread::Builder::new()
            .name(format!("ferry-drive-{number}"))
            .spawn(move || client.run(&barrier));
        if let Err(error) = spawned {
            // Threads that wait at the barrier would wait for ever: a machine that has no thread
            // left has to be told by its operator anyway.
            return Err(ApiError::Internal(format!("start a thread: {error}")));
        }
    }
    Ok(receiver)
}

struct Client {
    inside: Inside,
    report: Arc<Report>,
    plan: Plan,
    state: Arc<State>,
    runtime: tokio::runtime::Handle,
}

impl Client {
    fn run(mut self, start: &Barrier) {
        let session = Arc::clone(&self.inside.opened.session);
        {
            let mut batch = self.report.batch.lock().unwrap_or_else(PoisonError::into_inner);
            batch.session = Some(v1::SessionRef { session_id: session.id.0, ..Default::default() });
            batch.run_id = session.run;
        }
        let payload = self.payload();
        let loaded = self.load(&payload, self.plan.asked.warmup).and_then(|()| {
            start.wait();
            self.load(&payload, self.plan.asked.requests)
        });
        let Client { inside, report, state, runtime, .. } = self;
        // The last record is handed over as the driver goes.
        drop(inside);
        report.send();
        if let Err(text) = loaded {
            let status = tonic::Status::internal(text);
            drop(report.batches.blocking_send(Err(status)));
        }
        runtime.block_on(end(&state, &session, Status::SessionEnded, "closed"));
    }

    /// What every request sends: the caller's bytes, or zeros as long as the tensors.
    fn payload(&self) -> Bytes {
        let bytes = self.inside.opened.session.agreed.binding.request_bytes();
        match self.plan.asked.payload.is_empty() {
            false => self.plan.asked.payload.clone(),
            true => vec![0; usize::try_from(bytes).unwrap_or(0)].into(),
        }
    }

    /// Sends `requests` requests, a window of them in flight.
    fn load(&mut self, payload: &Bytes, requests: u64) -> Result<(), String> {
        let deadline = Instant::now() + TIME_MAX;
        let (mut sent, mut done) = (0, 0);
        while done < requests {
            while sent < requests
                && let Some(mut slot) = self.inside.table.acquire()
            {
                let filling = Instant::now();
                let room = slot.request_bytes_mut().and_then(|it| it.get_mut(..payload.len()));
                room.ok_or("the payload is longer than the slot")?.copy_from_slice(payload);
                let fill_ns = u64::try_from(filling.elapsed().as_nanos()).ok();
                let submitted =
                    self.inside.driver.submit(slot, payload.len(), self.plan.what, fill_ns);
                submitted.map_err(|error| error.why.to_string())?;
                sent += 1;
            }
            if !self.inside.driver.wait(Some(Instant::now() + REPLY_WITHIN)) {
                return Err(format!("no reply: {:?}", self.inside.driver.state()));
            }
            while self.inside.driver.take().is_some() {
                done += 1;
            }
            if self.report.is_full() && !self.report.send() {
                return Err("nobody reads the timings".into());
            }
            if Instant::now() >= deadline {
                return Err(format!("the load took longer than {TIME_MAX:?}"));
            }
        }
        Ok(())
    }
}
