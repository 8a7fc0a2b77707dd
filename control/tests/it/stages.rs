//! Where the time of a request goes, over every transport: the parts are the whole, and the whole
//! is one, whoever records it.

use std::collections::HashMap;

use ferry_conformance::transports::linked;
use ferry_core::{Stage, StageTimes, Transport};
use ferry_proto::v1;
use ferry_proto::v1::inference_client::InferenceClient;
use ferry_proto::v1::local_client::LocalClient;

use crate::common::{Client, LONG, Running, ask};

const REQUESTS: u64 = 200;

/// What every request that the model served has.
const ALWAYS: [Stage; 5] =
    [Stage::Receive, Stage::Queue, Stage::Infer, Stage::Outbox, Stage::Server];

/// The parts of the server's time do not overlap, and leave nothing.
fn add_up(times: &StageTimes) {
    let server = times.of(Stage::Server).expect("the server's time");
    for stage in ALWAYS {
        assert!(times.of(stage).is_some(), "{stage:?}: {times:?}");
    }
    let parts: u64 = Stage::SERVER_PARTS.iter().filter_map(|&part| times.of(part)).sum();
    // Exact, whatever the machine does meanwhile: on a CPU each stage begins where one ended.
    assert_eq!(parts, server, "a gap, or parts that overlap: {times:?}");
    assert_eq!(times.unattributed(), Some(0));
}

/// The stages of the rows that the server stored, by number of request.
async fn stored(server: &Running, session: u64) -> HashMap<u64, StageTimes> {
    server.state.recorder.flush(LONG).await.unwrap();
    let stages = Stage::ALL.map(|stage| format!("coalesce({}_ns, -1)", stage.name())).join(", ");
    let sql = format!(
        "SELECT request, {stages} FROM request_rows WHERE session_id = {}",
        session.cast_signed()
    );
    let query = v1::QueryRequest { sql, rows_max: 0 };
    let mut runs = v1::runs_client::RunsClient::new(server.channel.clone());
    let mut answers = runs.query(query).await.unwrap().into_inner();
    let mut all = HashMap::new();
    while let Some(answer) = answers.message().await.unwrap() {
        for row in numbers(&answer) {
            let mut times = StageTimes::NONE;
            for (stage, &ns) in Stage::ALL.into_iter().zip(&row[1..]) {
                times.put(stage, u64::try_from(ns).ok());
            }
            all.insert(u64::try_from(row[0]).unwrap(), times);
        }
    }
    all
}

fn numbers(answer: &v1::QueryResponse) -> impl Iterator<Item = Vec<i64>> {
    let number = |value: &v1::Value| match value.kind {
        Some(v1::value::Kind::Integer(number)) => number,
        ref other => panic!("{other:?}"),
    };
    answer.rows.iter().map(move |row| row.values.iter().map(number).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stages_of_every_link_are_the_whole_and_server_is_the_same_in_both_records() {
    let server = Running::start(|_| {}).await;
    for transport in linked() {
        // Its client records nothing at the server, which therefore does.
        let opened = server.open(ask(transport, 5000, 4000)).await.unwrap();
        let session = opened.session.as_ref().unwrap().session_id;
        let mut client = Client::connect(&opened);
        for _ in 0..REQUESTS {
            client.infer(&[1; 5000]);
        }
        client.driver.flush();
        let records = std::mem::take(&mut *client.records.0.lock().unwrap());
        let rows = stored(&server, session).await;
        assert_eq!((records.len() as u64, rows.len() as u64), (REQUESTS, REQUESTS));
        for record in &records {
            add_up(&record.times);
            assert!(record.times.of(Stage::Total) >= record.times.of(Stage::Server));
            let row = &rows[&record.request];
            for stage in Stage::SERVER_PARTS.into_iter().chain([Stage::Server]) {
                assert_eq!(record.times.of(stage), row.of(stage), "{transport}: {stage:?}");
            }
        }
        assert!(records.iter().all(|it| it.times.is_accounted() == Some(true)), "{transport}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_its_payload_has_the_same_stages_in_its_answer_and_in_the_store() {
    let server = Running::start(|_| {}).await;
    let opened = server.open(ask(Transport::Grpc, 5000, 4000)).await.unwrap();
    let mut inference = InferenceClient::new(server.channel.clone());
    let mut answers = HashMap::new();
    for number in 1..=REQUESTS {
        let request = v1::InferRequest {
            session: opened.session.clone(),
            payload: vec![1; 5000].into(),
            request: number,
            ..Default::default()
        };
        let answer = inference.infer(request).await.unwrap().into_inner();
        let times = ferry_proto::server_times_from_wire(&answer.server_times).unwrap();
        add_up(&times);
        answers.insert(number, times);
    }
    let rows = stored(&server, opened.session.unwrap().session_id).await;
    assert_eq!(rows, answers);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stages_of_a_request_inside_the_server_are_the_whole() {
    let server = Running::start(|_| {}).await;
    let mut local = LocalClient::new(server.channel.clone());
    let shape = |name: &str| v1::TensorShape { name: name.into(), shape: vec![256] };
    let request = v1::DriveRequest {
        model: "echo".into(),
        clients: 2,
        requests: REQUESTS,
        window: 2,
        shapes: vec![shape("input"), shape("output")],
        ..Default::default()
    };
    let mut batches = local.drive(request).await.unwrap().into_inner();
    let mut seen = 0;
    while let Some(batch) = batches.message().await.unwrap() {
        for row in ferry_proto::rows(&batch).unwrap() {
            add_up(&row.times);
            assert!(row.times.of(Stage::Total) >= row.times.of(Stage::Server));
            seen += 1;
        }
    }
    assert_eq!(seen, 2 * REQUESTS);
    server.stop().await;
}
