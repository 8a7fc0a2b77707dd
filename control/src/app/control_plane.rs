//! The control plane on its socket: the services, in a runtime of their own.
//!
//! It can be killed and started again while lanes, sessions and leases go on: what the data plane
//! does needs none of it.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use ferry_proto::channel::{FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, WINDOW_BYTES};
use ferry_proto::v1::{
    DESCRIPTORS, admin_server::AdminServer, inference_server::InferenceServer,
    local_server::LocalServer, models_server::ModelsServer, runs_server::RunsServer,
    sessions_server::SessionsServer,
};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::server::NamedService;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower_layer::{Identity, Stack};

use crate::api::{
    AdminService, AuthLayer, InferenceService, LocalService, ModelsService, RunsService,
    SessionsService,
};
use crate::state::State;

/// How often a silent connection is asked whether its peer is there.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);

/// How long a peer may take to say so.
const KEEPALIVE_WITHIN: Duration = Duration::from_secs(20);

/// How long calls that stream may go on after the drain.
const CALLS_END_WITHIN: Duration = Duration::from_secs(5);

/// A control plane that serves.
pub(crate) struct ControlPlane {
    /// `None` once it was let go of.
    runtime: Option<Runtime>,
    health: HealthReporter,
    stop: Option<oneshot::Sender<()>>,
    calls: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl ControlPlane {
    /// Serves on a clone of `listener`, whose address stays taken while nobody serves on it.
    pub(crate) async fn start(
        state: &Arc<State>,
        listener: &TcpListener,
    ) -> anyhow::Result<ControlPlane> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("ferry-grpc")
            .enable_all()
            .build()?;
        let (health, health_service) = tonic_health::server::health_reporter();
        set_health(&health, ServingStatus::Serving).await;
        let (stop, stopped) = oneshot::channel::<()>();
        let router = router(state)?.add_service(health_service);
        let listener = listener.try_clone()?;
        let calls = runtime.spawn(async move {
            // Fails only outside of a runtime.
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return Ok(()) };
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let stopped = async { drop(stopped.await) };
            router.serve_with_incoming_shutdown(incoming, stopped).await
        });
        Ok(ControlPlane { runtime: Some(runtime), health, stop: Some(stop), calls })
    }

    /// Returns when it does not serve any more.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<()> {
        Ok((&mut self.calls).await??)
    }

    /// Says that nothing new is served.
    pub(crate) async fn announce_end(&self) {
        set_health(&self.health, ServingStatus::NotServing).await;
    }

    /// Ends it: calls that go on get a moment.
    pub(crate) async fn end(mut self) {
        self.stop = None;
        if tokio::time::timeout(CALLS_END_WITHIN, &mut self.calls).await.is_err() {
            tracing::info!("calls that go on are cut off");
        }
    }
}

impl Drop for ControlPlane {
    /// Cuts off every connection.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The services, behind the check of who calls.
type Router = tonic::transport::server::Router<Stack<AuthLayer, Identity>>;

fn router(state: &Arc<State>) -> anyhow::Result<Router> {
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
        .layer(AuthLayer::new(Arc::clone(state)))
        .add_service(service!(SessionsServer, SessionsService))
        .add_service(service!(ModelsServer, ModelsService))
        .add_service(service!(AdminServer, AdminService))
        .add_service(service!(RunsServer, RunsService))
        .add_service(service!(InferenceServer, InferenceService))
        .add_service(service!(LocalServer, LocalService))
        .add_service(reflection))
}

/// Says of every service whether it serves.
pub(super) async fn set_health(health: &HealthReporter, status: ServingStatus) {
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
