//! Inferences in a stream.

use ferry_proto::oip;
use ferry_proto::oip::infer_parameter::ParameterChoice;
use futures_util::stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};

use super::{client, identity, parameter};
use crate::common::{LONG, Running, until};

fn numbered(number: u8) -> oip::ModelInferRequest {
    oip::ModelInferRequest { id: number.to_string(), ..identity(&[1, 1, 2], &[number; 8]) }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_in_the_order_of_the_requests_and_failures_among_them() {
    let server = Running::start(|_| {}).await;
    let bad = |number: u8| number % 7 == 3;
    let requests = (0..200).map(move |number| {
        let mut request = numbered(number);
        if bad(number) {
            request.raw_input_contents[0] = vec![0; 7].into();
        }
        if number % 2 == 0 {
            let flag = parameter(ParameterChoice::BoolParam(true));
            request.parameters.insert("triton_enable_empty_final_response".into(), flag);
        }
        request
    });
    let answers = client(&server).model_stream_infer(stream::iter(requests)).await.unwrap();
    let mut answers = answers.into_inner();
    for number in 0..200 {
        let answer = answers.message().await.unwrap().unwrap();
        let response = answer.infer_response.unwrap();
        assert_eq!(response.id, number.to_string());
        let is_final = response.parameters["triton_final_response"].parameter_choice.clone();
        assert_eq!(is_final, Some(ParameterChoice::BoolParam(true)));
        if bad(number) {
            assert!(answer.error_message.contains("has 7 bytes"), "{}", answer.error_message);
            assert!(response.outputs.is_empty());
        } else {
            assert_eq!(answer.error_message, "");
            assert_eq!(response.raw_output_contents, [vec![number; 8]]);
        }
    }
    assert!(answers.message().await.unwrap().is_none());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_ask_that_the_first_failure_ends_its_stream() {
    let server = Running::start(|_| {}).await;
    let mut bad = numbered(1);
    bad.model_name = "none".into();
    let requests = [numbered(0), bad, numbered(2)];
    let mut request = Request::new(stream::iter(requests));
    request.metadata_mut().insert("triton_grpc_error", "true".parse().unwrap());
    let answers = client(&server).model_stream_infer(request).await.unwrap();
    let mut answers = answers.into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().infer_response.unwrap().id, "0");
    assert_eq!(answers.message().await.unwrap_err().code(), Code::NotFound);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_answers_while_it_is_open_and_leaves_nothing_when_it_is_dropped() {
    let server = Running::start(|_| {}).await;
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let mut client = client(&server);
    let answers = client.model_stream_infer(ReceiverStream::new(receiver)).await.unwrap();
    let mut answers = answers.into_inner();
    for number in 0..5 {
        sender.send(numbered(number)).await.unwrap();
        let answer = tokio::time::timeout(LONG, answers.message()).await.unwrap().unwrap();
        assert_eq!(answer.unwrap().infer_response.unwrap().id, number.to_string());
    }
    // Half-way: more is under way than is read.
    for number in 0..4 {
        sender.send(numbered(number)).await.unwrap();
    }
    drop((answers, sender));
    let identity = server.state.tenants.identify(None);
    let tenant = identity.tenant().unwrap();
    until("nothing is held", || tenant.held().sessions == 0 && tenant.in_flight() == 0).await;
    client.model_infer(numbered(1)).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_holds_back_itself_alone() {
    let server = Running::start(|_| {}).await;
    let large = || identity(&[1, 1, 250_000], &vec![1; 1_000_000]);
    let mut client = client(&server);
    let requests = stream::iter((0..1000).map(move |_| large()));
    let answers = client.model_stream_infer(requests).await.unwrap();
    client.model_infer(numbered(1)).await.unwrap();
    let identity = server.state.tenants.identify(None);
    let tenant = identity.tenant().unwrap();
    assert!(tenant.held().sessions <= 33, "{:?}", tenant.held());
    drop(answers);
    until("nothing is held", || tenant.held().sessions == 0).await;
    server.stop().await;
}
