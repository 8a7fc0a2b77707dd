//! `/metrics`: what it tells is what SQL tells, to operators alone, to many at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ferry_conformance::transports::linked;
use ferry_control::Config;
use ferry_control::metrics::{FAMILIES, Kind};
use ferry_control::models::BOUNDS_NS;
use ferry_control::tenants::{Quota, TenantConfig};
use ferry_core::stage::SERVER_STAGES;
use ferry_core::{Status, Transport};
use ferry_proto::v1;
use ferry_proto::v1::inference_client::InferenceClient;
use serde_json::Value;

use crate::common::{LONG, Running, ask};
use crate::http::{Answer, Connection};

const OPEN_METRICS: (&str, &str) = ("accept", "application/openmetrics-text");

async fn start(edit: impl FnOnce(&mut Config)) -> (Running, SocketAddr) {
    let server = Running::start(|config| {
        config.metrics = Some("127.0.0.1:0".into());
        edit(config);
    })
    .await;
    let address = server.metrics.unwrap();
    (server, address)
}

fn get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Answer {
    let head = format!("GET {path}");
    tokio::task::block_in_place(|| Connection::open(address).call(&head, headers, b""))
}

/// The numbers of a page by their series, each of which stands there once, below its description.
fn page(address: SocketAddr) -> BTreeMap<String, f64> {
    let answer = get(address, "/metrics", &[]);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = String::from_utf8(answer.body).unwrap();
    let (mut series, mut described) = (BTreeMap::new(), BTreeSet::new());
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            described.extend(comment.split(' ').nth(1).map(str::to_owned));
            continue;
        }
        let (name, number) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        let family = name.split('{').next().unwrap();
        let endings = ["_bucket", "_sum", "_count"].into_iter();
        let mut families = endings.filter_map(|it| family.strip_suffix(it)).chain([family]);
        assert!(families.any(|it| described.contains(it)), "{line}");
        let number = number.parse().unwrap_or_else(|why| panic!("{line}: {why}"));
        assert!(series.insert(name.to_owned(), number).is_none(), "{name} stands there twice");
    }
    series
}

/// A request as SQL has it.
struct Row {
    status: String,
    /// Of [`SERVER_STAGES`], those that happened.
    ns: Vec<Option<u64>>,
}

/// All requests, by transport.
async fn rows(server: &Running) -> BTreeMap<String, Vec<Row>> {
    server.state.recorder.flush(LONG).await.unwrap();
    let stages = SERVER_STAGES.map(|stage| format!("{}_ns", stage.name())).join(", ");
    let query = v1::QueryRequest {
        sql: format!("SELECT transport, status, {stages} FROM requests"),
        rows_max: 0,
    };
    let mut runs = v1::runs_client::RunsClient::new(server.channel.clone());
    let mut answers = runs.query(query).await.unwrap().into_inner();
    let mut all: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    let text = |value: &v1::Value| match &value.kind {
        Some(v1::value::Kind::Text(text)) => text.clone(),
        other => panic!("{other:?}"),
    };
    let number = |value: &v1::Value| match value.kind {
        Some(v1::value::Kind::Integer(ns)) => u64::try_from(ns).ok(),
        _ => None,
    };
    while let Some(answer) = answers.message().await.unwrap() {
        for row in answer.rows {
            let ns = row.values[2..].iter().map(number).collect();
            let row_of = Row { status: text(&row.values[1]), ns };
            all.entry(text(&row.values[0])).or_default().push(row_of);
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_their_stages_are_those_of_sql_for_every_transport() {
    let (server, address) = start(|_| {}).await;
    for (at, transport) in linked().enumerate() {
        let mut client = server.client(ask(transport, 5000, 4000)).await;
        for _ in 0..20 + at {
            assert_eq!(client.infer(&[1; 5000]).0, Status::Ok);
        }
        assert_eq!(client.infer(&[1; 7]).0, Status::BadRequest);
    }
    let mut inference = InferenceClient::new(server.channel.clone());
    let shape = |name: &str| v1::TensorShape { name: name.into(), shape: vec![8] };
    for _ in 0..5 {
        let request = v1::InferRequest {
            model: "echo".into(),
            payload: vec![1; 8].into(),
            shapes: vec![shape("input"), shape("output")],
            ..Default::default()
        };
        inference.infer(request).await.unwrap();
    }
    let (rows, page) = (rows(&server).await, page(address));
    let transports: BTreeSet<_> = linked().chain([Transport::Grpc]).map(Transport::name).collect();
    assert_eq!(rows.keys().map(String::as_str).collect::<BTreeSet<_>>(), transports);
    let mut compared = 0;
    for (transport, rows) in &rows {
        let of = format!(r#"model="echo",version="1",transport="{transport}""#);
        let number = |series: String| *page.get(&series).unwrap_or_else(|| panic!("no {series}"));
        for status in ["ok", "bad_request"] {
            let expected = rows.iter().filter(|row| row.status == status).count();
            if expected > 0 {
                let series = format!(r#"ferry_requests_total{{{of},status="{status}"}}"#);
                assert_eq!(number(series), expected as f64, "{transport} {status}");
            }
        }
        for (at, stage) in SERVER_STAGES.into_iter().enumerate() {
            let served = rows.iter().filter(|row| row.status == "ok");
            let all: Vec<u64> = served.filter_map(|row| row.ns[at]).collect();
            let of = format!(r#"{of},stage="{}""#, stage.name());
            let name = "ferry_stage_duration_seconds";
            if all.is_empty() {
                assert!(!page.contains_key(&format!("{name}_count{{{of}}}")), "{of}");
                continue;
            }
            assert_eq!(number(format!("{name}_count{{{of}}}")), all.len() as f64, "{of}");
            let sum_ns = (number(format!("{name}_sum{{{of}}}")) * 1e9).round();
            assert_eq!(sum_ns, all.iter().sum::<u64>() as f64, "{of}");
            let below = |bound| all.iter().filter(|ns| **ns <= bound).count() as f64;
            let buckets = page
                .iter()
                .filter(|(series, _)| series.starts_with(&format!("{name}_bucket{{{of},")));
            let mut told: Vec<f64> = buckets.map(|(_, count)| *count).collect();
            let mut expected: Vec<f64> =
                BOUNDS_NS.iter().map(|&bound| below(bound)).chain([all.len() as f64]).collect();
            // By the text of their bounds, of which the order is another.
            told.sort_by(f64::total_cmp);
            expected.sort_by(f64::total_cmp);
            assert_eq!(told, expected, "{of}");
            compared += 1;
        }
    }
    assert!(compared >= 5 * rows.len(), "{compared}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_of_the_server_is_what_the_snapshot_has() {
    let (server, address) = start(|_| {}).await;
    let mut client = server.client(ask(Transport::Shm, 8, 8)).await;
    client.infer(&[1; 8]);
    let page = page(address);
    let is = |series: &str, number: f64| {
        assert_eq!(page.get(series).copied(), Some(number), "{series}: {page:#?}");
    };
    is("ferry_sessions", 1.0);
    is("ferry_draining", 0.0);
    is("ferry_recorder_good", 1.0);
    is("ferry_recorder_rows_lost_total", 0.0);
    is(r#"ferry_models{state="loaded"}"#, 1.0);
    is(r#"ferry_tenant_sessions{tenant="default"}"#, 1.0);
    is(r#"ferry_metrics_left_out{what="models"}"#, 0.0);
    is(r#"ferry_batch_rows_count{model="echo",version="1"}"#, 1.0);
    is(r#"ferry_batch_rows_sum{model="echo",version="1"}"#, 1.0);
    let sessions: f64 = page
        .iter()
        .filter(|(it, _)| it.starts_with("ferry_lane_sessions{"))
        .map(|(_, it)| it)
        .sum();
    assert!((sessions - 1.0).abs() < 0.1, "{page:#?}");
    for positive in ["process_cpu_seconds_total", "process_open_fds", "process_threads"] {
        assert!(page[positive] > 0.0, "{positive}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_operator_is_told_nothing() {
    let (server, address) = start(|config| {
        let (name, key) = ("a".to_owned(), "key-of-a".to_owned());
        config.tenants = vec![TenantConfig { name, key, quota: Quota::default(), rate: None }];
        config.operator_key = Some("operator".into());
        config.http = Some("127.0.0.1:0".into());
    })
    .await;
    for (headers, status) in [
        (vec![], 401),
        (vec![("authorization", "Bearer key-of-a")], 403),
        (vec![("authorization", "Bearer ")], 401),
        (vec![("authorization", "Basic operator")], 401),
        (vec![("ferry-key", "key-of-a")], 403),
        (vec![("authorization", "Bearer operatorx")], 403),
        (vec![("authorization", "Bearer operator")], 200),
        (vec![("authorization", "bearer operator")], 200),
        (vec![("ferry-key", "operator")], 200),
    ] {
        let answer = get(address, "/metrics", &headers);
        assert_eq!(answer.status, status, "{headers:?}");
        let text = String::from_utf8(answer.body).unwrap();
        assert_eq!(text.contains("ferry_sessions"), status == 200, "{headers:?}: {text}");
    }
    let counts = server.state.refusals.counts();
    let counted = counts.iter().filter(|it| (it.link, it.what) == ("metrics", "not_operator"));
    assert_eq!(counted.map(|it| it.count).sum::<u64>(), 6);
    // The tenants' own port has no such path.
    let http = server.http.unwrap();
    assert_eq!(get(http, "/metrics", &[("ferry-key", "operator")]).status, 404);
    assert_eq!(get(address, "/v2", &[("ferry-key", "operator")]).status, 404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_readers_at_once_get_whole_pages_of_both_formats() {
    let (server, address) = start(|_| {}).await;
    let mut client = server.client(ask(Transport::Shm, 8, 8)).await;
    client.infer(&[1; 8]);
    let readers: Vec<_> = (0..50)
        .map(|reader| {
            tokio::task::spawn_blocking(move || {
                let mut connection = Connection::open(address);
                for turn in 0..4 {
                    let is_open = (reader + turn) % 2 == 0;
                    let headers = if is_open { &[OPEN_METRICS][..] } else { &[] };
                    let answer = connection.call("GET /metrics", headers, b"");
                    let text = String::from_utf8(answer.body).unwrap();
                    assert_eq!(answer.status, 200);
                    assert!(text.contains("\nferry_sessions 1\n"), "{text}");
                    assert_eq!(text.ends_with("# EOF\n"), is_open, "{text}");
                }
            })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
    assert_eq!(server.state.refusals.total(), 0);
    server.stop().await;
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The table of docs/OBSERVING.md is that of the code.
#[test]
fn the_documentation_has_every_metric_and_no_other() {
    let page = std::fs::read_to_string(root().join("docs/OBSERVING.md")).unwrap();
    let told: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<String> = FAMILIES
        .iter()
        .map(|family| {
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Info => "info",
                Kind::Histogram => "histogram",
            };
            let labels = family.labels.join(", ");
            format!("| `{}` | {kind} | {labels} | {} |", family.name(), family.help)
        })
        .collect();
    let told: Vec<&str> = told.into_iter().filter(|line| line.matches('|').count() == 5).collect();
    let missing: Vec<_> = expected.iter().filter(|it| !told.contains(&it.as_str())).collect();
    let more: Vec<_> = told.iter().filter(|it| !expected.iter().any(|one| one == *it)).collect();
    assert!(missing.is_empty() && more.is_empty(), "missing:\n{}\nmore: {more:#?}", {
        let lines: Vec<_> = missing.iter().map(|it| it.as_str()).collect();
        lines.join("\n")
    });
}

/// Every expression below a key of a JSON.
fn expressions(json: &Value, into: &mut Vec<String>) {
    match json {
        Value::Object(object) => {
            for (key, value) in object {
                match value.as_str() {
                    Some(text) if ["expr", "definition"].contains(&key.as_str()) => {
                        into.push(text.to_owned());
                    }
                    _ => expressions(value, into),
                }
            }
        }
        Value::Array(all) => all.iter().for_each(|one| expressions(one, into)),
        _ => {}
    }
}

/// The names of series that each metric has, with its labels.
fn series() -> BTreeMap<String, &'static [&'static str]> {
    let names = FAMILIES.iter().flat_map(|family| {
        let endings = match family.kind {
            Kind::Histogram => &["_bucket", "_sum", "_count"][..],
            Kind::Counter | Kind::Gauge | Kind::Info => &[""],
        };
        endings.iter().map(|ending| (format!("{}{ending}", family.name()), family.labels))
    });
    names.collect()
}

#[test]
fn dashboard_and_alerts_ask_for_what_there_is() {
    let read = |path: &str| std::fs::read_to_string(root().join("deploy").join(path)).unwrap();
    let mut all = Vec::new();
    expressions(&serde_json::from_str(&read("grafana/tensorferry.json")).unwrap(), &mut all);
    assert!(all.len() > 20, "the dashboard was not understood: {all:#?}");
    // From one alert to the next.
    all.extend(read("prometheus/alerts.yml").split("- alert:").skip(1).map(|alert| {
        let expression = alert.split("expr:").nth(1).unwrap();
        let end = expression.find("labels:").unwrap();
        expression[..end].to_owned()
    }));
    let series = series();
    // What Prometheus adds to every series.
    let given = ["instance", "job", "le"];
    for expression in &all {
        let is_word = |it: char| it.is_ascii_alphanumeric() || it == '_';
        let words: Vec<&str> = expression.split(|it| !is_word(it)).collect();
        let is_ours = |word: &&str| word.starts_with("ferry_") || word.starts_with("process_");
        let mut labels: BTreeSet<&str> = given.into();
        for name in words.iter().copied().filter(is_ours) {
            let known = series.get(name).unwrap_or_else(|| panic!("no {name}: {expression}"));
            labels.extend(known.iter());
        }
        for (at, _) in expression.match_indices("=\"").chain(expression.match_indices("=~\"")) {
            let before = expression[..at].trim_end_matches('!');
            let name = before.rsplit(|it| !is_word(it)).next().unwrap();
            assert!(labels.contains(name), "no label {name}: {expression}");
        }
        for list in expression.split("by (").skip(1) {
            let list = list.split(')').next().unwrap();
            let unknown = list.split(',').map(str::trim).find(|it| !labels.contains(it));
            assert_eq!(unknown, None, "no such label: {expression}");
        }
    }
}
