//! Closed-loop load inside the server.

mod client;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferry_core::session::SLOTS_MAX;
use ferry_core::{Request, RequestKind, RequestRecord, SessionId, SessionSpec, Status};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{Inside, open, thread};
use crate::error::ApiError;
use crate::sessions::{Opened, Sessions};
use crate::store::Recorder;
use crate::tenants::{Identity, Tenant};

/// Most clients of one drive: each is a thread.
const CLIENTS_MAX: u32 = 64;

/// Most requests of one client: minutes at the highest rate.
const REQUESTS_MAX: u64 = 100_000_000;

/// Longest drive.
const TIME_MAX: Duration = Duration::from_secs(600);

/// Batches that wait for a slow caller.
const BATCHES_WAITING_MAX: usize = 16;

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
    /// Whose sessions they are.
    tenant: Arc<Tenant>,
    identity: Identity,
    deadline: Instant,
    /// Somebody failed, or the caller is gone.
    stop: AtomicBool,
    /// Its threads, of those that all drives may have.
    _drivers: OwnedSemaphorePermit,
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
/// sessions end with their threads, and these end when the caller goes away. Where replies have no
/// room, a client goes on in a session that has it, once; a second time the drive ends with
/// [`ApiError::ReplyTooLarge`].
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
    let plan = Arc::new(Plan {
        load,
        tenant: Arc::clone(who.tenant),
        identity: who.identity.clone(),
        deadline,
        stop: AtomicBool::new(false),
        _drivers: drivers,
    });
    let (sender, receiver) = mpsc::channel(BATCHES_WAITING_MAX);
    for opened in sessions {
        start_one(server, &plan, opened, sender.clone());
    }
    Ok(receiver)
}

async fn close(server: &Server, opened: &Opened) {
    server.sessions.end(&opened.session, Status::SessionEnded, "closed").await;
}

/// Starts one client, which ends its session when it is done.
fn start_one(server: &Server, plan: &Arc<Plan>, opened: Opened, batches: Sender) {
    let (plan, opened) = (Arc::clone(plan), Arc::new(opened));
    let (of_thread, of_client, failed) = (server.clone(), Arc::clone(&opened), batches.clone());
    let started = thread("ferry-drive", move || {
        if let Err(error) = client::run(&of_thread, &plan, of_client, &batches) {
            plan.stop.store(true, Ordering::Relaxed);
            // A caller that went away needs no error.
            drop(batches.blocking_send(Err(error)));
        }
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
