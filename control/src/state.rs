//! What all services share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ferry_core::Transport;
use ferry_proto::v1;

use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::config::Config;
use crate::error::ApiError;
use crate::models::Models;
use crate::runs::RunBook;
use crate::serving::lanes::Lanes;
use crate::serving::refusals::Refusals;
use crate::sessions::{Sessions, Standing};
use crate::store::{Machine, Recorder, TimingStore};
use crate::tenants::Tenants;

/// How often a drain looks whether all is done.
const DRAIN_LOOK: Duration = Duration::from_millis(5);

/// The server, without its sockets.
#[derive(Debug)]
pub struct State {
    /// What it was built from.
    pub config: Config,
    /// The models.
    pub models: Models,
    /// The live sessions.
    pub sessions: Sessions,
    /// What requests without a session are stored under.
    pub standing: Standing,
    /// The lanes.
    pub lanes: Lanes,
    /// Who may use it.
    pub tenants: Tenants,
    /// Where runs and timings go.
    pub store: Arc<dyn TimingStore>,
    /// The near end of the store.
    pub recorder: Recorder,
    /// What was tried and not allowed.
    pub refusals: Arc<Refusals>,
    /// What was found on this machine.
    pub findings: Vec<v1::Finding>,
    /// The runs that clients may name.
    pub runs: RunBook,
    /// Threads that drive load inside the server.
    pub driving: Arc<Semaphore>,
    /// The machine, for runs.
    pub machine: Machine,
    /// Versions of the native libraries, a JSON object.
    pub libraries_json: String,
    /// The server's own run.
    pub own_run: i64,
    /// When it was built.
    pub started: Instant,
    /// Nothing new is taken.
    pub draining: AtomicBool,
    /// Where work runs that is finished even if the control plane is restarted meanwhile.
    pub runtime: Handle,
    /// To be notified when the control plane is to be restarted.
    pub restart: Notify,
}

impl State {
    /// Whether new sessions and calls are taken.
    ///
    /// # Errors
    /// [`ApiError::Draining`] if not.
    pub fn takes_new(&self) -> Result<(), ApiError> {
        if self.draining.load(Ordering::SeqCst) { Err(ApiError::Draining) } else { Ok(()) }
    }

    /// The transports that a client can open a session with.
    pub fn transports(&self) -> Vec<Transport> {
        let lives = |it: &Transport| self.lanes.best(*it).is_some() || *it == Transport::Grpc;
        // Carried by another transport's lanes, and usable where what else they need was found.
        let usable = |it: &Transport| {
            let is_it =
                |finding: &&v1::Finding| finding.area == "transport" && finding.name == it.name();
            !it.is_device() || self.findings.iter().find(is_it).is_some_and(|it| it.usable)
        };
        Transport::ALL.into_iter().filter(lives).filter(usable).collect()
    }

    /// Threads for one drive, of those that all drives may have.
    ///
    /// # Errors
    /// [`ApiError::Busy`] if there are not so many left.
    pub fn drivers(&self, threads: u32) -> Result<OwnedSemaphorePermit, ApiError> {
        let left = self.driving.available_permits();
        Arc::clone(&self.driving).try_acquire_many_owned(threads).map_err(|_too_many| {
            ApiError::Busy(format!(
                "{threads} clients inside the server; there is room for {left}: ask for fewer, or \
                 wait for other drives"
            ))
        })
    }

    /// Requests that are being served, on lanes and in calls.
    pub fn in_flight(&self) -> u64 {
        self.tenants.in_flight().max(self.lanes.in_flight())
    }

    /// Refuses what is new, and waits for at most `at_most` for what is in flight; how much of
    /// that is left.
    pub async fn drain(self: &Arc<Self>, at_most: Duration) -> u64 {
        if !self.draining.swap(true, Ordering::SeqCst) {
            tracing::info!("draining: sessions and requests that are new are refused");
        }
        for lane in &self.lanes.0 {
            let handle = lane.handle.clone();
            let drained = tokio::task::spawn_blocking(move || handle.drain()).await;
            if !matches!(drained, Ok(Ok(()))) {
                tracing::warn!(lane = lane.name, "the lane does not drain: {drained:?}");
            }
        }
        let deadline = Instant::now() + at_most;
        loop {
            let left = self.in_flight();
            if left == 0 || Instant::now() >= deadline {
                return left;
            }
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    }
}
