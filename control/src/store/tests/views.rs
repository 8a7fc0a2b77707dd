//! The views, against answers worked out by hand.

use super::*;

fn integer(number: i64) -> Cell {
    Cell::Integer(number)
}

fn text(text: &str) -> Cell {
    Cell::Text(text.to_owned())
}

async fn real(store: &dyn TimingStore, sql: &str) -> f64 {
    match rows(store, sql).await[0][0] {
        Cell::Real(number) => number,
        ref other => panic!("{sql}: {other:?}"),
    }
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

/// Run 1: shm with totals 1000, 2000 … 10,000 and one failed request, tcp with one of 500. Run 2:
/// shm with totals twice as long. Infer takes a tenth of the total, server a half.
async fn filled(dir: &Path) -> Arc<SqliteStore> {
    let store = open(dir).await;
    for (name, start) in [("a", 1_000_000_000), ("b", 2_000_000_000)] {
        store.start_run(&new_run(name, start)).await.unwrap();
    }
    let mut batch = Batch { own_run: 1, ..Batch::default() };
    for (id, run, transport) in
        [(1, 1, Transport::Shm), (2, 1, Transport::Tcp), (3, 2, Transport::Shm)]
    {
        batch.events.push(Event::Opened(Box::new(session(id, run, transport))));
    }
    let mut push = |session, run, request, total_ns, status| {
        let mut record = RequestRecord { status, ..record(session, run, request, total_ns) };
        record.times.set(Stage::Infer, total_ns / 10);
        record.times.set(Stage::Server, total_ns / 2);
        batch.requests.push(record);
    };
    // Out of order: percentiles must not depend on it.
    for place in [7, 2, 10, 1, 9, 3, 8, 5, 4, 6] {
        push(1, 1, place, place * 1000, Status::Ok);
        push(3, 2, place, place * 2000, Status::Ok);
    }
    push(1, 1, 11, 99_000_000, Status::Overloaded);
    push(2, 1, 12, 500, Status::Ok);
    store.write(&batch).await.unwrap();
    store
}

#[tokio::test]
async fn percentiles_are_nearest_rank_of_what_ended_well() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let sql = "SELECT run_id, transport, model, requests, p50_ns, p90_ns, p99_ns, p999_ns, max_ns, \
               mean_ns FROM transport_percentiles ORDER BY run_id, transport";
    let row = |run, transport, n, [p50, p90, p99, p999, max]: [i64; 5], mean| {
        let mut row = vec![integer(run), text(transport), text("resnet50"), integer(n)];
        row.extend([p50, p90, p99, p999, max].map(integer));
        row.push(Cell::Real(mean));
        row
    };
    let expected = [
        row(1, "shm", 10, [5000, 9000, 10_000, 10_000, 10_000], 5500.0),
        row(1, "tcp", 1, [500; 5], 500.0),
        row(2, "shm", 10, [10_000, 18_000, 20_000, 20_000, 20_000], 11_000.0),
    ];
    assert_eq!(rows(&*store, sql).await, expected);
    // Variance of 1 … 10 is 8.25: cov = sqrt(8.25) / 5.5.
    let cov = "SELECT cov FROM transport_percentiles WHERE run_id = 2";
    assert!(near(real(&*store, cov).await, 8.25_f64.sqrt() / 5.5));
    let none = "SELECT cov FROM transport_percentiles WHERE transport = 'tcp'";
    assert!(real(&*store, none).await < 1e-9);
    let stages = "SELECT stage, requests, p50_ns, p99_ns, max_ns FROM stage_percentiles \
                  WHERE run_id = 1 AND transport = 'shm' AND stage IN ('infer', 'network')";
    let stage = |name, [p50, p99, max]: [i64; 3]| {
        vec![text(name), integer(10), integer(p50), integer(p99), integer(max)]
    };
    let expected = [stage("infer", [500, 1000, 1000]), stage("network", [2500, 5000, 5000])];
    assert_eq!(rows(&*store, stages).await, expected);
}

#[tokio::test]
async fn the_breakdown_has_means_and_shares() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let sql = "SELECT stage, requests, mean_ns, share FROM stage_breakdown \
               WHERE run_id = 1 AND transport = 'shm' ORDER BY position";
    let row =
        |stage, mean, share| vec![text(stage), integer(10), Cell::Real(mean), Cell::Real(share)];
    let expected = [
        row("infer", 550.0, 0.1),
        row("server", 2750.0, 0.5),
        row("total", 5500.0, 1.0),
        row("network", 2750.0, 0.5),
        row("unattributed", 2200.0, 0.4),
    ];
    assert_eq!(rows(&*store, sql).await, expected);
}

#[tokio::test]
async fn two_runs_compare_by_ratio() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let sql = "SELECT transport, model, base_p50_ns, p50_ns, p50_ratio, p99_ratio \
               FROM run_comparison WHERE base_run_id = 1 AND run_id = 2";
    let expected = vec![
        text("shm"),
        text("resnet50"),
        integer(5000),
        integer(10_000),
        Cell::Real(2.0),
        Cell::Real(2.0),
    ];
    assert_eq!(rows(&*store, sql).await, [expected]);
    let back = "SELECT p50_ratio FROM run_comparison WHERE base_run_id = 2 AND run_id = 1";
    assert!(near(real(&*store, back).await, 0.5));
}

#[tokio::test]
async fn recent_runs_are_newest_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let end = RunEnd { finished_unix_ns: 3_500_000_000, notes: None };
    store.finish_run(2, &end).await.unwrap();
    let sql = "SELECT run_id, name, started_utc, seconds, finished, requests FROM recent_runs";
    let row = |run, name, start, seconds, finished, requests| {
        vec![integer(run), text(name), text(start), seconds, integer(finished), integer(requests)]
    };
    let expected = [
        row(2, "b", "1970-01-01 00:00:02", Cell::Real(1.5), 1, 10),
        row(1, "a", "1970-01-01 00:00:01", Cell::Null, 0, 12),
    ];
    assert_eq!(rows(&*store, sql).await, expected);
}

#[tokio::test]
async fn medians_by_precision_are_of_each_device_and_precision() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let run = store.start_run(&new_run("a", 1)).await.unwrap();
    let mut batch = Batch { own_run: run, ..Batch::default() };
    // One model, loaded again with another choice, and again on another device.
    let loads = [(1, "cuda:0", "fp32"), (2, "cuda:0", "tf32"), (3, "cpu", "fp32")];
    for (id, device, precision) in loads {
        let (device, precision) = (device.to_owned(), Some(precision));
        let session = SessionRow { device, precision, ..session(id, run, Transport::Shm) };
        batch.events.push(Event::Opened(Box::new(session)));
    }
    let echo =
        SessionRow { model: "echo".into(), precision: None, ..session(4, run, Transport::Shm) };
    batch.events.push(Event::Opened(Box::new(echo)));
    for (session, infer) in
        [(1, &[50, 30, 40][..]), (2, &[7, 3, 9, 5]), (3, &[100, 300]), (4, &[1, 2])]
    {
        for (request, &ns) in (1..).zip(infer) {
            let mut record = record(session, run, request, 1000);
            record.times.set(Stage::Infer, ns);
            batch.requests.push(record);
        }
    }
    let mut failed = RequestRecord { status: Status::Overloaded, ..record(1, run, 9, 1000) };
    failed.times.set(Stage::Infer, 1);
    batch.requests.push(failed);
    store.write(&batch).await.unwrap();
    let page = include_str!("../../../../docs/SQL.md");
    let asked = page.lines().find(|line| line.contains("by_each")).unwrap();
    let row = |device, precision, n, p50| {
        vec![text("resnet50"), text(device), text(precision), integer(n), integer(p50)]
    };
    let expected =
        [row("cuda:0", "tf32", 4, 5), row("cuda:0", "fp32", 3, 40), row("cpu", "fp32", 2, 100)];
    assert_eq!(rows(&*store, asked).await, expected);
    let echo = "SELECT DISTINCT device, precision FROM requests WHERE model = 'echo'";
    assert_eq!(rows(&*store, echo).await, [[text("cuda:1"), Cell::Null]]);
}

#[tokio::test]
async fn the_questions_in_the_docs_have_answers() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let page = include_str!("../../../../docs/SQL.md").replace("run_id = 7", "run_id = 1");
    let questions: Vec<_> =
        page.split("```sql\n").skip(1).filter_map(|rest| rest.split("\n```").next()).collect();
    assert_eq!(questions.len(), 7);
    for question in questions {
        let sql = question.replace("run_id = 8", "run_id = 2");
        assert!(!rows(&*store, &sql).await.is_empty(), "{sql}");
    }
}

#[tokio::test]
async fn a_filter_on_the_run_reaches_the_rows() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    for view in ["transport_percentiles", "stage_breakdown", "stage_percentiles"] {
        let sql = format!("EXPLAIN QUERY PLAN SELECT * FROM {view} WHERE run_id = 1");
        let plan = format!("{:?}", rows(&*store, &sql).await);
        assert!(plan.contains("SEARCH r USING INDEX request_rows_by_run"), "{view}: {plan}");
        assert!(!plan.contains("SCAN r "), "{view}: {plan}");
    }
    let sql = "EXPLAIN QUERY PLAN SELECT total_ns FROM requests";
    let plan = format!("{:?}", rows(&*store, sql).await);
    assert!(!plan.contains("SEARCH s"), "the join is left out: {plan}");
}
