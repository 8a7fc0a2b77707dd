//! The link `local`, driven inside the server.

use ferry_core::{KindName, Stage};
use ferry_proto::v1;
use ferry_proto::v1::local_client::LocalClient;
use tonic::Code;

use crate::common::{Running, until};

fn shapes(bytes: u64) -> Vec<v1::TensorShape> {
    let shape = |name: &str| v1::TensorShape { name: name.into(), shape: vec![bytes] };
    vec![shape("input"), shape("output")]
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_comes_back_with_all_its_stages() {
    let server = Running::start(|_| {}).await;
    let mut local = LocalClient::new(server.channel.clone());
    let request = v1::InferRequest {
        model: "echo".into(),
        payload: vec![3; 100].into(),
        shapes: shapes(100),
        ..Default::default()
    };
    let answer = local.infer(request).await.unwrap().into_inner();
    assert_eq!(answer.payload, vec![3; 100]);
    assert_eq!(answer.stages.len(), Stage::COUNT);
    assert!(answer.stages[Stage::Total as usize] > answer.stages[Stage::Server as usize]);
    assert_ne!(answer.session_id, 0);
    assert_eq!(server.state.sessions.count(), 0, "its session is over");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drive_gives_one_row_per_request_after_the_warm_up_and_stores_them() {
    let server = Running::start(|_| {}).await;
    let mut local = LocalClient::new(server.channel.clone());
    let request = v1::DriveRequest {
        model: "echo".into(),
        clients: 3,
        requests: 5000,
        warmup: 100,
        window: 4,
        shapes: shapes(256),
        ..Default::default()
    };
    let mut batches = local.drive(request).await.unwrap().into_inner();
    let mut rows = Vec::new();
    while let Some(batch) = batches.message().await.unwrap() {
        assert_eq!(batch.lost, 0);
        rows.extend(ferry_proto::rows(&batch).unwrap());
    }
    assert_eq!(rows.len(), 15_000);
    assert!(rows.iter().all(|row| row.request > 100 && row.kind == KindName::Tensor));
    assert!(rows.iter().all(|row| row.times.of(Stage::Total).is_some()));
    until("the sessions are over", || server.state.sessions.count() == 0).await;
    server.state.recorder.flush(crate::common::LONG).await.unwrap();
    assert_eq!(server.state.recorder.health().rows_written, 15_000);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drive_ends_when_its_caller_goes_away_and_refuses_what_has_no_bound() {
    let server = Running::start(|_| {}).await;
    let mut local = LocalClient::new(server.channel.clone());
    let request = v1::DriveRequest {
        model: "echo".into(),
        clients: 2,
        requests: 100_000_000,
        window: 2,
        shapes: shapes(256),
        ..Default::default()
    };
    let mut batches = local.drive(request.clone()).await.unwrap().into_inner();
    assert!(batches.message().await.unwrap().is_some());
    assert_eq!(server.state.sessions.count(), 2);
    drop(batches);
    until("the sessions are over", || server.state.sessions.count() == 0).await;
    for bad in [
        v1::DriveRequest { clients: 0, ..request.clone() },
        v1::DriveRequest { clients: 65, ..request.clone() },
        v1::DriveRequest { requests: 0, ..request.clone() },
        v1::DriveRequest { window: 65, ..request.clone() },
    ] {
        assert_eq!(local.drive(bad).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let unknown = v1::DriveRequest { model: "none".into(), ..request };
    assert_eq!(local.drive(unknown).await.unwrap_err().code(), Code::NotFound);
    server.stop().await;
}
