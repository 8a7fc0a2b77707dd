//! All services together.

use std::sync::Arc;
use std::time::Duration;

use ferry_proto::DESCRIPTORS;
use ferry_proto::channel::{FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, WINDOW_BYTES};
use ferry_proto::oip::grpc_inference_service_server::GrpcInferenceServiceServer;
use ferry_proto::v1::{
    admin_server::AdminServer, inference_server::InferenceServer, local_server::LocalServer,
    models_server::ModelsServer, runs_server::RunsServer, sessions_server::SessionsServer,
};
use tonic::server::NamedService;
use tower_layer::{Identity, Stack};

use super::front::{GateLayer, Limits};
use super::{
    AdminService, AuthLayer, InferenceService, LocalService, ModelsService, OipService,
    RunsService, SessionsService,
};
use crate::state::State;

/// How often a silent connection is asked whether its peer is there.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);

/// How long a peer may take to say so.
const KEEPALIVE_WITHIN: Duration = Duration::from_secs(20);

/// The names of the services, as health checks know them.
pub const SERVICES: [&str; 7] = [
    SessionsServer::<SessionsService>::NAME,
    InferenceServer::<InferenceService>::NAME,
    LocalServer::<LocalService>::NAME,
    ModelsServer::<ModelsService>::NAME,
    AdminServer::<AdminService>::NAME,
    RunsServer::<RunsService>::NAME,
    GrpcInferenceServiceServer::<OipService>::NAME,
];

/// The services, behind the check of who calls.
pub(crate) type Router =
    tonic::transport::server::Router<Stack<GateLayer, Stack<AuthLayer, Identity>>>;

/// All services of `state` but the health service.
///
/// # Errors
/// What the reflection service says of the descriptors.
pub(crate) fn router(state: &Arc<State>, limits: Arc<Limits>) -> anyhow::Result<Router> {
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
        .layer(GateLayer::new(limits))
        .add_service(service!(SessionsServer, SessionsService))
        .add_service(service!(ModelsServer, ModelsService))
        .add_service(service!(AdminServer, AdminService))
        .add_service(service!(RunsServer, RunsService))
        .add_service(service!(InferenceServer, InferenceService))
        .add_service(service!(LocalServer, LocalService))
        .add_service(service!(GrpcInferenceServiceServer, OipService))
        .add_service(reflection))
}
