//! The server as a whole: control plane, keepers, and the way to an orderly end.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::control_plane::ControlPlane;
use super::{BuildError, Server};
use crate::config::Config;
use crate::sampler::{self, Sampled};
use crate::state::State;

/// Takes the control plane's address.
///
/// # Errors
/// [`BuildError::Listen`] names the address and what to do.
pub async fn bind(config: &Config) -> Result<TcpListener, BuildError> {
    TcpListener::bind(&config.listen).await.map_err(|source| BuildError::Listen {
        address: config.listen.clone(),
        fix: match source.kind() {
            std::io::ErrorKind::AddrInUse => {
                "another process has the port: stop it, or take another with --listen HOST:PORT \
                 (port 0 lets the system choose)"
            }
            std::io::ErrorKind::AddrNotAvailable => {
                "give --listen an address of this machine, such as 127.0.0.1"
            }
            std::io::ErrorKind::PermissionDenied => {
                "ports below 1024 need privileges: take a higher one"
            }
            _ => "check --listen",
        },
        source,
    })
}

impl Server {
    /// What the services share; for tests and embedders.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Serves until `shutdown` is done, then drains: what is new is refused, what is in flight is
    /// finished within the configured bound, timings are stored, the run is finished.
    ///
    /// [`State::restart`] ends the control plane as if it were killed, and starts another on the
    /// same address; sessions and what is in flight on their links are not touched.
    ///
    /// # Errors
    /// What the transport says if it cannot serve.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> anyhow::Result<()> {
        let state = Arc::clone(&self.state);
        let leases = tokio::spawn(Arc::clone(&state.sessions).keep_leases());
        let refusals = tokio::spawn(Arc::clone(&state.refusals).keep_telling());
        let every = state.config.sample_every;
        let sampled = Sampled {
            models: Arc::clone(&state.models),
            sessions: Arc::clone(&state.sessions),
            runs: Arc::clone(&state.runs),
            recorder: state.recorder.clone(),
        };
        let samples = tokio::spawn(sampler::keep(sampled, every));
        let listener = listener.into_std()?;
        let mut plane = ControlPlane::start(&state, &listener).await?;
        let mut shutdown = std::pin::pin!(shutdown);
        let ended_early = loop {
            tokio::select! {
                () = &mut shutdown => break None,
                ended = plane.ended() => break Some(ended),
                () = state.restart.notified() => {
                    tracing::warn!("the control plane is restarted; the data plane goes on");
                    // No lease runs out because nobody could keep it.
                    state.sessions.grace_leases();
                    drop(plane);
                    plane = ControlPlane::start(&state, &listener).await?;
                }
            }
        };
        plane.announce_end().await;
        drain(&state).await;
        if ended_early.is_none() {
            plane.end().await;
        }
        state.inline.close();
        leases.abort();
        refusals.abort();
        samples.abort();
        drop(state);
        self.end().await;
        ended_early.unwrap_or(Ok(()))
    }
}

/// How long requests may take whose runs were ended: their answers are short.
const CUT_WAIT: Duration = Duration::from_secs(5);

async fn drain(state: &Arc<State>) {
    let left = state.drain(state.config.drain).await;
    if left == 0 {
        return;
    }
    tracing::warn!(left, "the drain ended before the requests in flight did: their runs are ended");
    state.models.cut();
    let left = state.drain(CUT_WAIT).await;
    if left > 0 {
        tracing::warn!(left, "requests in flight whose engine cannot end a run are given up");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn why_an_address_is_not_to_be_had_is_told_once() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = taken.local_addr().unwrap().to_string();
        let error = bind(&Config { listen, ..Config::default() }).await.unwrap_err();
        let text = ferry_core::error_text(&error);
        assert_eq!(text.matches("os error").count(), 1, "{text}");
        assert!(text.contains("another process has the port"), "{text}");
    }
}
