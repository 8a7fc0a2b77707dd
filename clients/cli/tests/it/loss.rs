//! Rows that the store had no room for: everybody who tells of them tells the same, 0 included.

use ferry_client::blocking::Client;
use ferry_client::v1;
use ferry_proto::v1::admin_client::AdminClient;
use rustix::process::Signal;
use serde_json::Value;

use crate::server::{Server, text};

/// Of each transport.
const REQUESTS: u64 = 12_000;

/// What a bench said, and how it ended.
struct Bench {
    /// Of each run: its number, and how many rows it lost.
    runs: Vec<(i64, u64)>,
    exit: Option<i32>,
    said: String,
}

fn bench(server: &Server) -> Bench {
    let count = REQUESTS.to_string();
    let words = ["bench", "--json", "--transport", "tcp,local,shm", "--rounds", "2", "--in-bytes"];
    let words = [&words[..], &["64", "--out-bytes", "64", "--requests", &count]].concat();
    let output = server.ferry(&words);
    let lines = text(&output.stdout);
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let runs = lines.map(|line| {
        assert_eq!(line["requests"], REQUESTS, "the store is not the clients' trouble: {line}");
        (line["run_id"].as_i64().unwrap(), line["lost"].as_u64().unwrap())
    });
    let runs = runs.collect();
    Bench { runs, exit: output.status.code(), said: text(&output.stderr) }
}

/// What the store says of the benches: number, rows lost, rows stored.
fn stored(server: &Server) -> Vec<(i64, u64, u64)> {
    let sql = "SELECT id, lost, (SELECT count(*) FROM request_rows WHERE run_id = id) AS stored \
               FROM runs WHERE kind = 'bench' ORDER BY id";
    let rows = server.json(&["sql", "--store", &server.store(), sql]);
    let number = |row: &Value, name: &str| row[name].as_u64().unwrap();
    let rows = rows
        .iter()
        .map(|row| (row["id"].as_i64().unwrap(), number(row, "lost"), number(row, "stored")));
    rows.collect()
}

/// What `Admin.Status` says of all runs together.
fn told(server: &Server) -> u64 {
    let client = Client::connect(&server.url).unwrap();
    let mut admin = AdminClient::new(client.control().channel());
    let status = client.run(admin.status(v1::StatusRequest {})).unwrap().into_inner();
    status.store.unwrap().rows_lost
}

/// Ends the server; what its last line says.
fn last_line(server: &mut Server) -> u64 {
    server.signal(Signal::TERM);
    assert_eq!(server.wait(), Some(0), "an asked-for end");
    let log = std::fs::read_to_string(server.path("log")).unwrap();
    let line = log.lines().last().unwrap();
    assert!(line.contains("server ended"), "{line}");
    let (_, lost) = line.split_once("rows_lost=").unwrap();
    lost.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn what_a_full_store_lost_is_the_same_wherever_it_is_told() {
    let mut server = Server::start(&["--log", "info", "--store-bytes-max", "1048576"], |_| {});
    let bench = bench(&server);
    let lost: u64 = bench.runs.iter().map(|(_, lost)| lost).sum();
    assert!(lost > 0, "the store was to be full");
    assert_eq!(bench.exit, Some(1), "{}", bench.said);
    assert!(bench.said.contains(&format!("{lost} timings were not stored")), "{}", bench.said);
    let stored = stored(&server);
    for (run, lost, rows) in &stored {
        assert!(bench.runs.contains(&(*run, *lost)), "run {run}: {lost} of {:?}", bench.runs);
        assert_eq!(lost + rows, REQUESTS, "run {run}");
    }
    assert_eq!(stored.len(), bench.runs.len());
    assert_eq!(told(&server), lost);
    assert_eq!(last_line(&mut server), lost);
    let sql = "SELECT sum(lost) AS lost FROM runs";
    assert_eq!(server.json(&["sql", "--store", &server.store(), sql])[0]["lost"], lost);
}

#[test]
fn that_nothing_was_lost_is_the_same_wherever_it_is_told() {
    let mut server = Server::start(&["--log", "info"], |_| {});
    let bench = bench(&server);
    assert_eq!(bench.exit, Some(0), "{}", bench.said);
    assert!(bench.runs.iter().all(|&(_, lost)| lost == 0), "{:?}", bench.runs);
    let runs: Vec<_> = bench.runs.iter().map(|&(run, lost)| (run, lost, REQUESTS)).collect();
    assert_eq!(stored(&server), runs);
    assert_eq!(told(&server), 0);
    assert_eq!(last_line(&mut server), 0);
}
