//! Serves the control plane until told to stop, then drains.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use ferry_proto::channel::{FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, WINDOW_BYTES};
use ferry_proto::v1;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::Server;
use crate::services::{
    AdminService, InferenceService, LocalService, ModelsService, RunsService, SessionsService,
};

/// How often a silent connection is asked whether its peer still lives, and how long it may take
/// over the answer.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// How long open calls may take once the server has drained: heartbeats and timings under way.
const CALLS_WAIT: Duration = Duration::from_secs(2);

/// The services whose health is told one by one, beside the server's own (the empty name).
const SERVICES: [&str; 6] = [
    "ferry.v1.Sessions",
    "ferry.v1.Models",
    "ferry.v1.Inference",
    "ferry.v1.Local",
    "ferry.v1.Runs",
    "ferry.v1.Admin",
];

/// Services that take new work: not once the server drains.
const TAKES_WORK: [&str; 4] = ["", "ferry.v1.Sessions", "ferry.v1.Inference", "ferry.v1.Local"];

async fn report(health: &HealthReporter, services: &[&str], status: ServingStatus) {
    for service in services {
        health.set_service_status(*service, status).await;
    }
}

impl Server {
    /// Serves on `listener` until `shutdown` is ready; then drains, stores what waits, and ends.
    ///
    /// # Errors
    /// What the transport or the store says at the end.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> anyhow::Result<()> {
        let (health, health_service) = tonic_health::server::health_reporter();
        report(&health, &SERVICES, ServingStatus::Serving).await;
        report(&health, &[""], ServingStatus::Serving).await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .context("make the reflection service")?;
        let state = Arc::clone(&self.state);
        let streams = state.config.streams_max;
        let inference = v1::inference_server::InferenceServer::new(InferenceService(state.clone()))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let local = v1::local_server::LocalServer::new(LocalService(state.clone()))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let sessions = v1::sessions_server::SessionsServer::new(SessionsService(state.clone()));
        let router = tonic::transport::Server::builder()
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .max_concurrent_streams(streams)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .add_service(health_service)
            .add_service(reflection)
            .add_service(sessions)
            .add_service(v1::models_server::ModelsServer::new(ModelsService(state.clone())))
            .add_service(v1::runs_server::RunsServer::new(RunsService(state.clone())))
            .add_service(v1::admin_server::AdminServer::new(AdminService(state.clone())))
            .add_service(inference)
            .add_service(local);
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let (drained, is_drained) = tokio::sync::oneshot::channel::<()>();
        let draining = tokio::spawn({
            let (state, health) = (Arc::clone(&state), health.clone());
            async move {
                shutdown.await;
                report(&health, &TAKES_WORK, ServingStatus::NotServing).await;
                let left = state.drain(state.config.drain).await;
                if left > 0 {
                    tracing::warn!(left, "requests in flight were given up: they took too long");
                }
                // Nobody waits for it only if the transport has failed before.
                drained.send(()).ok();
            }
        });
        let served = router.serve_with_incoming_shutdown(incoming, async {
            drop(is_drained.await);
        });
        tokio::pin!(served);
        let result = tokio::select! {
            result = &mut served => result,
            () = async {
                drop(draining.await);
                tokio::time::sleep(CALLS_WAIT).await;
            } => Ok(()),
        };
        self.end().await?;
        result.context("serve the control plane")
    }
}
