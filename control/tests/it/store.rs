//! A store in trouble under a server that serves: clients notice nothing, what is lost is counted,
//! and rows are stored again afterwards.

use std::path::Path;
use std::str::FromStr;

use ferry_control::store::StoreState;
use ferry_core::{Status, Transport};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Executor};

use crate::common::{Client, LONG, Running, ask, until};

async fn serving(folder: &Path) -> (Running, Client) {
    let store = format!("sqlite:{}", folder.join("runs.db").display());
    let server = Running::start(|config| config.store = store).await;
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
