//! Tests of the store, against real files.

mod failing;
mod schema;
mod views;
mod writing;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ferry_core::{
    HostMemory, KindName, MemoryChoice, Placement, RequestRecord, SessionId, Stage, StageTimes,
    Status, TraceId, Transport, WaitPolicy,
};

use super::*;

/// Ends a test that hangs; no claim about speed.
pub(super) const WATCHDOG: Duration = Duration::from_secs(60);

pub(super) async fn open(dir: &Path) -> Arc<SqliteStore> {
    let location = Location::File(dir.join("store.db"));
    Arc::new(SqliteStore::open(location, SqliteConfig::default()).await.unwrap())
}

pub(super) fn new_run(name: &str, started_unix_ns: u64) -> NewRun {
    NewRun {
        name: name.to_owned(),
        kind: "bench".to_owned(),
        started_unix_ns,
        machine: Machine { cpu_model: "cpu".into(), cpu_cores: 4, kernel: "Linux 6".into() },
        git_commit: "abc".to_owned(),
        options_json: r#"{"clients":2}"#.to_owned(),
        libraries_json: "{}".to_owned(),
        warmup: 10,
        notes: "note".to_owned(),
        tenant: None,
    }
}

pub(super) fn session(id: u64, run: i64, transport: Transport) -> SessionRow {
    SessionRow {
        id: SessionId(id),
        run,
        tenant: "tenant".to_owned(),
        model: "resnet50".to_owned(),
        version: "1".to_owned(),
        engine: "onnx".to_owned(),
        device: "cuda:1".to_owned(),
        precision: Some("tf32"),
        transport,
        placement: Placement::Cuda(1),
        memory: MemoryChoice::Always(HostMemory::Pinned),
        connection: Connection::Direct,
        wait: WaitPolicy::Spin,
        slots: 4,
        opened_unix_ns: 5,
    }
}

pub(super) fn record(session: u64, run: i64, request: u64, total_ns: u64) -> RequestRecord {
    let mut times = StageTimes::NONE;
    times.set(Stage::Total, total_ns);
    RequestRecord {
        run,
        session: SessionId(session),
        request,
        started_unix_ns: 1000 + request,
        kind: KindName::Raw,
        batch: 1,
        priority: 0,
        bytes_in: 100,
        bytes_out: 10,
        status: Status::Ok,
        trace: TraceId::NONE,
        times,
    }
}

pub(super) async fn rows(store: &dyn TimingStore, sql: &str) -> Vec<Vec<Cell>> {
    store.query(sql, QueryLimits::default()).await.unwrap().all().await.unwrap()
}

/// The first column of the first row, which is a number.
pub(super) async fn one(store: &dyn TimingStore, sql: &str) -> i64 {
    match rows(store, sql).await[0][0] {
        Cell::Integer(number) => number,
        ref other => panic!("{sql}: {other:?}"),
    }
}

/// Waits for something to become so.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let poll = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(WATCHDOG, poll).await.unwrap_or_else(|_| panic!("never: {what}"));
}
