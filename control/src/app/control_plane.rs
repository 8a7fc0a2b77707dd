//! The control plane on its socket, in a runtime of its own.
//!
//! It can be killed and started again while lanes, sessions and leases go on: what the data plane
//! does needs none of it.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::Listeners;
use crate::api::{self, Door, Http, Incoming, Limits, Peers};
use crate::host::limits;
use crate::state::State;

/// How long calls that stream may go on after the drain.
const CALLS_END_WITHIN: Duration = Duration::from_secs(5);

/// Most connections to the metrics, of which half may be strangers': fifty that scrape at once find
/// room, whoever waits beside them.
const WATCHERS_MAX: usize = 128;

/// A control plane that serves.
pub(crate) struct ControlPlane {
    /// `None` once it was let go of.
    runtime: Option<Runtime>,
    health: HealthReporter,
    stop: Option<watch::Sender<()>>,
    calls: JoinHandle<Result<(), tonic::transport::Error>>,
    /// HTTP, and metrics.
    others: Vec<JoinHandle<()>>,
}

impl ControlPlane {
    /// Serves on clones of `listeners`, whose addresses stay taken while nobody serves on them.
    pub(crate) async fn start(
        state: &Arc<State>,
        listeners: &Listeners<TcpListener>,
    ) -> anyhow::Result<ControlPlane> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("ferry-grpc")
            .enable_all()
            .build()?;
        let (health, health_service) = tonic_health::server::health_reporter();
        set_health(&health, ServingStatus::Serving).await;
        let (stop, stops) = watch::channel(());
        let front = &state.config.front;
        let connections = limits::connections(front.connections_max, state.config.sessions_max());
        // Of gRPC and HTTP together.
        let peers = Peers::new(connections, front, &state.refusals);
        let limits = Limits::new(front, &state.refusals);
        let incoming = |listener: &TcpListener, door, peers: &Arc<Peers>| {
            let _entered = runtime.enter();
            let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
            Ok::<_, std::io::Error>(Incoming::new(listener, door, Arc::clone(peers)))
        };
        let router = api::router(state, Arc::clone(&limits))?.add_service(health_service);
        let of_grpc = incoming(&listeners.grpc, Door::Grpc, &peers)?;
        let stopped = told(stops.clone());
        let calls = runtime
            .spawn(async move { router.serve_with_incoming_shutdown(of_grpc, stopped).await });
        let mut others = Vec::new();
        if let Some(listener) = &listeners.http {
            let http = api::http_router(Http::new(Arc::clone(state), limits));
            let of_http = incoming(listener, Door::Http, &peers)?;
            others.push(runtime.spawn(api::serve_http(http, of_http, told(stops.clone()))));
        }
        if let Some(listener) = &listeners.metrics {
            // Apart, so that who watches the server is not locked out by those that it serves.
            let watchers = Peers::new(WATCHERS_MAX, front, &state.refusals);
            let of_metrics = incoming(listener, Door::Metrics, &watchers)?;
            let metrics = api::metrics_router(state);
            others.push(runtime.spawn(api::serve_http(metrics, of_metrics, told(stops))));
        }
        Ok(ControlPlane { runtime: Some(runtime), health, stop: Some(stop), calls, others })
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
        let ended = async {
            // What they ended with is nobody's concern any more.
            drop((&mut self.calls).await);
            for other in &mut self.others {
                drop(other.await);
            }
        };
        if tokio::time::timeout(CALLS_END_WITHIN, ended).await.is_err() {
            tracing::info!("calls that go on are cut off");
        }
    }
}

/// Done once the sender of `stops` is gone.
async fn told(mut stops: watch::Receiver<()>) {
    drop(stops.changed().await);
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
