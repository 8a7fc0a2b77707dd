//! Who makes a call, and whether they may: decided by the headers, before a byte of a body is read.
//!
//! [`METHODS`] is the one table of who may call what. A method that is not in it is refused.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use ferry_proto::channel::KEY_METADATA;
use futures_util::future::Either;
use tonic::body::Body;
use tonic::codegen::http;
use tower_layer::Layer;
use tower_service::Service;

use super::front::Door;
use crate::error::ApiError;
use crate::state::State;
use crate::tenants::{Identity, Tenant};

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody: it tells what every client of gRPC may know.
    Anyone,
    /// Tenants: it uses a quota, or a session. Whoever names a session proves it besides.
    Tenant,
    /// Tenants and the operator.
    Known,
    /// The operator alone: it touches what is everybody's.
    Operator,
}

use Access::{Anyone, Known, Operator, Tenant as OfTenant};

/// Who may call which method, by the path of the call.
pub const METHODS: &[(&str, Access)] = &[
    ("/ferry.v1.Sessions/Open", OfTenant),
    ("/ferry.v1.Sessions/Attach", OfTenant),
    ("/ferry.v1.Sessions/Heartbeat", OfTenant),
    ("/ferry.v1.Sessions/Resume", OfTenant),
    ("/ferry.v1.Sessions/Close", OfTenant),
    ("/ferry.v1.Inference/Infer", OfTenant),
    ("/ferry.v1.Local/Infer", OfTenant),
    // Load inside the server takes everybody's cores.
    ("/ferry.v1.Local/Drive", Operator),
    ("/ferry.v1.Models/List", Known),
    ("/ferry.v1.Models/Get", Known),
    ("/ferry.v1.Models/Load", Operator),
    ("/ferry.v1.Models/Unload", Operator),
    ("/ferry.v1.Runs/Start", Known),
    ("/ferry.v1.Runs/Finish", Known),
    ("/ferry.v1.Runs/Record", OfTenant),
    ("/ferry.v1.Runs/List", Known),
    ("/ferry.v1.Runs/Get", Known),
    // SQL sees the rows of every tenant.
    ("/ferry.v1.Runs/Query", Operator),
    ("/ferry.v1.Admin/Status", Operator),
    ("/ferry.v1.Admin/ListSessions", Operator),
    ("/ferry.v1.Admin/EvictSession", Operator),
    ("/ferry.v1.Admin/Drain", Operator),
    ("/ferry.v1.Admin/Devices", Operator),
    // What a client of any server of this protocol asks first.
    ("/inference.GRPCInferenceService/ServerLive", Anyone),
    ("/inference.GRPCInferenceService/ServerReady", Anyone),
    ("/inference.GRPCInferenceService/ServerMetadata", Known),
    ("/inference.GRPCInferenceService/ModelReady", Known),
    ("/inference.GRPCInferenceService/ModelMetadata", Known),
    ("/inference.GRPCInferenceService/ModelConfig", Known),
    ("/inference.GRPCInferenceService/ModelStatistics", Known),
    ("/inference.GRPCInferenceService/ModelInfer", OfTenant),
    ("/inference.GRPCInferenceService/ModelStreamInfer", OfTenant),
    ("/inference.GRPCInferenceService/RepositoryIndex", Known),
    ("/inference.GRPCInferenceService/RepositoryModelLoad", Operator),
    ("/inference.GRPCInferenceService/RepositoryModelUnload", Operator),
    // Regions belong to whoever registered them.
    ("/inference.GRPCInferenceService/SystemSharedMemoryStatus", OfTenant),
    ("/inference.GRPCInferenceService/SystemSharedMemoryRegister", OfTenant),
    ("/inference.GRPCInferenceService/SystemSharedMemoryUnregister", OfTenant),
    ("/inference.GRPCInferenceService/CudaSharedMemoryStatus", OfTenant),
    ("/inference.GRPCInferenceService/CudaSharedMemoryRegister", OfTenant),
    ("/inference.GRPCInferenceService/CudaSharedMemoryUnregister", OfTenant),
    ("/inference.GRPCInferenceService/TraceSetting", Operator),
    ("/inference.GRPCInferenceService/LogSettings", Operator),
    ("/grpc.health.v1.Health/Check", Anyone),
    ("/grpc.health.v1.Health/Watch", Anyone),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Anyone),
];

impl Access {
    /// Who may call the method with this path; `None` if there is none.
    fn of(path: &str) -> Option<Access> {
        METHODS.iter().find(|(known, _)| *known == path).map(|&(_, access)| access)
    }

    /// Whether `identity` may.
    ///
    /// # Errors
    /// The refusal, and its name in SQL.
    pub(super) fn check(self, identity: &Identity) -> Result<(), (&'static str, ApiError)> {
        let (is_tenant, is_operator) = (identity.tenant().is_some(), identity.is_operator());
        match self {
            Access::Anyone => Ok(()),
            Access::Tenant if is_tenant => Ok(()),
            Access::Tenant if is_operator => Err(("not_tenant", ApiError::NotTenant)),
            Access::Known if is_tenant || is_operator => Ok(()),
            Access::Tenant | Access::Known => Err(("wrong_key", ApiError::Key)),
            Access::Operator if is_operator => Ok(()),
            Access::Operator => Err(("not_operator", ApiError::NotOperator)),
        }
    }
}

/// Puts the [`Identity`] of the caller into each request, and refuses what it may not call.
#[derive(Clone, Debug)]
pub struct AuthLayer(Arc<State>);

impl AuthLayer {
    /// For the tenants of `state`.
    pub fn new(state: Arc<State>) -> AuthLayer {
        AuthLayer(state)
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = Auth<S>;

    fn layer(&self, inner: S) -> Auth<S> {
        Auth { state: Arc::clone(&self.0), inner }
    }
}

/// See [`AuthLayer`].
#[derive(Clone, Debug)]
pub struct Auth<S> {
    state: Arc<State>,
    inner: S,
}

impl<S, B> Service<http::Request<B>> for Auth<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        match admit(&self.state, Door::Grpc, request.uri().path(), request.headers()) {
            Ok(identity) => {
                request.extensions_mut().insert(identity);
                Either::Left(self.inner.call(request))
            }
            Err(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}

/// Who makes a call of the method with this path, that came in by `door`.
///
/// # Errors
/// The refusal, which is noted.
pub(super) fn admit(
    state: &State,
    door: Door,
    path: &str,
    headers: &http::HeaderMap,
) -> Result<Identity, tonic::Status> {
    let Some(access) = Access::of(path) else {
        return Err(tonic::Status::unimplemented("this server has no such method"));
    };
    let key = headers.get(KEY_METADATA).map(http::HeaderValue::as_bytes);
    let identity = state.tenants.identify(key);
    match access.check(&identity) {
        Ok(()) => Ok(identity),
        Err((what, error)) => {
            state.refusals.note(door.name(), what, None, identity.name(), &error);
            Err(error.into())
        }
    }
}

/// Who makes a call.
///
/// # Errors
/// [`ApiError::Internal`] if the layer did not see it.
pub(super) fn identity<T>(request: &tonic::Request<T>) -> Result<&Identity, ApiError> {
    let unseen = || ApiError::Internal("the call came past the check of its key".into());
    request.extensions().get::<Identity>().ok_or_else(unseen)
}

/// The tenant that makes a call.
///
/// # Errors
/// [`ApiError::Key`] if no tenant does.
pub(super) fn tenant<T>(request: &tonic::Request<T>) -> Result<Arc<Tenant>, ApiError> {
    identity(request)?.tenant().cloned().ok_or(ApiError::Key)
}

/// The name of the tenant that somebody is.
///
/// # Errors
/// [`ApiError::Key`] if it is none.
pub(super) fn name(who: &Identity) -> Result<&str, ApiError> {
    who.tenant().map(|tenant| tenant.name()).ok_or(ApiError::Key)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// The paths of all methods of these descriptors.
    fn paths(descriptors: &[u8]) -> Vec<String> {
        let set = FileDescriptorSet::decode(descriptors).unwrap();
        let mut paths = Vec::new();
        for file in set.file {
            for service in &file.service {
                let of = |method: &prost_types::MethodDescriptorProto| {
                    format!("/{}.{}/{}", file.package(), service.name(), method.name())
                };
                paths.extend(service.method.iter().map(of));
            }
        }
        paths
    }

    #[test]
    fn every_method_of_the_descriptors_is_in_the_table_and_no_other() {
        let mut described = BTreeSet::new();
        for descriptors in [
            ferry_proto::DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        ] {
            described.extend(paths(descriptors));
        }
        let table: BTreeSet<_> = METHODS.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(table.len(), METHODS.len(), "a method stands in the table twice");
        assert_eq!(table, described);
    }
}
