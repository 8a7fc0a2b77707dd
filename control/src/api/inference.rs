//! `ferry.v1.Inference`: the tensor inside the call.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use ferry_core::{SessionId, Status, Transport, error_text};
use ferry_memory::{Arrival, Departure, PeerId, ReplyTo, Slot};
use ferry_proto::{WireError, output_shapes_to_wire, server_times_to_wire, v1};
use tokio::sync::oneshot;
use tonic::{Request, Response};

use super::auth;
use crate::error::ApiError;
use crate::serving::routes::Route;
use crate::serving::{inline, payload};
use crate::sessions::Session;
use crate::state::State;

/// The service.
#[derive(Clone, Debug)]
pub struct InferenceService(pub Arc<State>);

/// The way back of one reply that comes from another thread.
#[derive(Debug)]
struct Waiting {
    route: Arc<Route>,
    caller: Mutex<Option<oneshot::Sender<Departure>>>,
}

impl ReplyTo for Waiting {
    fn depart(&self, departure: Departure) {
        self.route.end();
        let caller = self.caller.lock().unwrap_or_else(PoisonError::into_inner).take();
        let unheard = match caller {
            Some(caller) => caller.send(departure).err(),
            None => Some(departure),
        };
        if let Some(mut departure) = unheard {
            // The caller went away. It ran all the same.
            close(&self.route, &mut departure);
        }
    }
}

/// Serves a request that lies in its slot, on this thread where the model allows.
pub(crate) async fn serve(route: &Arc<Route>, arrival: Arrival) -> Result<Departure, ApiError> {
    let arrival = match route.begin(arrival) {
        Ok(let_in) => let_in,
        Err(departure) => return Ok(departure),
    };
    let (sender, receiver) = oneshot::channel();
    let caller = Mutex::new(Some(sender));
    let waiting = Arc::new(Waiting { route: Arc::clone(route), caller });
    if let Some(departure) = route.dispatch(arrival, waiting) {
        route.end();
        return Ok(departure);
    }
    let lost = |_| ApiError::Internal("the request was lost: see the server's log".into());
    receiver.await.map_err(lost)
}

/// Closes the accounts of a request whose reply is made, and records it where the server does.
fn close(route: &Route, departure: &mut Departure) {
    departure.close(Instant::now(), None);
    route.record(departure);
}

/// The reply's payload, or the error that it is. Closes the accounts: what is left to do is to send.
pub(crate) fn answer(route: &Route, departure: &mut Departure) -> Result<Bytes, ApiError> {
    let payload = payload_of(departure);
    close(route, departure);
    payload
}

fn payload_of(departure: &Departure) -> Result<Bytes, ApiError> {
    let all = departure.slot.reply_bytes().unwrap_or_default();
    let bytes = all.get(..departure.payload_bytes).unwrap_or_default();
    if departure.status == Status::Ok {
        return Ok(Bytes::copy_from_slice(bytes));
    }
    let text = String::from_utf8_lossy(bytes).into_owned();
    Err(match departure.status {
        Status::ReplyTooLarge => {
            ApiError::ReplyTooLarge { outputs: departure.outputs.clone(), text }
        }
        status => ApiError::Request { status, text },
    })
}

/// A request that came in a call, in its slot.
pub(crate) fn arrival(
    slot: Slot,
    session: SessionId,
    generation: ferry_core::Generation,
    request: &v1::InferRequest,
    payload_bytes: usize,
    seen: Instant,
) -> Result<Arrival, ApiError> {
    let what = what(request)?;
    Ok(Arrival {
        peer: PeerId(0),
        session,
        generation,
        request: request.request,
        what,
        payload_bytes,
        slot,
        seen,
        visible: Instant::now(),
    })
}

fn what(request: &v1::InferRequest) -> Result<ferry_core::Request, WireError> {
    ferry_core::Request::try_from(request.info.as_ref().unwrap_or(&DEFAULT_INFO))
}

/// What a request is that does not say: input tensors.
static DEFAULT_INFO: v1::RequestInfo = v1::RequestInfo {
    kind: v1::RequestKind::Tensor as i32,
    batch: 1,
    priority: 0,
    width: 0,
    height: 0,
    format: 0,
    trace_id: Bytes::new(),
};

impl InferenceService {
    fn prove(&self, reference: &v1::SessionRef) -> Result<Arc<Session>, ApiError> {
        let (id, token, generation) = reference.parts()?;
        let proved = self.0.sessions.prove(id, &token, generation);
        if let Err(error) = &proved {
            self.0.refusals.note("grpc", "credentials", Some(id), None, error);
        }
        proved
    }

    async fn with_session(
        &self,
        reference: &v1::SessionRef,
        request: &v1::InferRequest,
        seen: Instant,
    ) -> Result<v1::InferResponse, ApiError> {
        let session = self.prove(reference)?;
        let table = session.inline_slots().ok_or_else(|| ApiError::Transport {
            transport: Transport::Grpc,
            why: format!("the session was opened with {}", session.agreed.transport),
            fix: "send the request there, or open a session with grpc".into(),
        })?;
        let mut slot = table.acquire().ok_or_else(|| {
            let slots = session.agreed.layout.slots;
            let why = format!("all {slots} slots of the session are in flight: wait, or open more");
            ApiError::Busy(why)
        })?;
        let payload_in = &request.payload;
        let (binding, kind) = (&session.agreed.binding, what(request)?.kind);
        payload::place(&mut slot, binding, kind, payload_in).map_err(|_out_of_range| {
            let (has, room) = (payload_in.len(), session.agreed.layout.request_bytes);
            ApiError::field("payload", format!("{has} bytes; the session has room for {room}"))
        })?;
        let generation = session.generation();
        let arrival = arrival(slot, session.id, generation, request, payload_in.len(), seen)?;
        let route = session.route();
        let mut departure = serve(&route, arrival).await?;
        let payload = answer(&route, &mut departure)?;
        Ok(v1::InferResponse {
            payload,
            server_times: server_times_to_wire(&departure.times),
            output_shapes: output_shapes_to_wire(departure.outputs.as_deref()),
            session_id: session.id.0,
            ..v1::InferResponse::default()
        })
    }
}

#[tonic::async_trait]
impl v1::inference_server::Inference for InferenceService {
    async fn infer(
        &self,
        request: Request<v1::InferRequest>,
    ) -> Result<Response<v1::InferResponse>, tonic::Status> {
        let seen = Instant::now();
        if self.0.takes_new().is_err() {
            let text = "the server is draining: use another one".to_owned();
            return Err(ApiError::Request { status: Status::Draining, text }.into());
        }
        let answer = match &request.get_ref().session {
            Some(reference) => self.with_session(reference, request.get_ref(), seen).await,
            None if request.get_ref().model.is_empty() => {
                Err(WireError::Missing("session or model").into())
            }
            None => {
                let tenant = auth::tenant(&request)?;
                inline::infer(&self.0, tenant, request.get_ref(), seen).await
            }
        };
        answer.map(Response::new).map_err(|error| {
            tracing::debug!(error = error_text(&error), "a call of Infer failed");
            error.into()
        })
    }
}
