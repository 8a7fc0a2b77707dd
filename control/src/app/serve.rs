//! The server as a whole: control plane, keepers, and the way to an orderly end.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::control_plane::ControlPlane;
use super::polling;
use super::{BuildError, Server};
use crate::config::Config;
use crate::sampler::{self, Sampled};
use crate::state::State;

/// The sockets of the control plane.
#[derive(Debug)]
pub struct Listeners<L = TcpListener> {
    /// Of gRPC.
    pub grpc: L,
    /// Of HTTP, where that is served.
    pub http: Option<L>,
    /// Of metrics, where they are told.
    pub metrics: Option<L>,
}

/// Takes the control plane's addresses.
///
/// # Errors
/// [`BuildError::Listen`] names the address and what to do.
pub async fn bind(config: &Config) -> Result<Listeners, BuildError> {
    let grpc = listen("--listen", &config.listen).await?;
    let http = listen_if("--http", config.http.as_deref()).await?;
    let metrics = listen_if("--metrics", config.metrics.as_deref()).await?;
    Ok(Listeners { grpc, http, metrics })
}

async fn listen_if(
    option: &'static str,
    address: Option<&str>,
) -> Result<Option<TcpListener>, BuildError> {
    match address {
        Some(address) => listen(option, address).await.map(Some),
        None => Ok(None),
    }
}

async fn listen(option: &'static str, address: &str) -> Result<TcpListener, BuildError> {
    TcpListener::bind(address).await.map_err(|source| BuildError::Listen {
        address: address.to_owned(),
        fix: match source.kind() {
            std::io::ErrorKind::AddrInUse => format!(
                "another process has the port: stop it, or take another with {option} HOST:PORT \
                 (port 0 lets the system choose)"
            ),
            std::io::ErrorKind::AddrNotAvailable => {
                format!("give {option} an address of this machine, such as 127.0.0.1")
            }
            std::io::ErrorKind::PermissionDenied => {
                "ports below 1024 need privileges: take a higher one".to_owned()
            }
            _ => format!("check {option}"),
        },
        source,
    })
}

impl Listeners {
    /// The address of gRPC.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.grpc.local_addr()
    }

    /// The address of HTTP, where that is served.
    ///
    /// # Errors
    /// What the system says.
    pub fn http_addr(&self) -> std::io::Result<Option<SocketAddr>> {
        self.http.as_ref().map(TcpListener::local_addr).transpose()
    }

    /// The address of metrics, where they are told.
    ///
    /// # Errors
    /// What the system says.
    pub fn metrics_addr(&self) -> std::io::Result<Option<SocketAddr>> {
        self.metrics.as_ref().map(TcpListener::local_addr).transpose()
    }

    /// Sockets that no runtime knows.
    fn into_std(self) -> std::io::Result<Listeners<std::net::TcpListener>> {
        let Listeners { grpc, http, metrics } = self;
        let [http, metrics] =
            [http, metrics].map(|listener| listener.map(TcpListener::into_std).transpose());
        Ok(Listeners { grpc: grpc.into_std()?, http: http?, metrics: metrics? })
    }
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
        listeners: Listeners,
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
            gpus: Arc::clone(&state.gpus),
        };
        let samples = tokio::spawn(sampler::keep(sampled, every));
        let polling = polling::start(&state);
        let listeners = listeners.into_std()?;
        let mut plane = ControlPlane::start(&state, &listeners).await?;
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
                    plane = ControlPlane::start(&state, &listeners).await?;
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
        if let Some(polling) = polling {
            polling.abort();
        }
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
