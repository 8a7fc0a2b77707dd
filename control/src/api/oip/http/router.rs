//! The paths, and what each call goes through before its message is looked at.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request, State};
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri, header};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get, post};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::body::{self, Hold, Message};
use super::call::{Answer, Call};
use super::coding::{self, Coding};
use super::refused::Refused;
use super::{Http, infer, questions, regions, settings};
use crate::api::auth;
use crate::api::front::{Caller, Door, Peer, method};
use crate::tenants::Identity;

/// The header with the length of the JSON, where tensors follow as bytes.
pub(super) const HEAD_BYTES: &str = "inference-header-content-length";

/// What answers the calls of a path.
type Endpoint = fn(Call) -> BoxFuture<'static, Answer>;

/// The path of a method of the gRPC service, by which its rights and bounds are known.
macro_rules! rpc {
    ($name:literal) => {
        concat!("/inference.GRPCInferenceService/", $name)
    };
}

/// Every path.
pub(crate) fn router(http: Arc<Http>) -> Router {
    Router::new()
        .merge(server())
        .merge(models())
        .merge(repository())
        .merge(memory())
        .fallback(async |uri: Uri| {
            let why = format!("there is no {}; the paths begin with /v2", uri.path());
            Refused::new(StatusCode::NOT_FOUND, why)
        })
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            let why = format!("{} is not called with {method}", uri.path());
            Refused::new(StatusCode::METHOD_NOT_ALLOWED, why)
        })
        .with_state(http)
}

type Routes = Router<Arc<Http>>;

fn server() -> Routes {
    let metadata = || asks(rpc!("ServerMetadata"), |call| questions::server(call).boxed());
    let trace = || {
        asks(rpc!("TraceSetting"), |call| settings::trace(call).boxed())
            .merge(tells(rpc!("TraceSetting"), |call| settings::trace(call).boxed()))
    };
    let log = |call| settings::log(call).boxed();
    Router::new()
        .route("/v2", metadata())
        .route("/v2/", metadata())
        .route("/v2/health/live", asks(rpc!("ServerLive"), |call| questions::live(call).boxed()))
        .route("/v2/health/ready", asks(rpc!("ServerReady"), |call| questions::ready(call).boxed()))
        .route("/v2/trace/setting", trace())
        .route("/v2/models/{model}/trace/setting", trace())
        .route("/v2/logging", asks(rpc!("LogSettings"), log).merge(tells(rpc!("LogSettings"), log)))
}

fn models() -> Routes {
    let statistics = || asks(rpc!("ModelStatistics"), |call| questions::statistics(call).boxed());
    let mut routes = Router::new().route("/v2/models/stats", statistics());
    for model in ["/v2/models/{model}", "/v2/models/{model}/versions/{version}"] {
        let below = |what: &str| format!("{model}/{what}");
        routes = routes
            .route(model, asks(rpc!("ModelMetadata"), |call| questions::model(call).boxed()))
            .route(
                &below("ready"),
                asks(rpc!("ModelReady"), |call| questions::model_ready(call).boxed()),
            )
            .route(
                &below("config"),
                asks(rpc!("ModelConfig"), |call| questions::config(call).boxed()),
            )
            .route(&below("stats"), statistics())
            .route(&below("infer"), tells(rpc!("ModelInfer"), |call| infer::infer(call).boxed()));
    }
    routes
}

fn repository() -> Routes {
    let mut routes = Router::new();
    for of in ["/v2/repository", "/v2/repository/{repository}"] {
        routes = routes
            .route(
                &format!("{of}/index"),
                tells(rpc!("RepositoryIndex"), |call| questions::index(call).boxed()),
            )
            .route(
                &format!("{of}/models/{{model}}/load"),
                tells(rpc!("RepositoryModelLoad"), |call| settings::load(call).boxed()),
            )
            .route(
                &format!("{of}/models/{{model}}/unload"),
                tells(rpc!("RepositoryModelUnload"), |call| settings::unload(call).boxed()),
            );
    }
    routes
}

fn memory() -> Routes {
    let mut routes = Router::new();
    for region in ["", "/region/{region}"] {
        let system = |what: &str| format!("/v2/systemsharedmemory{region}/{what}");
        let cuda = |what: &str| format!("/v2/cudasharedmemory{region}/{what}");
        routes = routes
            .route(
                &system("status"),
                asks(rpc!("SystemSharedMemoryStatus"), |call| regions::status(call).boxed()),
            )
            .route(
                &system("unregister"),
                tells(rpc!("SystemSharedMemoryUnregister"), |call| {
                    regions::unregister(call).boxed()
                }),
            )
            .route(
                &cuda("status"),
                asks(rpc!("CudaSharedMemoryStatus"), |call| regions::cuda_status(call).boxed()),
            )
            .route(
                &cuda("unregister"),
                tells(rpc!("CudaSharedMemoryUnregister"), |call| {
                    regions::cuda_unregister(call).boxed()
                }),
            );
    }
    routes
        .route(
            "/v2/systemsharedmemory/region/{region}/register",
            tells(rpc!("SystemSharedMemoryRegister"), |call| regions::register(call).boxed()),
        )
        .route(
            "/v2/cudasharedmemory/region/{region}/register",
            tells(rpc!("CudaSharedMemoryRegister"), |call| regions::cuda_register(call).boxed()),
        )
}

fn asks(rpc: &'static str, endpoint: Endpoint) -> MethodRouter<Arc<Http>> {
    get(async move |State(http): State<Arc<Http>>, names: Names, request: Request| {
        answer(http, rpc, names, request, endpoint).await
    })
}

fn tells(rpc: &'static str, endpoint: Endpoint) -> MethodRouter<Arc<Http>> {
    post(async move |State(http): State<Arc<Http>>, names: Names, request: Request| {
        answer(http, rpc, names, request, endpoint).await
    })
}

type Names = Result<RawPathParams, RawPathParamsRejection>;

/// One call, from its head to its answer.
async fn answer(
    http: Arc<Http>,
    rpc: &'static str,
    names: Names,
    request: Request,
    endpoint: Endpoint,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let peer = head.extensions.get::<Arc<Peer>>().cloned();
    let identity = match admit(&http, rpc, &head.headers) {
        Ok(identity) => identity,
        Err(refused) => {
            body::waste(body.into_data_stream()).await;
            return refused.into_response();
        }
    };
    if let Some(peer) = peer.as_ref().filter(|_| identity.is_known()) {
        peer.prove();
    }
    let caller = Caller { door: Door::Http, peer, tenant: identity.tenant().cloned() };
    let caller = Arc::new(caller);
    let served = async {
        let names = named(names)?;
        let message = message(&http, &caller, rpc, &head.headers, body).await?;
        let (headers, seen) = (head.headers, Instant::now());
        endpoint(Call { http, identity, caller, headers, names, message, seen }).await
    };
    served.await.unwrap_or_else(Refused::into_response)
}

/// Who makes a call. A page in somebody's browser makes none where no key is asked for: it may be
/// anybody's, and reach a server that only its own machine should.
fn admit(http: &Http, rpc: &str, headers: &HeaderMap) -> Result<Identity, Refused> {
    if headers.contains_key(header::ORIGIN) && !http.state.config.has_keys() {
        let why =
            "pages of browsers (header Origin) are served where there are keys, and here are none";
        http.state.refusals.note(Door::Http.name(), "origin", None, None, &why);
        return Err(Refused::new(StatusCode::FORBIDDEN, why));
    }
    Ok(auth::admit(&http.state, Door::Http, rpc, headers)?)
}

fn named(names: Names) -> Result<Vec<(String, String)>, Refused> {
    let names = names.map_err(|error| Refused::bad(format!("the path: {error}")))?;
    Ok(names.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// The message of a call, as it was before it was compressed.
async fn message(
    http: &Http,
    caller: &Arc<Caller>,
    rpc: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Message, Refused> {
    let limit = method(rpc).message_bytes;
    let told = head_bytes(headers).and_then(|bytes| Ok((bytes, Coding::of_request(headers)?)));
    let (head_bytes, coding) = match told {
        Ok(told) => told,
        Err(refused) => {
            body::waste(body.into_data_stream()).await;
            return Err(refused);
        }
    };
    let hold = Hold::new(&http.limits, caller);
    if coding == Coding::Identity {
        return body::read(body, limit, head_bytes, hold).await;
    }
    let packed = body::read(body, limit, None, hold).await?;
    let inflated = move || {
        let Message { head, mut hold, .. } = packed;
        let plain = coding::inflate(&head, coding, limit, &mut hold)?;
        body::divide(plain.into(), head_bytes, hold)
    };
    http.work.run(inflated).await?
}

/// How long the JSON is, where it is not all of the message. 0: there is none.
pub(super) fn head_bytes(headers: &HeaderMap) -> Result<Option<usize>, Refused> {
    let mut values = headers.get_all(HEAD_BYTES).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    let number = number.filter(|_| values.next().is_none());
    let why =
        || Refused::bad(format!("{HEAD_BYTES} is {value:?}: give it once, as a number of bytes"));
    number.map(Some).ok_or_else(why)
}
