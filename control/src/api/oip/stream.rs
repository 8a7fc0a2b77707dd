//! Inferences that come in one stream, and whose answers leave in another.

use std::sync::Arc;
use std::time::Instant;

use ferry_memory::PeerId;
use ferry_proto::oip::{ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tonic::metadata::MetadataMap;
use tonic::{Status, Streaming};

use super::parameters::{FINAL_RESPONSE, flag};
use super::service::infer;
use crate::error::ApiError;
use crate::serving::inline::Came;
use crate::state::State;
use crate::tenants::Tenant;

/// Requests of one stream that are served at a time; the next one is read when the oldest is
/// answered. Each counts in its tenant's quota as a session of one slot.
const IN_FLIGHT: usize = 32;

/// Answers, in the order of the requests.
pub(super) type Answers = BoxStream<'static, Result<ModelStreamInferResponse, Status>>;

/// Metadata by which a client asks that the first failure ends its stream.
const ENDS_METADATA: &str = "triton_grpc_error";

/// Who has a stream.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) state: Arc<State>,
    pub(super) tenant: Arc<Tenant>,
    pub(super) peer: PeerId,
}

/// Whether the first failure is to end the stream.
///
/// # Errors
/// [`ApiError::Field`] for what is neither yes nor no.
pub(super) fn ends(metadata: &MetadataMap) -> Result<bool, ApiError> {
    let Some(value) = metadata.get(ENDS_METADATA) else { return Ok(false) };
    let is = |text: &str| value.as_bytes().eq_ignore_ascii_case(text.as_bytes());
    match (is("true"), is("false")) {
        (false, false) => Err(ApiError::field(ENDS_METADATA, "give true or false")),
        (yes, _) => Ok(yes),
    }
}

/// Serves what comes. An inference that fails is an answer with its reason, unless the first
/// failure is to end the stream: `ends`.
pub(super) fn serve(caller: Caller, requests: Streaming<ModelInferRequest>, ends: bool) -> Answers {
    let one = move |message: Result<ModelInferRequest, Status>| {
        let Caller { state, tenant, peer } = caller.clone();
        let came = Came { peer, ..Came::from(Instant::now()) };
        async move {
            let message = message?;
            let (name, id) = (message.model_name.clone(), message.id.clone());
            match infer(&state, &tenant, message, came).await {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_a_failure_ends_the_stream_is_yes_or_no_however_it_is_written() {
        let of = |text: &'static str| {
            let mut metadata = MetadataMap::new();
            metadata.insert(ENDS_METADATA, text.parse().unwrap());
            ends(&metadata)
        };
        for yes in ["true", "TRUE", "True"] {
            assert!(of(yes).unwrap(), "{yes}");
        }
        assert!(!of("false").unwrap() && !of("FALSE").unwrap());
        assert!(!ends(&MetadataMap::new()).unwrap());
        for neither in ["1", "yes", ""] {
            assert!(of(neither).unwrap_err().to_string().starts_with(ENDS_METADATA), "{neither}");
        }
    }
}
