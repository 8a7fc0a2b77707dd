//! The Open Inference Protocol, as its clients see it.

mod cases;
mod infer;
mod memory;
mod metadata;
mod refused;
mod repository;
mod statistics;
mod stream;

use std::path::Path;

use ferry_core::DType;
use ferry_proto::channel::MESSAGE_BYTES_MAX;
use ferry_proto::oip;
use ferry_proto::oip::grpc_inference_service_client::GrpcInferenceServiceClient;
use ferry_proto::oip::infer_parameter::ParameterChoice;
use ferry_proto::oip::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use tonic::transport::Channel;

use crate::common::Running;
pub(crate) use memory::Shm;

type Client = GrpcInferenceServiceClient<Channel>;

fn client(server: &Running) -> Client {
    Client::new(server.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

fn input(name: &str, dtype: DType, shape: &[i64]) -> InferInputTensor {
    let (name, datatype) = (name.to_owned(), dtype.name().to_owned());
    InferInputTensor { name, datatype, shape: shape.to_vec(), ..Default::default() }
}

/// Asks the identity for these bytes, as floats of this shape.
fn identity(shape: &[i64], bytes: &[u8]) -> oip::ModelInferRequest {
    oip::ModelInferRequest {
        model_name: "echo".into(),
        id: "an id".into(),
        inputs: vec![input("INPUT0", DType::F32, shape)],
        raw_input_contents: vec![bytes.to_vec().into()],
        ..Default::default()
    }
}

fn parameter(choice: ParameterChoice) -> oip::InferParameter {
    oip::InferParameter { parameter_choice: Some(choice) }
}

fn number(value: i64) -> oip::InferParameter {
    parameter(ParameterChoice::Int64Param(value))
}

fn text(value: &str) -> oip::InferParameter {
    parameter(ParameterChoice::StringParam(value.into()))
}

fn output(name: &str, parameters: &[(&str, oip::InferParameter)]) -> InferRequestedOutputTensor {
    let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    InferRequestedOutputTensor { name: name.into(), parameters: parameters.collect() }
}

/// The digits for tract, with their labels.
pub(crate) fn put_digits(folder: &Path) {
    std::fs::write(folder.join("digits.onnx"), ferry_zoo::digits::onnx()).unwrap();
    let metadata = "engine = 'tract'\nlabels = 'digits.txt'\n";
    std::fs::write(folder.join("digits.toml"), metadata).unwrap();
    let labels: String = (0..10).map(|digit| format!("digit {digit}\n")).collect();
    std::fs::write(folder.join("digits.txt"), labels).unwrap();
}

/// Asks for a digit, and what it is.
pub(crate) fn a_digit() -> (oip::ModelInferRequest, u8) {
    let digit = ferry_zoo::digits::held_out().next().unwrap();
    let values = digit.pixels.iter().flat_map(|&pixel| (f32::from(pixel) / 255.0).to_ne_bytes());
    let request = oip::ModelInferRequest {
        model_name: "digits".into(),
        inputs: vec![input("input", DType::F32, &[1, 1, 8, 8])],
        raw_input_contents: vec![values.collect::<Vec<u8>>().into()],
        ..Default::default()
    };
    (request, digit.label)
}
