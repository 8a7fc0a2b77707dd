//! Every counter of the server at one instant, as plain data. Units stand in the names; what has
//! none is a count since the start, or of now where the name says so.

mod families;
mod page;
mod told;

use std::time::Duration;

use ferry_core::Transport;
use ferry_engine::PoolStats;
use ferry_transport::LaneStats;

use crate::host::machine;
use crate::models::{Memory, Presence, State as ModelState};
use crate::serving::refusals::RefusalCount;
use crate::state::State;
use crate::store::{ResourceSample, StoreHealth};
use crate::tenants::Held;

pub use families::{FAMILIES, Family, Kind};
pub use page::{Format, Page};
pub use told::page;

/// All of it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Since the server was built.
    pub uptime: Duration,
    /// Nothing new is taken.
    pub is_draining: bool,
    /// Live sessions.
    pub sessions_now: u64,
    /// Requests being served, on lanes and in calls.
    pub in_flight_now: u64,
    /// Transports that a session can be opened with.
    pub transports: Vec<Transport>,
    /// The store.
    pub store: StoreHealth,
    /// Each lane.
    pub lanes: Vec<LaneMetrics>,
    /// Each model that serves.
    pub models: Vec<ModelMetrics>,
    /// What models take of memory.
    pub memory: Vec<Memory>,
    /// Each tenant.
    pub tenants: Vec<TenantMetrics>,
    /// Refused attempts, by kind.
    pub refusals: Vec<RefusalCount>,
    /// What process and machine have used; `None` where the system does not tell.
    pub resources: Option<ResourceSample>,
}

/// One lane.
#[derive(Clone, Debug)]
pub struct LaneMetrics {
    /// Its name.
    pub name: String,
    /// Sessions on it.
    pub sessions_now: u64,
    /// Its thread runs.
    pub is_alive: bool,
    /// What it counts.
    pub stats: LaneStats,
}

/// One model.
#[derive(Clone, Debug)]
pub struct ModelMetrics {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u64,
    /// How it is, or was, in memory.
    pub presence: Presence,
    /// What its pool counts; all zero where it is not in memory.
    pub pool: PoolStats,
}

/// One tenant.
#[derive(Clone, Debug)]
pub struct TenantMetrics {
    /// Its name.
    pub name: String,
    /// What its sessions hold.
    pub held_now: Held,
    /// Its requests being served.
    pub in_flight_now: u64,
}

/// Reads every counter. Each is right by itself; together they are of almost one instant.
pub fn gather(state: &State) -> Snapshot {
    let tenants = state.tenants.all().map(|tenant| TenantMetrics {
        name: tenant.name().to_owned(),
        held_now: tenant.held(),
        in_flight_now: tenant.in_flight(),
    });
    let lanes = state.lanes.0.iter().map(|lane| LaneMetrics {
        name: lane.name.clone(),
        sessions_now: lane.sessions_now(),
        is_alive: lane.handle.ended().is_none(),
        stats: lane.handle.stats(),
    });
    let models = state.models.list().into_iter().filter_map(|listed| {
        Some(ModelMetrics {
            name: listed.name,
            version: listed.version,
            presence: listed.presence?,
            pool: match listed.state {
                ModelState::Loaded(served) => served.pool.stats(),
                _ => PoolStats::default(),
            },
        })
    });
    Snapshot {
        uptime: state.about.started.elapsed(),
        is_draining: state.takes_new().is_err(),
        sessions_now: state.sessions.count() as u64,
        in_flight_now: state.in_flight(),
        transports: state.sessions.transports(),
        store: state.recorder.health(),
        lanes: lanes.collect(),
        models: models.collect(),
        memory: state.models.memory(),
        tenants: tenants.collect(),
        refusals: state.refusals.counts(),
        resources: machine::sample(),
    }
}
