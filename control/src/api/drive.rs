//! `Local.Drive`: closed-loop load inside the server.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferry_core::session::SLOTS_MAX;
use ferry_core::{RequestRecord, Status, error_text};
use ferry_memory::SlotTable;
use ferry_proto::{BATCH_ROWS_MAX, append_row, v1};
use ferry_transport::{Driver, RecordSink};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::local::{batch_reference, connect, open_local, thread};
use crate::error::ApiError;
use crate::sessions::{Opened, end};
use crate::state::State;
use crate::store::Recorder;
use crate::tenants::Identity;

/// Most clients of one drive: each is a thread.
const CLIENTS_MAX: u32 = 64;

/// Most requests of one client: minutes at the highest rate.
const REQUESTS_MAX: u64 = 100_000_000;

/// Longest drive.
const TIME_MAX: Duration = Duration::from_secs(600);

/// Rows after which a batch is sent.
const BATCH_ROWS: usize = 4096;

/// Batches that wait for a slow caller.
const BATCHES_WAITING_MAX: usize = 16;

/// How long a client waits for one reply before it looks whether it should stop.
const LOOK_EVERY: Duration = Duration::from_millis(200);

type Batches = mpsc::Sender<Result<v1::TimingBatch, tonic::Status>>;

/// What every client of one drive does.
#[derive(Debug)]
struct Plan {
    requests: u64,
    warmup: u64,
    window: usize,
    what: ferry_core::Request,
    payload: Bytes,
    run: i64,
    deadline: Instant,
    /// Somebody failed, or the caller is gone.
    stop: AtomicBool,
    /// Its threads, of those that all drives may have.
    _drivers: OwnedSemaphorePermit,
}

/// Keeps what comes after the warm-up: for the store, and for the caller.
#[derive(Debug)]
struct Sink {
    warmup: u64,
    recorder: Recorder,
    rows: Mutex<Vec<RequestRecord>>,
    lost: AtomicU64,
}

impl RecordSink for Sink {
    fn record(&self, record: RequestRecord) {
        if record.request <= self.warmup {
            return;
        }
        self.recorder.record(record);
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if rows.len() < BATCH_ROWS_MAX {
            rows.push(record);
        } else {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Sink {
    /// The rows so far as one batch, if there are at least `at_least`.
    fn batch(&self, at_least: usize, session: v1::SessionRef, run: i64) -> Option<v1::TimingBatch> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if rows.len() < at_least {
            return None;
        }
        let taken = std::mem::take(&mut *rows);
        drop(rows);
        let mut batch = v1::TimingBatch {
            session: Some(session),
            run_id: run,
            lost: self.lost.swap(0, Ordering::Relaxed),
            ..v1::TimingBatch::default()
        };
        taken.iter().for_each(|row| append_row(&mut batch, row));
        Some(batch)
    }
}

fn check(asked: &v1::DriveRequest) -> Result<(), ApiError> {
    let within = |field, value: u64, max: u64| {
        let why = || ApiError::field(field, format!("{value}; allowed are 1 to {max}"));
        (1..=max).contains(&value).then_some(()).ok_or_else(why)
    };
    within("clients", u64::from(asked.clients), u64::from(CLIENTS_MAX))?;
    within("requests", asked.requests, REQUESTS_MAX)?;
    within("window", u64::from(asked.window.max(1)), u64::from(SLOTS_MAX))?;
    within("warmup", asked.warmup.max(1), REQUESTS_MAX)
}

/// Opens the sessions and starts a thread for each; the timings come as they are made. The
/// sessions end with their threads, and these end when the caller goes away.
pub(super) async fn start(
    state: &Arc<State>,
    identity: &Identity,
    asked: v1::DriveRequest,
) -> Result<mpsc::Receiver<Result<v1::TimingBatch, tonic::Status>>, ApiError> {
    check(&asked)?;
    // The operator has no quota of its own: what it drives is everybody's.
    let tenant = identity.tenant().unwrap_or(state.tenants.everybody());
    let drivers = state.drivers(asked.clients)?;
    let window = asked.window.max(1);
    let what = match &asked.info {
        Some(info) => ferry_core::Request::try_from(info)?,
        None => ferry_core::Request::of(ferry_core::RequestKind::Tensor),
    };
    let mut sessions = Vec::new();
    for _ in 0..asked.clients {
        let one = v1::OpenSessionRequest {
            model: asked.model.clone(),
            version: asked.version,
            wait: asked.wait,
            slots: window,
            shapes: asked.shapes.clone(),
            request_bytes_min: asked.request_bytes_min.max(asked.payload.len() as u64),
            reply_bytes_min: asked.reply_bytes_min,
            run_id: asked.run_id,
            placement: asked.placement.clone(),
            ..v1::OpenSessionRequest::default()
        };
        match open_local(state, Arc::clone(tenant), identity, one).await {
            Ok(opened) => sessions.push(opened),
            Err(error) => {
                end_all(state, &sessions).await;
                return Err(error);
            }
        }
    }
    let mut payload = asked.payload;
    if payload.is_empty()
        && what.kind == ferry_core::RequestKind::Tensor
        && let Some(first) = sessions.first()
    {
        let bytes = first.session.agreed.binding.request_bytes();
        payload = vec![0; usize::try_from(bytes).unwrap_or(0)].into();
    }
    let plan = Arc::new(Plan {
        requests: asked.requests,
        warmup: asked.warmup,
        window: window as usize,
        what,
        payload,
        run: asked.run_id,
        deadline: Instant::now() + TIME_MAX,
        stop: AtomicBool::new(false),
        _drivers: drivers,
    });
    let (sender, receiver) = mpsc::channel(BATCHES_WAITING_MAX);
    for opened in sessions {
        start_one(state, &plan, opened, sender.clone());
    }
    Ok(receiver)
}

async fn end_all(state: &Arc<State>, sessions: &[Opened]) {
    for opened in sessions {
        end(state, &opened.session, Status::SessionEnded, "closed").await;
    }
}

/// Starts one client; its session is kept while it runs, and ended when it is done.
fn start_one(state: &Arc<State>, plan: &Arc<Plan>, opened: Opened, batches: Batches) {
    let (state, plan) = (Arc::clone(state), Arc::clone(plan));
    let runtime = state.runtime.clone();
    let (of_thread, session) = (Arc::clone(&state), Arc::clone(&opened.session));
    let after = runtime.clone();
    let failed = batches.clone();
    let started = thread("ferry-drive", move || {
        let outcome = client(&of_thread, &plan, &opened, &batches);
        if let Err(error) = outcome {
            plan.stop.store(true, Ordering::Relaxed);
            // A caller that went away needs no error.
            drop(batches.blocking_send(Err(error.into())));
        }
        let session = Arc::clone(&opened.session);
        after.spawn(async move {
            end(&of_thread, &session, Status::SessionEnded, "closed").await;
        });
    });
    if let Err(error) = started {
        runtime.spawn(async move {
            end(&state, &session, Status::SessionEnded, "closed").await;
            drop(failed.send(Err(error.into())).await);
        });
    }
}

/// The closed loop of one client.
fn client(state: &State, plan: &Plan, opened: &Opened, batches: &Batches) -> Result<(), ApiError> {
    let sink = Arc::new(Sink {
        warmup: plan.warmup,
        recorder: state.recorder.clone(),
        rows: Mutex::default(),
        lost: AtomicU64::new(0),
    });
    let (mut driver, table) = connect(opened, Arc::clone(&sink) as Arc<dyn RecordSink>)?;
    let reference = || batch_reference(opened.session.id);
    let all = plan.warmup.saturating_add(plan.requests);
    let mut sent = 0_u64;
    let mut kept = Instant::now();
    while sent < all || driver.in_flight() > 0 {
        while sent < all && (driver.in_flight() as usize) < plan.window {
            if !submit(&mut driver, &table, plan)? {
                break;
            }
            sent += 1;
        }
        driver.wait(Some(Instant::now() + LOOK_EVERY));
        while let Some(done) = driver.take() {
            drop(done);
        }
        if driver.state() != &ferry_transport::DriverState::Live {
            let text = format!("the local link ended: {:?}", driver.state());
            return Err(ApiError::Request { status: Status::SessionEnded, text });
        }
        if let Some(batch) = sink.batch(BATCH_ROWS, reference(), plan.run) {
            // Waiting for the caller would be load that stops: what has no room is lost, counted.
            give(batches, batch, &sink);
        }
        if kept.elapsed() > state.config.lease / 4 {
            opened.session.keep(state.config.lease);
            kept = Instant::now();
        }
        let over = Instant::now() >= plan.deadline;
        if over || batches.is_closed() || plan.stop.load(Ordering::Relaxed) {
            break;
        }
    }
    driver.flush();
    drop(driver);
    if let Some(batch) = sink.batch(1, reference(), plan.run) {
        drop(batches.blocking_send(Ok(batch)));
    }
    Ok(())
}

fn give(batches: &Batches, batch: v1::TimingBatch, sink: &Sink) {
    if let Err(mpsc::error::TrySendError::Full(Ok(batch))) = batches.try_send(Ok(batch)) {
        let rows = batch.request.len() as u64;
        sink.lost.fetch_add(rows.saturating_add(batch.lost), Ordering::Relaxed);
    }
}

/// Fills a slot and sends it; `false` if none is free.
fn submit(driver: &mut Driver, table: &Arc<SlotTable>, plan: &Plan) -> Result<bool, ApiError> {
    let Some(slot) = table.acquire() else { return Ok(false) };
    let filling = Instant::now();
    slot.request()
        .copy_in(0, &plan.payload)
        .map_err(|error| ApiError::Internal(error_text(&error)))?;
    let fill_ns = ferry_memory::between_ns(filling, Instant::now());
    driver
        .submit(slot, plan.payload.len(), plan.what, Some(fill_ns))
        .map_err(|error| ApiError::Internal(error.why.to_string()))?;
    Ok(true)
}
