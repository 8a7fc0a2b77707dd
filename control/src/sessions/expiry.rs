//! Ends sessions whose lease ran out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::Status;

use super::{Session, Sessions};

/// Longest time between two looks. A session that is not kept is gone at most this, or an eighth
/// of a lease, after its lease.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(1);

/// Shortest time between two looks.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(5);

impl Sessions {
    /// Gives every lease a whole one: for a restart of the control plane, during which no client
    /// can keep its sessions.
    pub fn grace_leases(&self) {
        for session in self.all() {
            session.keep(self.lease());
        }
    }

    /// Looks at all leases, again and again. Never ends; whoever started it aborts it.
    pub async fn keep_leases(self: Arc<Self>) {
        let every = (self.lease() / 8).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX);
        let mut looks = tokio::time::interval(every);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let now = Instant::now();
            let over = |session: &Arc<Session>| session.lease().expires <= now;
            for session in self.all().into_iter().filter(over) {
                if self.end(&session, Status::SessionEnded, "expired").await {
                    tracing::warn!(session = %session.id, "lease ran out: no heartbeat in time");
                }
            }
        }
    }
}
