//! Looks at the model folder every now and then.

use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::models::{ModelControl, Watch};
use crate::state::State;

/// Starts to look, where the operator wants it.
pub(super) fn start(state: &Arc<State>) -> Option<JoinHandle<()>> {
    let ModelControl::Poll(every) = state.config.model_control else { return None };
    let state = Arc::clone(state);
    Some(tokio::spawn(async move {
        let mut watch = Watch::default();
        loop {
            tokio::time::sleep(every).await;
            if state.takes_new().is_err() {
                return;
            }
            let models = Arc::clone(&state.models);
            let looked = tokio::task::spawn_blocking(move || {
                let looked = models.look(&mut watch);
                (looked, watch)
            });
            let Ok((looked, next)) = looked.await else {
                tracing::error!("looking at the model folder panicked: it is not looked at again");
                return;
            };
            watch = next;
            match looked {
                Ok(turnover) => state.turn_over(&turnover),
                Err(error) => {
                    tracing::error!(%error, "the model folder cannot be read: all stays as it is");
                }
            }
        }
    }))
}
