//! `ferry bench --protocol oip`: load over the Open Inference Protocol.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ferry_proto::oip::SystemSharedMemoryStatusRequest;
use ferry_proto::oip::grpc_inference_service_client::GrpcInferenceServiceClient;
use rustix::process::{Pid, Signal, kill_process};

use crate::server::{Server, ferry_path, text};

/// Only a guard.
const WATCHDOG: Duration = Duration::from_secs(60);

/// How many regions the server knows.
fn regions(server: &Server) -> usize {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut client = GrpcInferenceServiceClient::connect(server.url.clone()).await.unwrap();
        let all = SystemSharedMemoryStatusRequest::default();
        client.system_shared_memory_status(all).await.unwrap().into_inner().regions.len()
    })
}

/// What lies in /dev/shm of the process.
fn left_by(pid: u32) -> Vec<String> {
    let prefix = format!("ferry-bench-{pid}-");
    let all = std::fs::read_dir("/dev/shm").unwrap().flatten();
    let names = all.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&prefix)).collect()
}

#[test]
fn sessions_and_the_protocol_are_measured_in_one_run_and_compared() {
    let server = Server::start(&[], |_| {});
    let words =
        ["bench", "--protocol", "ferry,oip", "--transport", "shm,tcp,grpc", "--clients", "2"];
    let sizes = ["--in-bytes", "4000", "--requests", "60", "--warmup", "3", "--window", "2"];
    let lines = server.json(&[&words[..], &sizes].concat());
    let ways: Vec<_> = lines.iter().map(|it| (&it["protocol"], &it["transport"])).collect();
    let expected =
        [("ferry", "shm"), ("ferry", "tcp"), ("ferry", "grpc"), ("oip", "grpc"), ("oip", "shm")];
    assert_eq!(
        ways,
        expected.map(|(a, b)| (a.into(), b.into())).iter().map(|(a, b)| (a, b)).collect::<Vec<_>>()
    );
    assert!(lines[0]["ratio_p50"].is_null(), "the others are compared with the first");
    for line in &lines {
        assert_eq!((&line["requests"], &line["errors"]), (&120.into(), &0.into()), "{line}");
        assert_eq!(line["lost"], 0, "{line}");
        assert!(line["stages"]["server"]["p50"].is_u64(), "of ferryd's SQL: {line}");
        assert!(line["stages"]["fill"]["p50"].is_u64(), "{line}");
    }
    for line in &lines[1..] {
        assert_eq!(line["ratio_p50"]["to"], "shm");
        assert!(line["ratio_p50"]["median"].as_f64().unwrap() > 0.0, "{line}");
    }
    for line in &lines[3..] {
        let tensor = |name: &str| serde_json::json!([{ "name": name, "shape": [1, 1, 1000] }]);
        assert_eq!((&line["inputs"], &line["outputs"]), (&tensor("INPUT0"), &tensor("OUTPUT0")));
        for absent in ["run_id", "wait", "recorded", "accounted"] {
            assert!(line[absent].is_null(), "{absent}: {line}");
        }
        assert!(line["stages"]["network"].is_null(), "not known of a request: absent, not 0");
    }
    assert_eq!(regions(&server), 0);
}

#[test]
fn other_models_are_found_by_their_metadata() {
    let server = Server::start(&[], |_| {});
    let bench = ["bench", "--protocol", "oip", "--model", "digits", "--requests", "10"];
    let lines = server.json(&bench);
    assert_eq!(lines.len(), 2, "in messages and in shared memory");
    for line in &lines {
        let tensor =
            |name: &str, shape: &[u64]| serde_json::json!([{ "name": name, "shape": shape }]);
        assert_eq!(line["inputs"], tensor("input", &[1, 1, 8, 8]));
        assert_eq!((&line["outputs"], &line["errors"]), (&tensor("output", &[1, 10]), &0.into()));
    }
    let table = text(&server.ferry(&[&bench[..], &["--protocol", "oip"]].concat()).stdout);
    assert!(table.contains("oip/shm") && table.contains("p50 / oip/grpc"), "{table}");
}

#[test]
fn what_the_protocol_cannot_send_is_said_before_anything_is_sent() {
    let server = Server::start(&[], |_| {});
    let cases: [(&[&str], i32, &str); 7] = [
        (&["--transport", "tcp"], 2, "grpc, shm"),
        (&["--in-bytes", "4000", "--out-bytes", "8"], 2, "--out-bytes 8"),
        (&["--in-bytes", "4001"], 2, "4001"),
        (&["--memory", "pinned"], 2, "--memory"),
        (&["--shape", "INPUT0=3"], 2, "INPUT0"),
        (&["--model", "absent"], 4, "absent"),
        (&["--floor"], 2, "--floor"),
    ];
    for (words, code, hint) in cases {
        let refused = server.ferry(&[&["bench", "--protocol", "oip"], words].concat());
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(code), "{words:?}: {said}");
        assert!(said.contains(hint), "{words:?}: {said}");
    }
}

#[test]
fn an_interrupted_bench_tells_what_it_measured_and_leaves_nothing() {
    let server = Server::start(&[], |_| {});
    let words = ["bench", "--protocol", "ferry,oip", "--transport", "shm", "--in-bytes", "4000"];
    let endless =
        ["--requests", "1000000000", "--rounds", "1000", "--json", "--server", &server.url];
    let child = Command::new(ferry_path())
        .args(words)
        .args(endless)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    let start = Instant::now();
    while regions(&server) == 0 {
        assert!(start.elapsed() < WATCHDOG, "no region is registered");
    }
    // The server lists the region before its answer has reached the client, who then takes the name.
    while !left_by(pid).is_empty() {
        assert!(start.elapsed() < WATCHDOG, "the name goes as soon as the server has the file");
    }
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("interrupted: ") && said.contains("of 1000 rounds"), "{said}");
    assert_eq!(text(&output.stdout).lines().count(), 2, "what was measured is told");
    assert_eq!(regions(&server), 0);
    assert!(server.json(&["sessions"]).is_empty());
}
