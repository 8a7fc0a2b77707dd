//! What a session cannot be opened with, and what the answer says.

use ferry_core::{LinkKind, Transport};
use ferry_proto::v1;
use tonic::Code;
use tonic_types::StatusExt;

use crate::common::{Running, ask};

/// What is asked for, the code of the answer, and what its text has to say.
fn cases() -> Vec<(v1::OpenSessionRequest, Code, &'static str)> {
    let base = || ask(Transport::Tcp, 64, 64);
    let shape = |name: &str| v1::TensorShape { name: name.into(), shape: vec![1, 2] };
    vec![
        (
            v1::OpenSessionRequest { model: "ecko".into(), ..base() },
            Code::NotFound,
            "echo version 1",
        ),
        (v1::OpenSessionRequest { version: 9, ..base() }, Code::NotFound, "echo version 1"),
        (
            v1::OpenSessionRequest { shapes: vec![shape("x")], ..base() },
            Code::InvalidArgument,
            "input, output",
        ),
        (
            v1::OpenSessionRequest { shapes: vec![shape("input")], ..base() },
            Code::InvalidArgument,
            "[in]",
        ),
        (v1::OpenSessionRequest { slots: 65, ..base() }, Code::InvalidArgument, "1 to 64"),
        (
            v1::OpenSessionRequest { request_bytes_min: 1 << 40, ..base() },
            Code::InvalidArgument,
            "request-bytes-max",
        ),
        (
            v1::OpenSessionRequest { protocol_min: 3, protocol_max: 4, ..base() },
            Code::FailedPrecondition,
            "update the server",
        ),
        (
            v1::OpenSessionRequest { protocol_min: 0, protocol_max: 0, ..base() },
            Code::FailedPrecondition,
            "update the client",
        ),
        (v1::OpenSessionRequest { run_id: 77, ..base() }, Code::NotFound, "Runs.Start"),
        (
            v1::OpenSessionRequest { transport: "udp".into(), ..base() },
            Code::InvalidArgument,
            "transport",
        ),
        (ask(Transport::Zmq, 64, 64), Code::FailedPrecondition, "--lanes zmq=1"),
        (ask(Transport::Local, 64, 64), Code::FailedPrecondition, "ferry bench --transport local"),
        (ask(Transport::Rdma, 64, 64), Code::FailedPrecondition, "look for RDMA devices"),
        (ask(Transport::Gdr, 64, 64), Code::FailedPrecondition, "needs a lane of rdma"),
        (ask(Transport::CudaIpc, 64, 64), Code::FailedPrecondition, "CPU"),
        (
            v1::OpenSessionRequest { host_id: "else".into(), ..ask(Transport::Shm, 64, 64) },
            Code::FailedPrecondition,
            "ask for tcp",
        ),
        (
            v1::OpenSessionRequest {
                placement: Some(v1::Placement { cuda_ordinal: Some(0), ..Default::default() }),
                ..base()
            },
            Code::InvalidArgument,
            "runs on the CPU",
        ),
        (
            v1::OpenSessionRequest { client: "x".repeat(1000), ..base() },
            Code::InvalidArgument,
            "at most 256",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_says_what_would_do() {
    let server = Running::start(|config| config.lanes.set(LinkKind::Zmq, 0).unwrap()).await;
    for (asked, code, hint) in cases() {
        let status = server.open(asked.clone()).await.unwrap_err();
        assert_eq!(status.code(), code, "{asked:?}: {status:?}");
        assert!(status.message().contains(hint), "{hint}: {}", status.message());
    }
    assert_eq!(server.state.sessions.count(), 0);
    let status = server.open(ask(Transport::Rdma, 64, 64)).await.unwrap_err();
    let failure = status.get_details_precondition_failure().unwrap();
    assert_eq!(failure.violations[0].subject, "rdma");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_sessions_and_wrong_tokens_are_answered_alike() {
    let server = Running::start(|_| {}).await;
    let opened = server.open(ask(Transport::Grpc, 64, 64)).await.unwrap();
    let good = opened.session.unwrap();
    let mut token = good.clone();
    token.token = vec![0; 32].into();
    let unknown = v1::SessionRef { session_id: 5, ..good.clone() };
    let generation = v1::SessionRef { generation: 2, ..good.clone() };
    let mut answers = Vec::new();
    for bad in [token, unknown, generation] {
        let session = Some(bad);
        let close = v1::CloseSessionRequest { session: session.clone() };
        answers.push(server.sessions().close(close).await.unwrap_err());
        let resume = v1::ResumeSessionRequest { session: session.clone() };
        answers.push(server.sessions().resume(resume).await.unwrap_err());
        let mut inference = v1::inference_client::InferenceClient::new(server.channel.clone());
        let request = v1::InferRequest { session, ..Default::default() };
        answers.push(inference.infer(request).await.unwrap_err());
    }
    for answer in &answers {
        assert_eq!(answer.code(), Code::NotFound);
        assert_eq!(answer.message(), answers[0].message());
    }
    assert_eq!(server.state.refusals.total(), 9);
    let short = v1::SessionRef { token: vec![1].into(), ..good };
    let close = v1::CloseSessionRequest { session: Some(short) };
    let short = server.sessions().close(close).await.unwrap_err();
    assert_eq!(short.code(), Code::InvalidArgument);
    server.stop().await;
}
