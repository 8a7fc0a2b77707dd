//! The control plane on its socket, in a runtime of its own.
//!
//! It can be killed and started again while lanes, sessions and leases go on: what the data plane
//! does needs none of it.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::api::{self, Incoming, Peers};
use crate::host::limits;
use crate::state::State;

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
        let router = api::router(state)?.add_service(health_service);
        let listener = listener.try_clone()?;
        let front = &state.config.front;
        let connections = limits::connections(front.connections_max, state.config.sessions_max());
        let (bytes, within) = (front.calls_bytes_max, front.begins_within);
        let peers = Peers::new(connections, bytes, within, &state.refusals);
        let calls = runtime.spawn(async move {
            // Fails only outside of a runtime.
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return Ok(()) };
            let incoming = Incoming::new(listener, peers);
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

/// Says of every service whether it serves.
pub(super) async fn set_health(health: &HealthReporter, status: ServingStatus) {
    // Admin, Models and Runs answer while the server drains; they end with it.
    for name in std::iter::once("").chain(api::SERVICES) {
        health.set_service_status(name, status).await;
    }
}
