//! Runs: started, recorded into, queried, finished.

use ferry_conformance::transports::linked;
use ferry_core::{Status, Transport};
use ferry_proto::v1;
use ferry_proto::v1::runs_client::RunsClient;
use tonic::Code;
use tonic::transport::Channel;

use crate::common::{Client, LONG, Running, ask};

async fn start(runs: &mut RunsClient<Channel>) -> v1::Run {
    let request = v1::StartRunRequest {
        name: "test".into(),
        kind: "bench".into(),
        options_json: r#"{"clients":1}"#.into(),
        ..Default::default()
    };
    runs.start(request).await.unwrap().into_inner()
}

fn batch(client: &Client, run_id: i64) -> v1::TimingBatch {
    let session = Some(client.reference.clone());
    let mut batch = v1::TimingBatch { session, run_id, lost: 2, ..Default::default() };
    for record in client.records.0.lock().unwrap().iter() {
        ferry_proto::append_row(&mut batch, record);
    }
    batch
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_record_is_stored_in_their_run() {
    let server = Running::start(|_| {}).await;
    let mut runs = RunsClient::new(server.channel.clone());
    let run = start(&mut runs).await;
    assert!(run.machine_json.contains("cpu_model") && !run.commit.is_empty(), "{run:?}");
    let asked = v1::OpenSessionRequest {
        run_id: run.run_id,
        client_records: true,
        ..ask(Transport::Shm, 64, 64)
    };
    let mut client = server.client(asked).await;
    for _ in 0..10 {
        assert_eq!(client.infer(&[1; 64]).0, Status::Ok);
    }
    client.driver.flush();
    let good = batch(&client, run.run_id);
    let mut forged = good.clone();
    forged.session.as_mut().unwrap().token = vec![0; 32].into();
    let elsewhere = batch(&client, 9999);
    let mut ragged = good.clone();
    ragged.stages.pop();
    let sent = tokio_stream::iter([good, forged, elsewhere, ragged]);
    let summary = runs.record(sent).await.unwrap().into_inner();
    assert_eq!((summary.accepted, summary.refused, summary.lost), (10, 30, 0));

    // The last timings may come after the session.
    let close = v1::CloseSessionRequest { session: Some(client.reference.clone()) };
    server.sessions().close(close).await.unwrap();
    let late = tokio_stream::iter([batch(&client, run.run_id)]);
    assert_eq!(runs.record(late).await.unwrap().into_inner().accepted, 10);

    let finish = v1::FinishRunRequest { run_id: run.run_id, flush: true };
    let finished = runs.finish(finish).await.unwrap().into_inner();
    assert_eq!(finished.requests, 20);
    assert!(finished.finished_unix_ns >= finished.started_unix_ns);
    assert_eq!(finished.lost, 4, "what the client lost is the run's loss: {finished:?}");
    let listed = runs.list(v1::ListRunsRequest { limit: 0 }).await.unwrap().into_inner().runs;
    let short = v1::Run { options_json: String::new(), ..finished };
    assert_eq!(listed[0], short);
    assert_eq!(listed[1].kind, "serve");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_records_where_the_client_does_not() {
    let server = Running::start(|_| {}).await;
    for transport in linked() {
        let mut client = server.client(ask(transport, 64, 32)).await;
        for _ in 0..5 {
            client.infer(&[1; 64]);
        }
        // Nobody records these.
        let asked = v1::OpenSessionRequest { unrecorded: true, ..ask(transport, 64, 32) };
        assert_eq!(server.client(asked).await.infer(&[1; 64]).0, Status::Ok);
    }
    server.state.recorder.flush(LONG).await.unwrap();
    let mut runs = RunsClient::new(server.channel.clone());
    let sql = "SELECT transport, count(*) AS n, sum(bytes_in) AS b, min(server_ns) > 0 AS timed \
               FROM requests WHERE total_ns IS NULL GROUP BY transport ORDER BY transport";
    let request = v1::QueryRequest { sql: sql.into(), rows_max: 0 };
    let mut answer = runs.query(request).await.unwrap().into_inner();
    let mut rows = Vec::new();
    let mut columns = Vec::new();
    while let Some(message) = answer.message().await.unwrap() {
        columns.extend(message.columns);
        rows.extend(message.rows);
        assert!(!message.truncated);
    }
    assert_eq!(columns, ["transport", "n", "b", "timed"]);
    let text = |row: &v1::Row, i: usize| match row.values[i].kind.clone().unwrap() {
        v1::value::Kind::Text(text) => text,
        v1::value::Kind::Integer(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    let all: Vec<String> =
        rows.iter().map(|row| (0..4).map(|i| text(row, i)).collect::<Vec<_>>().join(" ")).collect();
    let mut expected: Vec<String> = linked().map(|it| format!("{it} 5 320 1")).collect();
    expected.sort_unstable();
    assert_eq!(all, expected);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_only_read_and_long_answers_are_cut_and_say_so() {
    let server = Running::start(|_| {}).await;
    let mut runs = RunsClient::new(server.channel.clone());
    let mut query = async |sql: &str, rows_max| {
        let request = v1::QueryRequest { sql: sql.into(), rows_max };
        let mut answer = runs.query(request).await?.into_inner();
        let (mut rows, mut truncated) = (0, false);
        while let Some(message) = answer.message().await? {
            rows += message.rows.len();
            truncated |= message.truncated;
        }
        Ok::<_, tonic::Status>((rows, truncated))
    };
    let count = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) \
                 SELECT i FROM n";
    assert_eq!(query(count, 0).await.unwrap(), (1000, false));
    assert_eq!(query(count, 600).await.unwrap(), (600, true));
    for bad in ["DELETE FROM runs", "SELEC 1", "SELECT 1; SELECT 2", "SELECT * FROM nothing"] {
        assert_eq!(query(bad, 0).await.unwrap_err().code(), Code::InvalidArgument, "{bad}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_make_no_sense_are_refused() {
    let server = Running::start(|_| {}).await;
    let mut runs = RunsClient::new(server.channel.clone());
    let bad = v1::StartRunRequest { options_json: "[1]".into(), ..Default::default() };
    assert_eq!(runs.start(bad).await.unwrap_err().code(), Code::InvalidArgument);
    let get = runs.get(v1::GetRunRequest { run_id: 4711 }).await.unwrap_err();
    assert_eq!(get.code(), Code::NotFound);
    let own = v1::FinishRunRequest { run_id: server.state.about.own_run, flush: false };
    assert_eq!(runs.finish(own).await.unwrap_err().code(), Code::InvalidArgument);
    let none = v1::FinishRunRequest { run_id: 4711, flush: false };
    assert_eq!(runs.finish(none).await.unwrap_err().code(), Code::NotFound);
    server.stop().await;
}
