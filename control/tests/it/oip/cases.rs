//! Models as others export them, over the protocol and over the service that this server has of its
//! own: one way through the code, and one answer.

use ferry_conformance::cases::{self, Tensor};
use ferry_core::DType;
use ferry_proto::v1::inference_client::InferenceClient;
use ferry_proto::{oip, v1};

use super::{client, input};
use crate::common::Running;

/// A request in bytes, or in lists of numbers.
fn request(model: &str, inputs: &[(String, Tensor)], in_lists: bool) -> oip::ModelInferRequest {
    let mut request =
        oip::ModelInferRequest { model_name: model.into(), ..oip::ModelInferRequest::default() };
    for (name, tensor) in inputs {
        let shape: Vec<i64> = tensor.shape.iter().map(|&size| size.try_into().unwrap()).collect();
        let mut given = input(name, tensor.dtype, &shape);
        if in_lists {
            given.contents = Some(list(tensor));
        } else {
            request.raw_input_contents.push(tensor.bytes.clone().into());
        }
        request.inputs.push(given);
    }
    request
}

fn list(tensor: &Tensor) -> oip::InferTensorContents {
    let mut contents = oip::InferTensorContents::default();
    let bytes = &tensor.bytes;
    match tensor.dtype {
        DType::Bool => contents.bool_contents = bytes.iter().map(|&it| it != 0).collect(),
        DType::I64 => {
            contents.int64_contents =
                bytes.as_chunks().0.iter().map(|it| i64::from_ne_bytes(*it)).collect();
        }
        DType::F32 => {
            contents.fp32_contents =
                bytes.as_chunks().0.iter().map(|it| f32::from_ne_bytes(*it)).collect();
        }
        other => panic!("no list for {other}"),
    }
    contents
}

/// The same by the service that this server has of its own.
fn ours(model: &str, inputs: &[(String, Tensor)]) -> v1::InferRequest {
    let input = |(name, tensor): &(String, Tensor)| v1::InlineTensor {
        name: name.clone(),
        datatype: tensor.dtype.name().to_owned(),
        shape: tensor.shape.clone(),
        contents: tensor.bytes.clone().into(),
    };
    let inputs = inputs.iter().map(input).collect();
    v1::InferRequest { model: model.into(), inputs, ..v1::InferRequest::default() }
}

/// Name, type, shape and bytes of each output.
type Outputs = Vec<(String, String, Vec<u64>, bytes::Bytes)>;

fn outputs_of_ours(answer: v1::InferResponse) -> Outputs {
    answer.outputs.into_iter().map(|it| (it.name, it.datatype, it.shape, it.contents)).collect()
}

fn outputs(answer: oip::ModelInferResponse) -> Outputs {
    assert_eq!(answer.outputs.len(), answer.raw_output_contents.len());
    let all = answer.outputs.into_iter().zip(answer.raw_output_contents);
    let sizes = |shape: Vec<i64>| shape.into_iter().map(|size| size.try_into().unwrap()).collect();
    all.map(|(it, bytes)| (it.name, it.datatype, sizes(it.shape), bytes)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_model_answers_as_it_does_without_the_protocol_for_bytes_and_for_lists() {
    let folder = tempfile::tempdir().unwrap();
    let all = cases::onnx();
    for case in &all {
        std::fs::copy(&case.model, folder.path().join(format!("{}.onnx", case.name))).unwrap();
        let toml = folder.path().join(format!("{}.toml", case.name));
        std::fs::write(toml, "engine = 'tract'\n").unwrap();
    }
    let path = folder.path().to_owned();
    let server = Running::start(|config| config.models = Some(path)).await;
    let mut client = client(&server);
    let mut inference = InferenceClient::new(server.channel.clone());
    let mut answered = 0;
    for case in &all {
        for (exchange, in_lists) in case.requests.iter().flat_map(|it| [(it, false), (it, true)]) {
            let ours = inference.infer(ours(&case.name, &exchange.inputs)).await;
            let theirs = client.model_infer(request(&case.name, &exchange.inputs, in_lists)).await;
            let name = &case.name;
            match (ours, theirs) {
                (Ok(ours), Ok(theirs)) => {
                    answered += 1;
                    let theirs = outputs(theirs.into_inner());
                    assert_eq!(outputs_of_ours(ours.into_inner()), theirs, "{name}");
                }
                (Err(ours), Err(theirs)) => assert_eq!(ours.code(), theirs.code(), "{name}"),
                (ours, theirs) => panic!("{name}: {ours:?} and {theirs:?}"),
            }
        }
    }
    // What tract does not have is refused both ways.
    assert!(answered > 40, "{answered}");
    server.stop().await;
}
