//! `ferry.v1.Inference`: the transport `grpc`.

use std::sync::Arc;

use ferry_core::Status;
use ferry_proto::{server_times_to_wire, v1};
use tonic::{Request, Response};

use super::{caller, inline};
use crate::error::ApiError;
use crate::sessions::{end, open};
use crate::state::State;

/// The service.
#[derive(Clone, Debug)]
pub struct InferenceService(pub Arc<State>);

type Reply<T> = Result<Response<T>, tonic::Status>;

impl InferenceService {
    /// A call with a session: nothing is made anew.
    async fn with_session(
        &self,
        reference: &v1::SessionRef,
        call: &v1::InferRequest,
    ) -> Result<v1::InferResponse, ApiError> {
        let (id, token, generation) = reference.parts()?;
        let proved = self.0.sessions.prove(id, &token, generation);
        let session = proved.inspect_err(|error| {
            self.0.refusals.note("grpc", "credentials", Some(id), None, error);
        })?;
        self.0.takes_new()?;
        let what = inline::what(call.info.as_ref())?;
        let answer = inline::serve(&session, call.request, what, &call.payload).await?;
        Ok(v1::InferResponse {
            payload: answer.payload,
            server_times: server_times_to_wire(&answer.times),
            session_id: id.0,
            ..Default::default()
        })
    }

    /// A call without one opens a session for itself: the same checks, quotas and rows.
    async fn without_session(
        &self,
        caller: crate::sessions::Caller,
        call: &v1::InferRequest,
    ) -> Result<v1::InferResponse, ApiError> {
        let what = inline::what(call.info.as_ref())?;
        let asked = inline::own_session(call, v1::Transport::Grpc);
        let opened = open(&self.0, caller, asked).await?;
        let session = opened.session;
        let served = async {
            let payload = inline::payload(call, &session.agreed.binding)?;
            inline::serve(&session, 1, what, &payload).await
        };
        let served = served.await;
        end(&self.0, &session, Status::SessionEnded, "closed").await;
        let answer = served?;
        Ok(v1::InferResponse {
            outputs: inline::outputs(&answer.payload, &session.agreed.binding),
            server_times: server_times_to_wire(&answer.times),
            model: session.served.name.clone(),
            version: session.served.version,
            engine: session.served.engine.to_owned(),
            session_id: session.id.0,
            ..Default::default()
        })
    }
}

#[tonic::async_trait]
impl v1::inference_server::Inference for InferenceService {
    async fn infer(&self, request: Request<v1::InferRequest>) -> Reply<v1::InferResponse> {
        let answer = match &request.get_ref().session {
            Some(reference) => self.with_session(reference, request.get_ref()).await?,
            None => {
                let caller = caller(&self.0, request.metadata())?;
                let (service, call) = (self.clone(), request.into_inner());
                // To the end even if the caller goes away: the session is not left to its lease.
                let served =
                    tokio::spawn(async move { service.without_session(caller, &call).await });
                served.await.map_err(|error| ApiError::Internal(error.to_string()))??
            }
        };
        Ok(Response::new(answer))
    }
}
