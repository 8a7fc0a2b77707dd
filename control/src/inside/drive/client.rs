//! One client of a drive: a closed loop on a thread of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ferry_core::{
    BoundSignature, OutputShapes, RequestRecord, SessionId, SessionSpec, Status, error_text,
    payload_bytes,
};
use ferry_memory::{SlotTable, between_ns};
use ferry_transport::{Completion, Driver, DriverState, RecordSink};
use tokio::sync::mpsc;

use super::{Load, Plan, Rows, Sender, Server, close};
use crate::error::ApiError;
use crate::inside::{Inside, connect, open};
use crate::sessions::Opened;
use crate::store::Recorder;

/// Rows after which a batch is sent.
const BATCH_ROWS: usize = 4096;

/// Most rows that a client keeps for a slow caller; further ones are lost to the caller, counted.
const ROWS_KEPT_MAX: usize = 16 * 1024;

/// How long a client waits for one reply before it looks whether it should stop.
const LOOK_EVERY: Duration = Duration::from_millis(200);

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
        if record.status == Status::ReplyTooLarge {
            // It is sent once more, or the caller is told why not.
            return;
        }
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
    fn rows(&self, at_least: usize, opened: &Opened) -> Option<Rows> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        if rows.len() < at_least {
            return None;
        }
        let rows = std::mem::take(&mut *rows);
        let (session, run): (SessionId, i64) = (opened.session.id, opened.session.run);
        Some(Rows { session, run, rows, lost: self.lost.swap(0, Ordering::Relaxed) })
    }

    fn give(&self, batches: &Sender, rows: Rows) {
        // Waiting for the caller would be load that stops: what has no room is lost, counted.
        if let Err(mpsc::error::TrySendError::Full(Ok(rows))) = batches.try_send(Ok(rows)) {
            let lost = rows.lost.saturating_add(rows.rows.len() as u64);
            self.lost.fetch_add(lost, Ordering::Relaxed);
        }
    }
}

/// How far a client has come.
#[derive(Debug, Default)]
struct Lap {
    /// Requests that ended, but for those whose replies had no room.
    done: u64,
    /// Those of them that were sent after the warm-up.
    measured: u64,
    /// A reply that had no room.
    too_large: Option<TooLarge>,
}

#[derive(Debug)]
struct TooLarge {
    outputs: Option<Box<OutputShapes>>,
    text: String,
}

impl TooLarge {
    /// The room that the reply takes, in bytes; nothing where that is not known.
    fn bytes(&self, agreed: &BoundSignature) -> Option<u64> {
        Some(payload_bytes(&agreed.parts(self.outputs.as_deref()?)?))
    }

    fn error(self) -> ApiError {
        ApiError::ReplyTooLarge { outputs: self.outputs, text: self.text }
    }
}

/// Sends all requests of one client, and ends its session.
///
/// # Errors
/// Why it cannot go on; [`ApiError::ReplyTooLarge`] if replies have no room a second time.
pub(super) fn run(
    server: &Server,
    plan: &Plan,
    opened: Arc<Opened>,
    batches: &Sender,
) -> Result<(), ApiError> {
    let runtime = &server.runtime;
    let lap = requests(server, plan, &opened, Lap::default(), batches);
    // Its quota may be needed for the next one.
    runtime.block_on(close(server, &opened));
    let mut lap = lap?;
    let Some(too_large) = lap.too_large.take() else { return Ok(()) };
    let agreed = &opened.session.agreed.binding;
    let Some(bytes) = too_large.bytes(agreed) else { return Err(too_large.error()) };
    tracing::info!(
        model = plan.load.session.model, session = %opened.session.id, reply_bytes = bytes,
        "the model's outputs have no room in a session of a drive: it goes on in one that has it"
    );
    let spec = SessionSpec { reply_bytes_min: bytes, ..plan.load.session.clone() };
    let who = Inside { tenant: &plan.tenant, identity: &plan.identity };
    let opened = runtime.block_on(open(&server.sessions, who, spec))?;
    let lap = requests(server, plan, &opened, lap, batches);
    runtime.block_on(close(server, &opened));
    lap?.too_large.map_or(Ok(()), |too_large| Err(too_large.error()))
}

/// The closed loop over one session, from where the one before ended: until all requests are done,
/// or a reply has no room.
fn requests(
    server: &Server,
    plan: &Plan,
    opened: &Opened,
    mut lap: Lap,
    batches: &Sender,
) -> Result<Lap, ApiError> {
    let load = &plan.load;
    // Numbers go on with what is done, so that what was measured stands in for warm-up requests
    // that had no room.
    let warmup = load.warmup.saturating_add(lap.measured);
    let sink = Arc::new(Sink {
        warmup,
        recorder: server.recorder.clone(),
        rows: Mutex::default(),
        lost: AtomicU64::new(0),
    });
    let of_driver = Arc::clone(&sink) as Arc<dyn RecordSink>;
    let (mut driver, table) = connect(opened, lap.done + 1, of_driver)?;
    let lease = server.sessions.lease();
    let all = load.warmup.saturating_add(load.requests);
    let mut sent = lap.done;
    let mut kept = Instant::now();
    while (sent < all && lap.too_large.is_none()) || driver.in_flight() > 0 {
        while sent < all && lap.too_large.is_none() && driver.in_flight() < load.window {
            if !submit(&mut driver, &table, load)? {
                break;
            }
            sent += 1;
        }
        driver.wait(Some(Instant::now() + LOOK_EVERY));
        while let Some(done) = driver.take() {
            lap.note(done, warmup);
        }
        if driver.state() != &DriverState::Live {
            let text = format!("the local link ended: {:?}", driver.state());
            return Err(ApiError::Request { status: Status::SessionEnded, text });
        }
        if let Some(rows) = sink.rows(BATCH_ROWS, opened) {
            sink.give(batches, rows);
        }
        if kept.elapsed() > lease / 4 {
            opened.session.keep(lease);
            kept = Instant::now();
        }
        let over = Instant::now() >= plan.deadline;
        if over || batches.is_closed() || plan.stop.load(Ordering::Relaxed) {
            // Nobody waits for what is left.
            lap.too_large = None;
            break;
        }
    }
    driver.flush();
    drop(driver);
    if let Some(rows) = sink.rows(1, opened) {
        drop(batches.blocking_send(Ok(rows)));
    }
    Ok(lap)
}

impl Lap {
    fn note(&mut self, done: Completion, warmup: u64) {
        if done.status != Status::ReplyTooLarge {
            self.done += 1;
            self.measured += u64::from(done.request > warmup);
            return;
        }
        let reply = done.slot.as_ref().and_then(|slot| slot.reply_bytes()).unwrap_or_default();
        let text = reply.get(..done.payload_bytes).unwrap_or_default();
        let text = String::from_utf8_lossy(text).into_owned();
        self.too_large = Some(TooLarge { outputs: done.outputs, text });
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
