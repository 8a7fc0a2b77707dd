//! Closed-loop load inside the server.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferry_core::session::SLOTS_MAX;
use ferry_core::{Request, RequestKind, RequestRecord, SessionId, SessionSpec, Status, error_text};
use ferry_memory::{SlotTable, between_ns};
use ferry_transport::{Driver, DriverState, RecordSink};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{Inside, connect, open, thread};
use crate::error::ApiError;
use crate::sessions::{Opened, Sessions};
use crate::store::Recorder;

/// Most clients of one drive: each is a thread.
const CLIENTS_MAX: u32 = 64;

/// Most requests of one client: minutes at the highest rate.
const REQUESTS_MAX: u64 = 100_000_000;

/// Longest drive.
const TIME_MAX: Duration = Duration::from_secs(600);

/// Rows after which a batch is sent.
const BATCH_ROWS: usize = 4096;

/// Most rows that a client keeps for a slow caller; further ones are lost to the caller, counted.
const ROWS_KEPT_MAX: usize = 16 * 1024;

/// Batches that wait for a slow caller.
const BATCHES_WAITING_MAX: usize = 16;

/// How long a client waits for one reply before it looks whether it should stop.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The load that is asked for.
#[derive(Clone, Debug)]
pub struct Load {
    /// The session of each client; transport, slots and who records are set here.
    pub session: SessionSpec,
    /// How many clients.
    pub clients: u32,
    /// Requests of each.
    pub requests: u64,
    /// Requests of each before those, which nobody records.
    pub warmup: u64,
    /// Requests of each that are in flight at a time.
    pub window: u32,
    /// What each request is.
    pub what: Request,
    /// The payload of each; empty: zeros of the right length.
    pub payload: Bytes,
}

/// Timings of one client, as they are made.
#[derive(Debug)]
pub struct Rows {
    /// Its session.
    pub session: SessionId,
    /// Their run.
    pub run: i64,
    /// The timings.
    pub rows: Vec<RequestRecord>,
    /// Timings that did not come this far since the last ones that did.
    pub lost: u64,
}

/// What the caller gets, until all clients are done.
pub type Batches = mpsc::Receiver<Result<Rows, ApiError>>;

type Sender = mpsc::Sender<Result<Rows, ApiError>>;

/// What the clients of one drive need of the server.
#[derive(Clone, Debug)]
pub struct Server {
    /// Opens their sessions.
    pub sessions: Arc<Sessions>,
    /// Keeps their timings.
    pub recorder: Recorder,
    /// Ends their sessions after them.
    pub runtime: Handle,
    /// Threads that all drives together may have.
    pub driving: Arc<Semaphore>,
}

impl Server {
    /// Threads for one drive, of those that all drives may have.
    ///
    /// # Errors
    /// [`ApiError::Busy`] if there are not so many left.
    fn drivers(&self, threads: u32) -> Result<OwnedSemaphorePermit, ApiError> {
        let left = self.driving.available_permits();
        Arc::clone(&self.driving).try_acquire_many_owned(threads).map_err(|_too_many| {
            ApiError::Busy(format!(
                "{threads} clients inside the server; there is room for {left}: ask for fewer, or \
                 wait for other drives"
            ))
        })
    }
}

/// What every client of one drive does.
#[derive(Debug)]
struct Plan {
    load: Load,
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
        if rows.len() < ROWS_KEPT_MAX {
            rows.push(record);
        } else {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Sink {
    /// The rows so far, if there are at least `at_least`.
    fn rows(&self, at_least: usize, session: SessionId, run: i64) -> Option<Rows> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if rows.len() < at_least {
            return None;
        }
        let rows = std::mem::take(&mut *rows);
        Some(Rows { session, run, rows, lost: self.lost.swap(0, Ordering::Relaxed) })
    }
}

fn check(load: &Load) -> Result<(), ApiError> {
    let within = |field, value: u64, max: u64| {
        let why = || ApiError::field(field, format!("{value}; allowed are 1 to {max}"));
        (1..=max).contains(&value).then_some(()).ok_or_else(why)
    };
    within("clients", u64::from(load.clients), u64::from(CLIENTS_MAX))?;
    within("requests", load.requests, REQUESTS_MAX)?;
    within("window", u64::from(load.window), u64::from(SLOTS_MAX))?;
    within("warmup", load.warmup.max(1), REQUESTS_MAX)
}

/// Opens the sessions and starts a thread for each; the timings come as they are made. The
/// sessions end with their threads, and these end when the caller goes away.
///
/// # Errors
/// [`ApiError`] if the load has no meaning or a session cannot be opened.
pub async fn start(server: &Server, who: Inside<'_>, mut load: Load) -> Result<Batches, ApiError> {
    load.window = load.window.max(1);
    check(&load)?;
    let drivers = server.drivers(load.clients)?;
    load.session.slots = load.window;
    load.session.request_bytes_min = load.session.request_bytes_min.max(load.payload.len() as u64);
    let mut sessions = Vec::new();
    for _ in 0..load.clients {
        match open(&server.sessions, who, load.session.clone()).await {
            Ok(opened) => sessions.push(opened),
            Err(error) => {
                for opened in &sessions {
                    close(server, opened).await;
                }
                return Err(error);
            }
        }
    }
    if load.payload.is_empty()
        && load.what.kind == RequestKind::Tensor
        && let Some(first) = sessions.first()
    {
        let bytes = first.session.agreed.binding.request_bytes();
        load.payload = vec![0; usize::try_from(bytes).unwrap_or(0)].into();
    }
    let deadline = Instant::now() + TIME_MAX;
    let plan = Arc::new(Plan { load, deadline, stop: AtomicBool::new(false), _drivers: drivers });
    let (sender, receiver) = mpsc::channel(BATCHES_WAITING_MAX);
    for opened in sessions {
        start_one(server, &plan, opened, sender.clone());
    }
    Ok(receiver)
}

async fn close(server: &Server, opened: &Opened) {
    server.sessions.end(&opened.session, Status::SessionEnded, "closed").await;
}

/// Starts one client; its session is kept while it runs, and ended when it is done.
fn start_one(server: &Server, plan: &Arc<Plan>, opened: Opened, batches: Sender) {
    let (plan, opened) = (Arc::clone(plan), Arc::new(opened));
    let (of_thread, of_client, failed) = (server.clone(), Arc::clone(&opened), batches.clone());
    let started = thread("ferry-drive", move || {
        if let Err(error) = client(&of_thread, &plan, &of_client, &batches) {
            plan.stop.store(true, Ordering::Relaxed);
            // A caller that went away needs no error.
            drop(batches.blocking_send(Err(error)));
        }
        let runtime = of_thread.runtime.clone();
        runtime.spawn(async move { close(&of_thread, &of_client).await });
    });
    if let Err(error) = started {
        let server = server.clone();
        let runtime = server.runtime.clone();
        runtime.spawn(async move {
            close(&server, &opened).await;
            drop(failed.send(Err(error)).await);
        });
    }
}

/// The closed loop of one client.
fn client(server: &Server, plan: &Plan, opened: &Opened, batches: &Sender) -> Result<(), ApiError> {
    let load = &plan.load;
    let sink = Arc::new(Sink {
        warmup: load.warmup,
        recorder: server.recorder.clone(),
        rows: Mutex::default(),
        lost: AtomicU64::new(0),
    });
    let (mut driver, table) = connect(opened, Arc::clone(&sink) as Arc<dyn RecordSink>)?;
    let (id, run, lease) = (opened.session.id, opened.session.run, server.sessions.lease());
    let all = load.warmup.saturating_add(load.requests);
    let mut sent = 0_u64;
    let mut kept = Instant::now();
    while sent < all || driver.in_flight() > 0 {
        while sent < all && driver.in_flight() < load.window {
            if !submit(&mut driver, &table, load)? {
                break;
            }
            sent += 1;
        }
        driver.wait(Some(Instant::now() + LOOK_EVERY));
        while let Some(done) = driver.take() {
            drop(done);
        }
        if driver.state() != &DriverState::Live {
            let text = format!("the local link ended: {:?}", driver.state());
            return Err(ApiError::Request { status: Status::SessionEnded, text });
        }
        if let Some(rows) = sink.rows(BATCH_ROWS, id, run) {
            // Waiting for the caller would be load that stops: what has no room is lost, counted.
            give(batches, rows, &sink);
        }
        if kept.elapsed() > lease / 4 {
            opened.session.keep(lease);
            kept = Instant::now();
        }
        let over = Instant::now() >= plan.deadline;
        if over || batches.is_closed() || plan.stop.load(Ordering::Relaxed) {
            break;
        }
    }
    driver.flush();
    drop(driver);
    if let Some(rows) = sink.rows(1, id, run) {
        drop(batches.blocking_send(Ok(rows)));
    }
    Ok(())
}

fn give(batches: &Sender, rows: Rows, sink: &Sink) {
    if let Err(mpsc::error::TrySendError::Full(Ok(rows))) = batches.try_send(Ok(rows)) {
        let lost = rows.lost.saturating_add(rows.rows.len() as u64);
        sink.lost.fetch_add(lost, Ordering::Relaxed);
    }
}

/// Fills a slot and sends it; `false` if none is free.
fn submit(driver: &mut Driver, table: &Arc<SlotTable>, load: &Load) -> Result<bool, ApiError> {
    let Some(mut slot) = table.acquire() else { return Ok(false) };
    let filling = Instant::now();
    slot.request_mut()
        .copy_in(0, &load.payload)
        .map_err(|error| ApiError::Internal(error_text(&error)))?;
    let fill_ns = between_ns(filling, Instant::now());
    driver
        .submit(slot, load.payload.len(), load.what, Some(fill_ns))
        .map_err(|error| ApiError::Internal(error.why.to_string()))?;
    Ok(true)
}
