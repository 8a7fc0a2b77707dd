//! What all services share: handles, each to a part that owns what it needs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::Finding;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};

use crate::config::Config;
use crate::error::ApiError;
use crate::models::{Models, Turnover, Used};
use crate::runs::RunBook;
use crate::sampler::LastGpus;
use crate::serving::gate::Gate;
use crate::serving::inline::Inline;
use crate::serving::lanes::Lanes;
use crate::serving::refusals::Refusals;
use crate::serving::regions::Regions;
use crate::serving::residents::Residents;
use crate::sessions::Sessions;
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
    pub models: Arc<Models>,
    /// Brings those back that made room.
    pub residents: Arc<Residents>,
    /// The live sessions.
    pub sessions: Arc<Sessions>,
    /// Serves requests without a session.
    pub inline: Inline,
    /// Shared memory that clients registered.
    pub regions: Regions,
    /// The lanes.
    pub lanes: Arc<Lanes>,
    /// Who may use it.
    pub tenants: Tenants,
    /// Where runs and timings go.
    pub store: Arc<dyn TimingStore>,
    /// What the GPUs of the models used last.
    pub gpus: Arc<LastGpus>,
    /// The near end of the store.
    pub recorder: Recorder,
    /// What was tried and not allowed.
    pub refusals: Arc<Refusals>,
    /// The runs that clients may name.
    pub runs: Arc<RunBook>,
    /// Threads that drive load inside the server.
    pub driving: Arc<Semaphore>,
    /// Whether anything new is taken.
    pub gate: Arc<Gate>,
    /// What does not change while it serves.
    pub about: About,
    /// Where work runs that is finished even if the control plane is restarted meanwhile.
    pub runtime: Handle,
    /// To be notified when the control plane is to be restarted.
    pub restart: Notify,
}

/// What is known of a server from its start on.
#[derive(Debug)]
pub struct About {
    /// What was found on this machine.
    pub findings: Arc<[Finding]>,
    /// The machine, for runs.
    pub machine: Machine,
    /// Versions of the native libraries, a JSON object.
    pub libraries_json: String,
    /// The server's own run.
    pub own_run: i64,
    /// When it was built.
    pub started: Instant,
}

impl State {
    /// Whether new sessions and calls are taken.
    ///
    /// # Errors
    /// [`ApiError::Draining`] if not.
    pub fn takes_new(&self) -> Result<(), ApiError> {
        self.gate.takes_new()
    }

    /// Ends models that serve nobody new, whatever becomes of the caller.
    pub fn turn_over(&self, turnover: &Turnover) {
        for old in &turnover.retired {
            let is_next = |new: &&Used| (&new.name, new.version) == (&old.name, old.version);
            let new = turnover.made.iter().find(is_next).cloned();
            let (sessions, old) = (Arc::clone(&self.sessions), Arc::clone(old));
            self.runtime.spawn(async move { sessions.replace(old, new).await });
        }
    }

    /// Requests that are being served, on lanes and in calls.
    pub fn in_flight(&self) -> u64 {
        self.tenants.in_flight().max(self.lanes.in_flight())
    }

    /// Refuses what is new, and waits for at most `at_most` for what is in flight; how much of
    /// that is left.
    pub async fn drain(&self, at_most: Duration) -> u64 {
        if self.gate.close() {
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
