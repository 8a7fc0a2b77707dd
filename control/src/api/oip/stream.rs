//! Inferences that come in one stream, and whose answers leave in another.

use std::sync::Arc;
use std::time::Instant;

use ferry_proto::oip::{ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tonic::{Status, Streaming};

use super::parameters::{FINAL_RESPONSE, flag};
use super::service::infer;
use crate::state::State;
use crate::tenants::Tenant;

/// Requests of one stream that are served at a time; the next one is read when the oldest is
/// answered. Each counts in its tenant's quota as a session of one slot.
const IN_FLIGHT: usize = 32;

/// Answers, in the order of the requests.
pub(super) type Answers = BoxStream<'static, Result<ModelStreamInferResponse, Status>>;

/// Serves what comes. An inference that fails is an answer with its reason, unless the first
/// failure is to end the stream: `ends`.
pub(super) fn serve(
    state: Arc<State>,
    tenant: Arc<Tenant>,
    requests: Streaming<ModelInferRequest>,
    ends: bool,
) -> Answers {
    let one = move |message: Result<ModelInferRequest, Status>| {
        let (seen, state, tenant) = (Instant::now(), Arc::clone(&state), Arc::clone(&tenant));
        async move {
            let message = message?;
            let (name, id) = (message.model_name.clone(), message.id.clone());
            match infer(&state, &tenant, message, seen).await {
                Ok(answer) => Ok(good(answer)),
                Err(error) if ends => Err(error.into()),
                Err(error) => Ok(bad(&error.into(), name, id)),
            }
        }
    };
    requests.map(one).buffered(IN_FLIGHT).boxed()
}

/// Every model here sends one response, so that each is the last.
fn good(mut answer: ModelInferResponse) -> ModelStreamInferResponse {
    answer.parameters.insert(FINAL_RESPONSE.to_owned(), flag(true));
    ModelStreamInferResponse { infer_response: Some(answer), ..Default::default() }
}

fn bad(status: &Status, model_name: String, id: String) -> ModelStreamInferResponse {
    let parameters = [(FINAL_RESPONSE.to_owned(), flag(true))].into();
    ModelStreamInferResponse {
        error_message: status.message().to_owned(),
        infer_response: Some(ModelInferResponse {
            model_name,
            id,
            parameters,
            ..ModelInferResponse::default()
        }),
    }
}
