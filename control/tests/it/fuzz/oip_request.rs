//! `ModelInferRequest`: from its bytes to an answer.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;

use ferry_control::api::OipService;
use ferry_proto::cost;
use ferry_proto::oip::grpc_inference_service_server::GrpcInferenceService;
use ferry_proto::oip::infer_parameter::ParameterChoice;
use ferry_proto::oip::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use ferry_proto::oip::{InferParameter, InferTensorContents, ModelInferRequest};
use prost::Message;
use tonic::{Code, Request};

use crate::common::Running;

/// Of the region that inputs of the folder name.
const REGION_BYTES: usize = 32;

/// What a message holds in memory beside the bytes that it shares with its wire.
fn heap_bytes(message: &ModelInferRequest) -> usize {
    let parameters = |all: &HashMap<String, InferParameter>| {
        let text = |it: &InferParameter| match &it.parameter_choice {
            Some(ParameterChoice::StringParam(text)) => text.capacity(),
            _ => 0,
        };
        let texts: usize = all.iter().map(|(name, it)| name.capacity() + text(it)).sum();
        texts + all.capacity() * size_of::<(String, InferParameter)>()
    };
    let ModelInferRequest { model_name, model_version, id, inputs, outputs, .. } = message;
    let of_inputs = inputs.iter().map(|it| {
        let lists = it.contents.as_ref().map_or(0, lists);
        it.name.capacity()
            + it.datatype.capacity()
            + it.shape.capacity() * 8
            + lists
            + parameters(&it.parameters)
    });
    let of_outputs = outputs.iter().map(|it| it.name.capacity() + parameters(&it.parameters));
    let own = model_name.capacity() + model_version.capacity() + id.capacity();
    own + of_inputs.sum::<usize>()
        + of_outputs.sum::<usize>()
        + parameters(&message.parameters)
        + inputs.capacity() * size_of::<InferInputTensor>()
        + outputs.capacity() * size_of::<InferRequestedOutputTensor>()
        + message.raw_input_contents.capacity() * size_of::<bytes::Bytes>()
}

fn lists(all: &InferTensorContents) -> usize {
    all.bool_contents.capacity()
        + 4 * (all.int_contents.capacity()
            + all.uint_contents.capacity()
            + all.fp32_contents.capacity())
        + 8 * (all.int64_contents.capacity() + all.uint64_contents.capacity())
        + 8 * all.fp64_contents.capacity()
        + all.bytes_contents.capacity() * size_of::<bytes::Bytes>()
}

/// What the server does with a message of these bytes, as its codec decodes it.
async fn target(server: &Running, input: Vec<u8>) -> String {
    let wire = bytes::Bytes::from(input);
    if let Err(refused) = cost::check("ModelInferRequest", &wire) {
        return super::shape(&refused.to_string());
    }
    let Ok(message) = ModelInferRequest::decode(wire.clone()) else { return "no message".into() };
    let limit = cost::decoded_max("ModelInferRequest", wire.len()).unwrap();
    assert!(heap_bytes(&message) <= limit, "{} bytes of {limit}", heap_bytes(&message));
    let is_echo = message.model_name == "echo";
    let given = message.raw_input_contents.first().cloned();
    let is_whole = message.outputs.iter().all(|it| it.parameters.is_empty());
    let mut request = Request::new(message);
    request.extensions_mut().insert(server.state.tenants.identify(None));
    match OipService(server.state.clone()).model_infer(request).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            assert_eq!(answer.outputs.len(), answer.raw_output_contents.len(), "{answer:?}");
            if is_echo
                && is_whole
                && let Some(given) = given
            {
                assert_eq!(answer.raw_output_contents, [given], "an identity");
            }
            format!("ok {} {}", answer.outputs.len(), answer.parameters.len())
        }
        Err(status) => {
            let known = [
                Code::InvalidArgument,
                Code::NotFound,
                Code::FailedPrecondition,
                Code::ResourceExhausted,
                Code::DeadlineExceeded,
                Code::Unimplemented,
            ];
            assert!(known.contains(&status.code()), "{status:?}");
            assert!(!status.message().is_empty(), "{status:?}");
            format!("{:?} {}", status.code(), super::shape(status.message()))
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_a_request_end_in_an_answer_or_a_status_of_the_table() {
    let models = tempfile::tempdir().unwrap();
    crate::oip::put_digits(models.path());
    let server = Running::start(|config| config.models = Some(models.path().to_owned())).await;
    let file = tempfile::Builder::new().prefix("ferry-fuzz-").tempfile_in("/dev/shm").unwrap();
    file.as_file().write_all_at(&[1; REGION_BYTES], 0).unwrap();
    let key = file.path().file_name().unwrap().to_str().unwrap();
    let tenant = server.state.tenants.everybody();
    let bytes = u64::try_from(REGION_BYTES).unwrap();
    server.state.regions.register(tenant, "region", key, 0, bytes).unwrap();
    let did = super::search("oip_request", |input| target(&server, input)).await;
    for reached in ["ok ", "no message", "InvalidArgument inputsname", "NotFound", "too long"] {
        assert!(did.iter().any(|it| it.contains(reached)), "{reached:?} is not in {did:#?}");
    }
    server.stop().await;
}
