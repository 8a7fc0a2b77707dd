//! `ferry.v1.Inference`: the tensor inside the call.

use std::sync::Arc;

use ferry_core::{Status, Transport, error_text};
use ferry_proto::{WireError, batch_rows_to_wire, output_shapes_to_wire, server_times_to_wire, v1};
use tonic::{Request, Response};

use super::{auth, came, from_wire, to_wire, told};
use crate::error::ApiError;
use crate::serving::call::{Call, Came, answer, serve};
use crate::serving::payload;
use crate::sessions::Session;
use crate::state::State;
use crate::tenants::Identity;

/// The service.
#[derive(Clone, Debug)]
pub struct InferenceService(pub Arc<State>);

impl InferenceService {
    fn prove(&self, who: &Identity, reference: &v1::SessionRef) -> Result<Arc<Session>, ApiError> {
        let (id, token, generation) = reference.parts()?;
        let proved = self.0.sessions.prove(id, &token, generation);
        if let Err(error) = &proved {
            self.0.refusals.note("grpc", "credentials", Some(id), who.name(), error);
        }
        proved
    }

    async fn with_session(
        &self,
        reference: &v1::SessionRef,
        request: &Request<v1::InferRequest>,
        came: Came,
    ) -> Result<v1::InferResponse, ApiError> {
        let session = self.prove(auth::identity(request)?, reference)?;
        let request = request.get_ref();
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
        let what = from_wire::what(request.info.as_ref())?;
        let binding = &session.agreed.binding;
        payload::place(&mut slot, binding, what.kind, payload_in).map_err(|_out_of_range| {
            let (has, room) = (payload_in.len(), session.agreed.layout.request_bytes);
            ApiError::field("payload", format!("{has} bytes; the session has room for {room}"))
        })?;
        let (generation, number) = (session.generation(), request.request);
        let call = Call { session: session.id, generation, request: number, what, came };
        let route = session.route();
        let mut departure =
            serve(&route, call.arrival(slot, payload_in.len()), came.deadline).await?;
        let payload = answer(&route, &mut departure)?;
        Ok(v1::InferResponse {
            payload,
            server_times: server_times_to_wire(&departure.times),
            batch_rows: batch_rows_to_wire(&departure.times),
            output_shapes: output_shapes_to_wire(departure.outputs.as_deref()),
            session_id: session.id.0,
            ..v1::InferResponse::default()
        })
    }

    async fn without_session(
        &self,
        request: Request<v1::InferRequest>,
        came: Came,
    ) -> Result<v1::InferResponse, ApiError> {
        let tenant = auth::tenant(&request)?;
        let who = auth::identity(&request)?.clone();
        let request = request.into_inner();
        if request.model.is_empty() {
            return Err(WireError::Missing("session or model").into());
        }
        let reply = self.0.inline.infer(tenant, &from_wire::inline(request)?, came).await;
        let reply = reply.map_err(|error| told::error(&self.0, &who, error))?;
        Ok(to_wire::inline(&reply))
    }
}

#[tonic::async_trait]
impl v1::inference_server::Inference for InferenceService {
    async fn infer(
        &self,
        request: Request<v1::InferRequest>,
    ) -> Result<Response<v1::InferResponse>, tonic::Status> {
        let came = came::of(&request);
        let timeout = ferry_proto::timeout(request.get_ref().timeout_us);
        let came = came.until(timeout.and_then(|it| came.seen.checked_add(it)));
        if self.0.takes_new().is_err() {
            let text = "the server is draining: use another one".to_owned();
            return Err(ApiError::Request { status: Status::Draining, text }.into());
        }
        let answer = match &request.get_ref().session {
            Some(reference) => self.with_session(reference, &request, came).await,
            None => self.without_session(request, came).await,
        };
        answer.map(Response::new).map_err(|error| {
            tracing::debug!(error = error_text(&error), "a call of Infer failed");
            error.into()
        })
    }
}
