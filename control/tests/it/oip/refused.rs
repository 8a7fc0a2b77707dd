//! What bad input gets: a status, and a message that names the field.

use ferry_core::DType;
use ferry_proto::codec::BoundedCodec;
use ferry_proto::oip::infer_parameter::ParameterChoice;
use ferry_proto::{oip, v1};
use tonic::{Code, Request};

use super::{client, identity, input, number, output, parameter, text};
use crate::common::Running;

const GOOD: [u8; 16] = [1; 16];

/// A good request that `edit` spoils.
fn spoilt(edit: impl FnOnce(&mut oip::ModelInferRequest)) -> oip::ModelInferRequest {
    let mut request = identity(&[1, 2, 2], &GOOD);
    edit(&mut request);
    request
}

fn with(name: &str, value: oip::InferParameter) -> oip::ModelInferRequest {
    spoilt(|it| drop(it.parameters.insert(name.into(), value)))
}

fn input_with(parameters: &[(&str, oip::InferParameter)]) -> oip::ModelInferRequest {
    spoilt(|it| {
        it.raw_input_contents.clear();
        for (name, value) in parameters {
            it.inputs[0].parameters.insert((*name).to_owned(), value.clone());
        }
    })
}

fn ints(values: &[i32]) -> oip::InferTensorContents {
    oip::InferTensorContents { int_contents: values.to_vec(), ..Default::default() }
}

fn floats(count: usize) -> oip::InferTensorContents {
    oip::InferTensorContents { fp32_contents: vec![1.0; count], ..Default::default() }
}

/// Each with the status that it gets, and words of its message.
fn tensors() -> Vec<(oip::ModelInferRequest, Code, &'static str)> {
    let invalid = Code::InvalidArgument;
    vec![
        (spoilt(|it| it.model_name = "none".into()), Code::NotFound, "echo version 1"),
        (spoilt(|it| it.model_name.clear()), Code::NotFound, "echo version 1"),
        (spoilt(|it| it.model_version = "9".into()), Code::NotFound, "version 9"),
        (spoilt(|it| it.model_version = "-2".into()), invalid, "model_version"),
        (spoilt(|it| it.inputs[0].datatype = "INT32".into()), invalid, "it is FP32"),
        (spoilt(|it| it.inputs[0].datatype = "FP31".into()), invalid, "\"INPUT0\""),
        (spoilt(|it| it.inputs[0].datatype = "BYTES".into()), invalid, "BYTES is for texts"),
        (spoilt(|it| it.inputs[0].name = "INPUT1".into()), invalid, "INPUT0 FP32"),
        (spoilt(|it| it.inputs.clear()), invalid, "raw_input_contents: 1 entries"),
        (
            spoilt(|it| (it.inputs, it.raw_input_contents) = (Vec::new(), Vec::new())),
            invalid,
            "INPUT0 FP32[d0,d1,d2] is missing",
        ),
        (spoilt(|it| it.inputs.push(it.inputs[0].clone())), invalid, "\"INPUT0\" twice"),
        (spoilt(|it| it.inputs[0].shape = vec![4]), invalid, "\"INPUT0\" has shape [4]"),
        (spoilt(|it| it.inputs[0].shape = vec![-1, 2, 2]), invalid, "inputs.shape: \"INPUT0\""),
        (spoilt(|it| it.inputs[0].shape = vec![i64::MAX; 3]), invalid, "has 16 bytes"),
        (spoilt(|it| it.inputs[0].shape = vec![1, 2, 3]), invalid, "takes 24"),
        (spoilt(|it| it.raw_input_contents[0] = vec![1; 15].into()), invalid, "has 15 bytes"),
        (spoilt(|it| it.raw_input_contents[0] = vec![1; 17].into()), invalid, "has 17 bytes"),
        (spoilt(|it| it.raw_input_contents.push(vec![].into())), invalid, "2 entries"),
        (spoilt(|it| it.raw_input_contents.clear()), invalid, "\"INPUT0\" has none"),
        (spoilt(|it| it.inputs[0].contents = Some(floats(4))), invalid, "and raw_input_contents"),
        (typed(ints(&[1, 2, 3, 4])), invalid, "fill fp32_contents, and not int_contents"),
        (typed(floats(3)), invalid, "inputs.contents: \"INPUT0\" has 12 bytes"),
        (typed(floats(5)), invalid, "takes 16"),
        (spoilt(|it| it.outputs = vec![output("OUTPUT1", &[])]), invalid, "OUTPUT0 FP32"),
        (
            spoilt(|it| it.outputs = vec![output("OUTPUT0", &[]), output("OUTPUT0", &[])]),
            invalid,
            "\"OUTPUT0\" twice",
        ),
    ]
}

fn typed(contents: oip::InferTensorContents) -> oip::ModelInferRequest {
    spoilt(|it| {
        it.raw_input_contents.clear();
        it.inputs[0].contents = Some(contents);
    })
}

fn parameters() -> Vec<(oip::ModelInferRequest, Code, &'static str)> {
    let (invalid, not_served) = (Code::InvalidArgument, Code::Unimplemented);
    let flag = || parameter(ParameterChoice::BoolParam(true));
    let out = |parameters: &[(&str, oip::InferParameter)]| {
        let output = output("OUTPUT0", parameters);
        spoilt(|it| it.outputs = vec![output])
    };
    let (region, offset, size) =
        ("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size");
    vec![
        (with("sequence_id", number(3)), not_served, "sequence_id"),
        (with("sequence_id", text("a")), not_served, "sequence_id"),
        (with("sequence_start", flag()), not_served, "sequence_start"),
        (with("sequence_end", flag()), not_served, "sequence_end"),
        (with("triton_final_response", flag()), not_served, "triton_final_response"),
        (with("priority", number(-1)), invalid, "priority: "),
        (with("timeout", number(-1)), invalid, "timeout: "),
        (with("timeout", text("soon")), invalid, "timeout: "),
        (out(&[("classification", number(-1))]), invalid, "classification: "),
        (input_with(&[(region, text("r"))]), invalid, "shared_memory_byte_size: "),
        (input_with(&[(size, number(16))]), invalid, "shared_memory_region: "),
        (input_with(&[(region, number(1)), (size, number(16))]), invalid, "string_param"),
        (input_with(&[(region, text("r")), (size, number(16))]), Code::NotFound, "\"r\""),
        (
            input_with(&[(region, text("r")), (size, number(16)), (offset, number(-4))]),
            invalid,
            "shared_memory_offset: ",
        ),
        (out(&[(region, text("r")), (size, number(16))]), Code::NotFound, "\"r\""),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_request_gets_its_status_and_the_name_of_the_field() {
    let server = Running::start(|_| {}).await;
    let mut client = client(&server);
    for (bad, code, words) in tensors().into_iter().chain(parameters()) {
        let shown = format!("{bad:?}");
        let refused = client.model_infer(bad).await.expect_err(&shown);
        assert_eq!(refused.code(), code, "{refused:?} for {shown}");
        assert!(refused.message().contains(words), "{:?} has no {words}", refused.message());
    }
    let answer = client.model_infer(spoilt(|_| {})).await.unwrap().into_inner();
    assert_eq!(answer.raw_output_contents, [GOOD.to_vec()]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_would_take_too_much_memory_are_refused_before_they_are_decoded() {
    let server = Running::start(|_| {}).await;
    let mut client = client(&server);
    let zeros = oip::InferTensorContents { int64_contents: vec![0; 4 << 20], ..Default::default() };
    let many = vec![input("INPUT0", DType::F32, &[]); 100_000];
    for bad in [typed(zeros), spoilt(|it| it.inputs = many)] {
        let refused = client.model_infer(bad).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        assert!(refused.message().contains("ModelInferRequest"), "{}", refused.message());
    }
    let settings = (0..5000).map(|at| (at.to_string(), Default::default())).collect();
    let asked = oip::TraceSettingRequest { settings, model_name: String::new() };
    let refused = client.trace_setting(asked).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    let long = oip::ModelReadyRequest { name: "x".repeat(300 << 10), version: String::new() };
    let refused = client.model_ready(long).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_drains_says_so() {
    let server = Running::start(|_| {}).await;
    let mut client = client(&server);
    server.state.gate.close();
    assert!(!client.server_ready(oip::ServerReadyRequest {}).await.unwrap().into_inner().ready);
    assert!(client.server_live(oip::ServerLiveRequest {}).await.unwrap().into_inner().live);
    let refused = client.model_infer(spoilt(|_| {})).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_message_are_their_senders_fault() {
    let server = Running::start(|_| {}).await;
    let mut raw = tonic::client::Grpc::new(server.channel.clone());
    raw.ready().await.unwrap();
    // Its second field is a text in the message that is expected.
    let other = v1::InferRequest { payload: vec![0xff; 8].into(), ..Default::default() };
    let codec = BoundedCodec::<v1::InferRequest, oip::ModelInferResponse>::default();
    let path = "/inference.GRPCInferenceService/ModelInfer".parse().unwrap();
    let refused = raw.unary(Request::new(other), path, codec).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().starts_with("ModelInferRequest: "), "{refused:?}");
    server.stop().await;
}
