//! From the recorder into the tables.

use std::num::NonZeroU32;

use ferry_core::{HostMemory, Staged, Why};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_as_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let own = store.start_run(&new_run("serve", 1)).await.unwrap();
    let (recorder, writer) = Writer::spawn(store.clone(), own, WriterConfig::default());
    let id = u64::MAX - 5;
    recorder.event(Event::Opened(Box::new(session(id, 0, Transport::Shm))));
    let mut full = record(id, 0, 1, 1000);
    for (stage, ns) in [(Stage::Server, 600), (Stage::Infer, 400), (Stage::Queue, 0)] {
        full.times.set(stage, ns);
    }
    full.times.set_staged(Some(Staged { memory: HostMemory::Mapped, why: Why::Idle }));
    full.status = Status::Overloaded;
    recorder.record(full);
    recorder.record(record(id, 42, 2, u64::MAX));
    recorder.event(Event::Closed { id: SessionId(id), unix_ns: 9, reason: "expired" });
    recorder.event(Event::Refused(Box::new(Refusal {
        unix_ns: 3,
        session: Some(SessionId(id)),
        tenant: None,
        link: "tcp",
        what: "forged_token",
        count: 7,
    })));
    let sample = ResourceSample { unix_ns: 4, rss_bytes: 5, ..ResourceSample::default() };
    recorder.sample(sample);
    let of_gpu = ResourceSample {
        run: 42,
        gpu_memory_bytes: Some(6),
        gpu_busy_percent: Some(7.5),
        pcie_bytes: Some(8),
        nvlink_bytes: Some(9),
        gpu_energy_uj: Some(10),
        ..sample
    };
    recorder.sample(of_gpu);
    recorder.event(Event::Loaded(Box::new(ModelRow {
        name: "m".into(),
        version: "1".into(),
        engine: "tract".into(),
        device: "cpu".into(),
        precision: Some("fp16"),
        sha256: String::new(),
        loaded_unix_ns: 1,
    })));
    let (name, version) = ("m".to_owned(), "1".to_owned());
    recorder.event(Event::Unloaded { name, version, loaded_unix_ns: 1, unix_ns: 2 });
    recorder.flush(WATCHDOG).await.unwrap();
    for (sql, expected) in [
        (
            "SELECT concat_ws(' ', run_id, session_id, transport, link, placement, memory, model, \
             version, engine, device, precision, connection, wait, tenant, kind, batch, priority, bytes_in, \
             bytes_out, status, started_unix_ns) FROM requests WHERE request = 1",
            format!(
                "{own} -6 shm shm cuda:1 mapped resnet50 1 onnx cuda:1 tf32 direct spin tenant raw 1 0 100 10 \
                 overloaded 1001"
            ),
        ),
        (
            "SELECT concat_ws(' ', r.memory, memory_why, s.memory) FROM requests r JOIN sessions s \
             ON s.id = session_id WHERE request = 1",
            "mapped idle device".to_owned(),
        ),
        (
            "SELECT concat_ws(' ', memory, memory_why IS NULL) FROM requests WHERE request = 2",
            "device 1".to_owned(),
        ),
        (
            "SELECT concat_ws(' ', total_ns, server_ns, infer_ns, queue_ns, unattributed_ns, \
             network_ns, decode_ns IS NULL, fill_ns IS NULL) FROM requests WHERE request = 1",
            "1000 600 400 0 200 400 1 1".to_owned(),
        ),
        (
            "SELECT concat_ws(' ', run_id, total_ns, network_ns IS NULL, unattributed_ns IS NULL) \
             FROM requests WHERE request = 2",
            format!("42 {} 1 1", ferry_core::stage::DURATION_MAX_NS),
        ),
        (
            "SELECT concat_ws(' ', closed_unix_ns, close_reason, slots) FROM sessions",
            "9 expired 4".to_owned(),
        ),
        (
            "SELECT concat_ws(' ', unix_ns, session_id, tenant IS NULL, link, what, count) \
             FROM refusals",
            "3 -6 1 tcp forged_token 7".to_owned(),
        ),
        (
            "SELECT concat_ws(' ', run_id, unix_ns, rss_bytes, gpu_memory_bytes IS NULL) \
             FROM resource_samples WHERE run_id <> 42",
            format!("{own} 4 5 1"),
        ),
        (
            "SELECT concat_ws(' ', gpu_memory_bytes, gpu_busy_percent, pcie_bytes, nvlink_bytes, \
             gpu_energy_uj) FROM resource_samples WHERE run_id = 42",
            "6 7.5 8 9 10".to_owned(),
        ),
        (
            "SELECT concat_ws(' ', run_id, name, engine, device, precision, loaded_unix_ns, \
             unloaded_unix_ns) FROM models",
            format!("{own} m tract cpu fp16 1 2"),
        ),
    ] {
        assert_eq!(rows(&*store, sql).await, [[Cell::Text(expected)]], "{sql}");
    }
    let health = writer.stop().await;
    assert_eq!((health.rows_written, health.rows_lost, health.events_lost), (2, 0, 0));
    assert_eq!(health.state, StoreState::Stopped);
}

#[test]
fn the_view_names_every_kind_and_status_as_core_does() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).await;
        let mut batch = Batch { own_run: 1, ..Batch::default() };
        let mut expected = Vec::new();
        for kind in KindName::ALL {
            for status in Status::ALL {
                batch.requests.push(RequestRecord { kind, status, ..record(1, 0, 1, 1) });
                expected.push(vec![
                    Cell::Text(kind.name().to_owned()),
                    Cell::Text(status.name().to_owned()),
                ]);
            }
        }
        store.write(&batch).await.unwrap();
        assert_eq!(rows(&*store, "SELECT kind, status FROM requests").await, expected);
        let all = i64::try_from(expected.len()).unwrap();
        for stage in Stage::ALL {
            let sql = format!("SELECT count({}_ns) FROM requests", stage.name());
            let count = if stage == Stage::Total { all } else { 0 };
            assert_eq!(one(&*store, &sql).await, count, "{sql}");
        }
    });
}

#[tokio::test]
async fn traces_and_new_stages_are_read_as_they_were_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut traced = RequestRecord { trace: TraceId([0xab; 16]), ..record(1, 1, 1, 100) };
    traced.times.set(Stage::Wake, 3);
    traced.times.set(Stage::Outbox, 5);
    traced.times.set(Stage::Gather, 7);
    traced.times.set(Stage::Scatter, 9);
    traced.times.set_batch_rows(NonZeroU32::new(32));
    let batch =
        Batch { own_run: 1, requests: vec![traced, record(1, 1, 2, 100)], ..Batch::default() };
    store.write(&batch).await.unwrap();
    let sql = "SELECT trace_id, wake_ns, batch_ns, load_ns, outbox_ns, gather_ns, scatter_ns, \
               batch_rows FROM requests ORDER BY request";
    let mut first = vec![Cell::Text("ab".repeat(16)), Cell::Integer(3), Cell::Null, Cell::Null];
    first.extend([5, 7, 9, 32].map(Cell::Integer));
    assert_eq!(rows(&*store, sql).await, [first, vec![Cell::Null; 8]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_session_is_stored_before_its_requests_under_load() {
    const SESSIONS: u64 = 300;
    const REQUESTS: u64 = 40;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    // Small batches, so that sessions and their requests are cut apart wherever they can be.
    let config = WriterConfig { batch_rows: 16, ..WriterConfig::default() };
    let (recorder, writer) = Writer::spawn(store.clone(), 1, config);
    let threads = [0, 1].map(|half| {
        let recorder = recorder.clone();
        std::thread::Builder::new()
            .spawn(move || {
                for id in (1..=SESSIONS).map(|n| n * 2 + half) {
                    recorder.event(Event::Opened(Box::new(session(id, 0, Transport::Tcp))));
                    for request in 0..REQUESTS {
                        recorder.record(record(id, 0, request, 10));
                    }
                }
            })
            .unwrap()
    });
    let (mut orphans, mut ended) = (0, false);
    while !ended {
        ended =
            threads.iter().all(|thread| thread.is_finished()) && recorder.health().queue_len == 0;
        let sql = "SELECT count(*) FROM requests WHERE transport IS NULL";
        orphans += one(&*store, sql).await;
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let health = writer.stop().await;
    assert_eq!(orphans, 0);
    assert_eq!((health.rows_written, health.rows_lost), (2 * SESSIONS * REQUESTS, 0));
    assert_eq!(one(&*store, "SELECT count(*) FROM sessions").await, 600);
}

#[tokio::test]
async fn what_the_queue_cannot_hold_is_counted_in_its_run() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let own = store.start_run(&new_run("serve", 1)).await.unwrap();
    let bench = store.start_run(&new_run("bench", 2)).await.unwrap();
    let config = WriterConfig { requests_max: 8, events_max: 2, ..WriterConfig::default() };
    let (recorder, writer) = Writer::spawn(store.clone(), own, config);
    // The runtime has one thread, so the writer cannot run before the flush.
    for request in 0..20 {
        recorder.record(record(1, if request % 2 == 0 { 0 } else { bench }, request, 10));
    }
    for _ in 0..5 {
        recorder.event(Event::Opened(Box::new(session(1, 0, Transport::Tcp))));
    }
    assert_eq!(recorder.health().rows_lost, 12);
    recorder.flush(WATCHDOG).await.unwrap();
    let health = recorder.health();
    assert_eq!((health.rows_written, health.events_lost, health.queue_len), (8, 3, 0));
    for run in [own, bench] {
        assert_eq!(store.get_run(run).await.unwrap().unwrap().lost, 6);
    }
    writer.stop().await;
    recorder.record(record(1, 0, 1, 1));
    assert_eq!(recorder.health().rows_lost, 13);
    assert_eq!(recorder.flush(WATCHDOG).await, Err(FlushError::Stopped));
}

#[tokio::test]
async fn samples_push_out_no_event() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let config = WriterConfig { events_max: 8, samples_max: 4, ..WriterConfig::default() };
    let (recorder, writer) = Writer::spawn(store.clone(), 1, config);
    // The runtime has one thread, so the writer cannot run before the flush.
    for id in 1..=5 {
        for _ in 0..1000 {
            recorder.sample(ResourceSample::default());
        }
        recorder.event(Event::Opened(Box::new(session(id, 0, Transport::Tcp))));
    }
    recorder.flush(WATCHDOG).await.unwrap();
    assert_eq!(one(&*store, "SELECT count(*) FROM sessions").await, 5);
    assert_eq!(one(&*store, "SELECT count(*) FROM resource_samples").await, 4);
    assert_eq!(recorder.health().events_lost, 4996, "and that is told");
    writer.stop().await;
}

#[tokio::test]
async fn own_statements_do_not_wait_for_queries_of_people() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let run = store.start_run(&new_run("bench", 1)).await.unwrap();
    let endless = "WITH RECURSIVE c(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM c) \
                   SELECT max(x) FROM c";
    let mut slow = Vec::new();
    for _ in 0..SqliteConfig::default().queries_max {
        slow.push(store.query(endless, QueryLimits::default()).await.unwrap());
    }
    let more = store.query("SELECT 1", QueryLimits::default()).await;
    assert!(matches!(more, Err(QueryError::Busy { .. })));
    assert_eq!(store.count_requests(&[run]).await.unwrap(), [(run, 0)]);
    assert_eq!(store.list_runs(None, 9).await.unwrap().len(), 1);
    assert_eq!(store.get_run(run).await.unwrap().unwrap().id, run);
    drop(slow);
}

#[tokio::test]
async fn the_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    store.start_run(&new_run("serve", 1)).await.unwrap();
    let mut files = 0;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{mode:o}");
        files += 1;
    }
    assert!(files >= 2, "the log too");
}
