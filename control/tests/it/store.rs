//! A store in trouble under a server that serves: clients notice nothing, what is lost is counted,
//! and rows are stored again afterwards.

use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};

use ferry_control::store::StoreState;
use ferry_core::{Status, Transport};
use ferry_proto::v1;
use ferry_proto::v1::admin_client::AdminClient;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Executor};

use crate::common::{Client, LONG, Running, ask, until};

/// Far more rows than the writer's queue holds, and than this many bytes.
const BYTES_MAX: u64 = 48 << 20;

async fn serving(folder: &Path) -> (Running, Client) {
    let store = format!("sqlite:{}", folder.join("runs.db").display());
    let server = Running::start(|config| {
        config.store = store;
        config.store_bytes_max = Some(BYTES_MAX);
    })
    .await;
    let client = server.client(ask(Transport::Tcp, 64, 64)).await;
    (server, client)
}

fn infers(client: &mut Client, times: u64) {
    for _ in 0..times {
        assert_eq!(client.infer(&[3; 64]).0, Status::Ok, "the store is not the client's trouble");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_another_process_locks_stops_nobody_and_is_written_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let (server, mut client) = serving(folder.path()).await;
    infers(&mut client, 10);
    server.state.recorder.flush(LONG).await.unwrap();
    let url = format!("sqlite:{}", folder.path().join("runs.db").display());
    let mut other = SqliteConnectOptions::from_str(&url).unwrap().connect().await.unwrap();
    other.execute("BEGIN EXCLUSIVE").await.unwrap();
    infers(&mut client, 200);
    other.execute("ROLLBACK").await.unwrap();
    let recorder = server.state.recorder.clone();
    until("the store is good again", || recorder.health().state == StoreState::Good).await;
    recorder.flush(LONG).await.unwrap();
    let health = recorder.health();
    assert_eq!(health.rows_lost, 0, "the queue was long enough: {health:?}");
    let (stored,): (i64,) = sqlx::query_as("SELECT count(*) FROM requests WHERE transport = 'tcp'")
        .fetch_one(&mut other)
        .await
        .unwrap();
    assert_eq!(stored, 210);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_file_is_deleted_stops_nobody_and_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (server, mut client) = serving(folder.path()).await;
    infers(&mut client, 10);
    server.state.recorder.flush(LONG).await.unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let recorder = server.state.recorder.clone();
    // Said by the health, or mended by a new file: never silent.
    until("the loss is noticed", || {
        infers(&mut client, 20);
        let health = recorder.health();
        health.rows_lost > 0
            || health.last_error.is_some()
            || folder.path().join("runs.db").exists()
    })
    .await;
    infers(&mut client, 20);
    server.stop().await;
}

/// Of the store, as an operator sees it.
async fn told(server: &Running) -> v1::StoreStatus {
    let mut admin = AdminClient::new(server.channel.clone());
    admin.status(v1::StatusRequest {}).await.unwrap().into_inner().store.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_stops_nobody_loses_by_number_and_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let (server, mut client) = serving(folder.path()).await;
    infers(&mut client, 10);
    let recorder = server.state.recorder.clone();
    // What so many requests more would bring, without the time that they take.
    let one = client.records.0.lock().unwrap()[0];
    let mut recorded = 10;
    let mut record = |rows: u64| {
        (0..rows).for_each(|_| {
            recorder.record(one);
        });
        recorded += rows;
    };
    let late = Instant::now() + 2 * LONG;
    while recorder.health().state == StoreState::Good || recorder.health().rows_lost == 0 {
        record(10_000);
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(Instant::now() < late, "never full: {:?}", recorder.health());
    }
    infers(&mut client, 200);
    let store = told(&server).await;
    assert_eq!(store.state, "failing");
    assert!(store.last_error.contains("store-bytes-max"), "{}", store.last_error);
    assert!(store.rows_lost > 0);
    assert!(std::fs::metadata(folder.path().join("runs.db")).unwrap().len() <= BYTES_MAX);

    let url = format!("sqlite:{}", folder.path().join("runs.db").display());
    let mut other = SqliteConnectOptions::from_str(&url).unwrap().connect().await.unwrap();
    let count = "SELECT count(*) FROM request_rows";
    let deleted = other.execute("DELETE FROM request_rows").await.unwrap().rows_affected();
    until("the store is good again", || recorder.health().state == StoreState::Good).await;
    infers(&mut client, 10);
    recorder.flush(LONG).await.unwrap();
    let health = recorder.health();
    assert_eq!(health.last_error, None);
    assert_eq!(health.rows_written + health.rows_lost, recorded + 210, "each row is accounted for");
    let (stored,): (i64,) = sqlx::query_as(count).fetch_one(&mut other).await.unwrap();
    assert_eq!(deleted + u64::try_from(stored).unwrap(), health.rows_written);
    // And the run says so to whoever reads it later.
    let (lost,): (i64,) =
        sqlx::query_as("SELECT lost FROM runs").fetch_one(&mut other).await.unwrap();
    assert_eq!(u64::try_from(lost).unwrap(), health.rows_lost);
    assert_eq!(told(&server).await.state, "ok");
    server.stop().await;
}
