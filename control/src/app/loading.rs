//! The port while models are loaded: every call is told how far that is.

use std::net::TcpListener;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;

use super::Listeners;
use super::control_plane::set_health;
use crate::api;
use crate::error::ApiError;
use crate::models::Progress;

/// How long connections may take to hear that they have to be made again.
const GOODBYE: Duration = Duration::from_millis(200);

/// Calls of one connection at a time. Each is answered at once.
const STREAMS_MAX: u32 = 16;

/// How long a connection may stay, and how long it may take to go then. With [`PACE`], strangers
/// hold 150 descriptors at most, and lock nobody out.
const STAYS: Duration = Duration::from_secs(2);
const GOES: Duration = Duration::from_secs(1);

/// Time between two connections that are taken; also where none can be, for want of descriptors.
const PACE: Duration = Duration::from_millis(20);

/// Answers on the control plane's addresses until the server is built. Health says `NOT_SERVING`;
/// every other call ends with `UNAVAILABLE` and how many models are loaded.
#[derive(Debug)]
pub struct LoadingPort {
    /// `None` once it was let go of.
    runtime: Option<Runtime>,
    stop: Option<oneshot::Sender<()>>,
    calls: JoinHandle<()>,
}

impl LoadingPort {
    /// Answers on clones of `listeners`. Connections that wait when it ends are taken by whoever
    /// serves there next.
    ///
    /// # Errors
    /// What the system says: no thread or descriptor is left.
    pub async fn open(
        listeners: &Listeners,
        progress: Arc<Progress>,
    ) -> std::io::Result<LoadingPort> {
        let clone = |listener: &tokio::net::TcpListener| {
            Ok::<_, std::io::Error>(TcpListener::from(listener.as_fd().try_clone_to_owned()?))
        };
        let listener = clone(&listeners.grpc)?;
        let others = [&listeners.http, &listeners.metrics].into_iter().flatten();
        let others = others.map(clone).collect::<std::io::Result<Vec<_>>>()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("ferry-loading")
            .enable_all()
            .build()?;
        let (health, health_service) = tonic_health::server::health_reporter();
        set_health(&health, ServingStatus::NotServing).await;
        let why = move || {
            let (loaded, of) = progress.seen();
            ApiError::Loading { loaded, of }
        };
        let why: Arc<dyn Fn() -> ApiError + Send + Sync> = Arc::new(why);
        for listener in others {
            let why = Arc::clone(&why);
            runtime.spawn(async move {
                // Fails only outside of a runtime.
                let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
                api::serve_http_loading(listener, why, PACE, STAYS).await;
            });
        }
        let mut routes = Routes::new(health_service);
        let calls = routes.axum_router_mut();
        *calls = std::mem::take(calls).fallback(move || {
            let status = tonic::Status::from(why());
            std::future::ready(status.into_http::<Body>())
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let calls = runtime.spawn(async move {
            // Fails only outside of a runtime.
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let incoming = incoming.then(async |taken| {
                tokio::time::sleep(PACE).await;
                taken
            });
            let incoming = Box::pin(incoming);
            let router = tonic::transport::Server::builder()
                .max_concurrent_streams(STREAMS_MAX)
                .max_connection_age(STAYS)
                .max_connection_age_grace(GOES)
                .add_routes(routes);
            let stopped = async { drop(stopped.await) };
            if let Err(error) = router.serve_with_incoming_shutdown(incoming, stopped).await {
                tracing::warn!(%error, "the port does not answer while models are loaded");
            }
        });
        Ok(LoadingPort { runtime: Some(runtime), stop: Some(stop), calls })
    }

    /// Ends it: clients that are connected have to connect again.
    pub async fn close(mut self) {
        self.stop = None;
        // Whoever watches the health would stay; dropping cuts it off.
        drop(tokio::time::timeout(GOODBYE, &mut self.calls).await);
    }
}

impl Drop for LoadingPort {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
