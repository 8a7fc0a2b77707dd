//! The end of a model, and of its sessions with it.

use std::sync::Arc;
use std::time::Duration;

use ferry_core::Status;

use super::Sessions;
use crate::host::clock::unix_ns;
use crate::models::Served;
use crate::store::Event;

/// How long a model that is unloaded may take over what it has in flight.
const RETIRE_WAIT: Duration = Duration::from_secs(30);

/// How often one looks whether its last replies went to their lanes.
const RETIRE_LOOK: Duration = Duration::from_millis(2);

impl Sessions {
    /// Ends a model that is not listed any more: finishes what is in flight, then its sessions.
    pub async fn retire(&self, served: Arc<Served>) {
        let pool = Arc::clone(&served);
        let finished = tokio::task::spawn_blocking(move || pool.pool.shutdown(RETIRE_WAIT)).await;
        match finished {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(model = served.label(), %error, "unloaded by force"),
            Err(error) => tracing::error!(model = served.label(), %error, "unloading panicked"),
        }
        let sessions = self.all();
        for session in sessions.iter().filter(|session| Arc::ptr_eq(&session.served, &served)) {
            // The pool is empty; the last replies may still be on their way to the lane.
            let looks = RETIRE_WAIT.as_millis() / RETIRE_LOOK.as_millis();
            for _ in 0..looks {
                if session.meter.in_flight() == 0 {
                    break;
                }
                tokio::time::sleep(RETIRE_LOOK).await;
            }
            self.end(session, Status::SessionEnded, "model unloaded").await;
        }
        self.parts.recorder.event(Event::Unloaded {
            name: served.name.clone(),
            version: served.version.to_string(),
            loaded_unix_ns: served.loaded_unix_ns,
            unix_ns: unix_ns(),
        });
        tracing::info!(model = served.label(), "model unloaded");
    }
}
