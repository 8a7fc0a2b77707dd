//! Ends sessions whose lease ran out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::Status;

use super::{Session, end};
use crate::state::State;

/// Longest time between two looks. A session that is not kept is gone at most this, or an eighth
/// of a lease, after its lease.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(1);

/// Shortest time between two looks.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(5);

/// Gives every lease a whole one: for a restart of the control plane, while which no client can
/// keep its sessions.
pub fn grace(state: &State) {
    for session in state.sessions.all() {
        session.keep(state.config.lease);
    }
}

/// Looks at all leases, again and again. Never ends; whoever started it aborts it.
pub async fn keep(state: Arc<State>) {
    let every = (state.config.lease / 8).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX);
    let mut looks = tokio::time::interval(every);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let now = Instant::now();
        let over = |session: &Arc<Session>| session.lease().expires <= now;
        for session in state.sessions.all().into_iter().filter(over) {
            if end(&state, &session, Status::SessionEnded, "expired").await {
                tracing::warn!(session = %session.id, "lease ran out: no heartbeat in time");
            }
        }
        state.refusals.flush();
    }
}
