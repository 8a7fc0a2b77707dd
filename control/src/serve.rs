//! The server on its socket: services, health, reflection, and the way to an orderly end.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ferry_proto::channel::{FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, WINDOW_BYTES};
use ferry_proto::v1::{
    DESCRIPTORS, admin_server::AdminServer, inference_server::InferenceServer,
    local_server::LocalServer, models_server::ModelsServer, runs_server::RunsServer,
    sessions_server::SessionsServer,
};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::server::NamedService;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::app::{BuildError, Server};
use crate::config::Config;
use crate::services::{
    AdminService, InferenceService, LocalService, ModelsService, RunsService, SessionsService,
};
use crate::state::State;
use crate::{resources, sessions};

/// How often a silent connection is asked whether its peer is there.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);

/// How long a peer may take to say so.
const KEEPALIVE_WITHIN: Duration = Duration::from_secs(20);

/// How long calls that stream may go on after the drain.
const CALLS_END_WITHIN: Duration = Duration::from_secs(5);

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
    /// # Errors
    /// What the transport says if it cannot serve.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> anyhow::Result<()> {
        let state = Arc::clone(&self.state);
        let leases = tokio::spawn(sessions::keep_leases(Arc::clone(&state)));
        let every = state.config.sample_every;
        let samples = tokio::spawn(resources::keep(Arc::clone(&state), every));
        let (health, health_service) = tonic_health::server::health_reporter();
        set_health(&health, ServingStatus::Serving).await;
        let (stop, stopped) = oneshot::channel::<()>();
        let router = router(&state)?.add_service(health_service);
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let calls = router.serve_with_incoming_shutdown(incoming, async {
            // The sender goes only with this function.
            drop(stopped.await);
        });
        let mut calls = tokio::spawn(calls);
        let ended_early = tokio::select! {
            () = shutdown => None,
            ended = &mut calls => Some(ended),
        };
        set_health(&health, ServingStatus::NotServing).await;
        let left = state.drain(state.config.drain).await;
        if left > 0 {
            tracing::warn!(left, "the drain ended before the requests in flight did");
        }
        drop(stop);
        if ended_early.is_none()
            && tokio::time::timeout(CALLS_END_WITHIN, &mut calls).await.is_err()
        {
            tracing::info!("calls that go on are cut off");
            calls.abort();
        }
        leases.abort();
        samples.abort();
        drop(state);
        self.end().await;
        match ended_early {
            Some(ended) => Ok(ended??),
            None => Ok(()),
        }
    }
}

fn router(state: &Arc<State>) -> anyhow::Result<tonic::transport::server::Router> {
    macro_rules! service {
        ($server:ident, $service:ident) => {
            $server::new($service(Arc::clone(state)))
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        };
    }
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    Ok(tonic::transport::Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_concurrent_streams(state.config.streams_max)
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_WITHIN))
        .add_service(service!(SessionsServer, SessionsService))
        .add_service(service!(ModelsServer, ModelsService))
        .add_service(service!(AdminServer, AdminService))
        .add_service(service!(RunsServer, RunsService))
        .add_service(service!(InferenceServer, InferenceService))
        .add_service(service!(LocalServer, LocalService))
        .add_service(reflection))
}

async fn set_health(health: &HealthReporter, status: ServingStatus) {
    // Admin, Models and Runs answer while the server drains; they end with it.
    for name in [
        "",
        SessionsServer::<SessionsService>::NAME,
        InferenceServer::<InferenceService>::NAME,
        LocalServer::<LocalService>::NAME,
        ModelsServer::<ModelsService>::NAME,
        AdminServer::<AdminService>::NAME,
        RunsServer::<RunsService>::NAME,
    ] {
        health.set_service_status(name, status).await;
    }
}
