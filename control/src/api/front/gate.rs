//! Every call that was let in, on its way to its service: its body is watched, and what it holds is
//! given back when it is answered.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::accept::{Door, Peer};
use super::body::{Caller, Holding, Limits, Watched};
use super::methods::method;
use crate::tenants::{Identity, Tenant};

/// Watches the bodies of all calls.
#[derive(Clone, Debug)]
pub(crate) struct GateLayer(Arc<Limits>);

impl GateLayer {
    pub(crate) fn new(limits: Arc<Limits>) -> GateLayer {
        GateLayer(limits)
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate { inner, limits: Arc::clone(&self.0) }
    }
}

/// See [`GateLayer`].
#[derive(Clone, Debug)]
pub(crate) struct Gate<S> {
    inner: S,
    limits: Arc<Limits>,
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = method(request.uri().path());
        let peer = request.extensions().get::<Arc<Peer>>().cloned();
        let identity = request.extensions().get::<Identity>();
        if let (Some(peer), true) = (&peer, identity.is_some_and(Identity::is_known)) {
            peer.prove();
        }
        let tenant = identity.and_then(Identity::tenant).cloned();
        let caller = Caller { door: Door::Grpc, peer, tenant: tenant.clone() };
        let holding = Arc::new(Holding::default());
        let kept = Arc::clone(&holding);
        let request = request
            .map(|body| Body::new(Watched::new(body, method, &self.limits, caller, holding)));
        let answer = self.inner.call(request);
        let refusals = Arc::clone(&self.limits.refusals);
        Box::pin(async move {
            let answer = answer.await;
            drop(kept);
            if let Ok(response) = &answer
                && response.headers().contains_key(ferry_proto::codec::REFUSED_METADATA)
            {
                let why = "a message that would take too much memory";
                let tenant = tenant.as_deref().map(Tenant::name);
                refusals.note("grpc", "message_memory", None, tenant, &why);
            }
            answer
        })
    }
}
