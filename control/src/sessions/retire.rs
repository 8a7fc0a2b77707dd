//! The end of a model, and of its sessions with it.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ferry_core::Status;

use super::{Place, Session, Sessions};
use crate::models::{Served, Used};

/// How long a model that is unloaded may take over what it has in flight.
const RETIRE_WAIT: Duration = Duration::from_secs(30);

/// How often one looks whether its last replies went to their lanes.
const RETIRE_LOOK: Duration = Duration::from_millis(2);

/// How long a model that was loaded again serves on beside the one that took its place. A request
/// that found the old one is with it after microseconds; this is for threads that do not run.
const OVERLAP: Duration = Duration::from_secs(1);

impl Sessions {
    /// Ends a model whose place another one took, `new` if that is the same version. Sessions to
    /// which the new one is as the old one was stay and go on with it; no request is refused that
    /// had found the old one.
    pub async fn replace(&self, old: Arc<Served>, new: Option<Used>) {
        if let Some(new) = &new {
            self.move_over(&old, new).await;
        }
        tokio::time::sleep(OVERLAP).await;
        if let Some(new) = &new {
            // Those that were being opened.
            self.move_over(&old, new).await;
        }
        self.retire(old).await;
    }

    async fn move_over(&self, old: &Arc<Served>, new: &Used) {
        for session in self.all() {
            let turn = session.turn.lock().await;
            let is_its = Arc::ptr_eq(&session.served(), old) && !session.lease().over;
            if is_its && suits(&session, old, new) {
                *session.model.lock().unwrap_or_else(PoisonError::into_inner) = new.by_session();
                if let Place::Lane(lane) = &session.place {
                    lane.routes.put(session.id, session.route());
                }
            }
            drop(turn);
        }
    }

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
        for session in sessions.iter().filter(|session| Arc::ptr_eq(&session.served(), &served)) {
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
        self.parts.recorder.event(served.unloaded_event());
        tracing::info!(model = served.label(), "model unloaded");
    }
}

/// Whether everything that the client of a session was told of `old` holds for `new`.
fn suits(session: &Session, old: &Served, new: &Served) -> bool {
    let binding = &session.agreed.binding;
    let tensors = binding.inputs.iter().chain(&binding.outputs);
    let shapes: Vec<_> = tensors.map(|it| (it.name.clone(), it.shape.clone())).collect();
    let device = |served: &Served| served.device.as_ref().map(|device| device.ordinal());
    old.signature() == new.signature()
        && device(old) == device(new)
        && old.metadata.labels == new.metadata.labels
        && old.metadata.picture == new.metadata.picture
        && new.bind(&shapes).is_ok_and(|bound| bound == **binding)
}
