//! Every line that scripts outside the project call, as it is typed.

use std::fs;

use ferry_client::Transport;
use ferry_conformance::transports::everywhere;
use ferry_zoo::digits::demo_jpeg;
use serde_json::Value;

use crate::server::{Server, npy, run, text};

const STAGES: [&str; 7] = ["p50", "p90", "p99", "p999", "max", "mean", "cov"];

/// The transports that every machine has, as they are typed.
fn transports() -> Vec<&'static str> {
    everywhere().map(Transport::name).collect()
}

#[test]
fn a_picture_is_answered_over_every_transport_and_written_as_npy() {
    let server = Server::start(&[], |_| {});
    let image = server.path("models").join(demo_jpeg().file_name);
    let mut files = Vec::new();
    for transport in transports() {
        let folder = server.path(transport);
        let words = ["infer", "--model", "digits", "--transport", transport, "--image"];
        let words = [&words[..], &[image.to_str().unwrap(), "--output"]].concat();
        let answer = &server.json(&[&words[..], &[folder.to_str().unwrap()]].concat())[0];
        assert_eq!(answer["transport"], transport);
        assert_eq!(answer["top"][0]["label"], demo_jpeg().label.to_string(), "{transport}");
        assert!(answer["total_ns"].as_u64().unwrap() > 0);
        assert!(answer["stages"]["copy_in"].is_null(), "no device: absent, not 0");
        files.push(fs::read(folder.join("output.npy")).unwrap());
    }
    assert!(files.iter().all(|file| *file == files[0]), "one picture, one answer");
    let words = ["infer", "--model", "digits", "--image", image.to_str().unwrap()];
    let chosen = &server.json(&words)[0];
    let reason = chosen["transport_reason"].as_str().unwrap();
    assert!(chosen["transport"] == "shm" && reason.contains("share a host"), "{chosen}");
}

#[test]
fn tensors_go_in_and_come_out_the_same_over_every_transport() {
    let server = Server::start(&[], |_| {});
    let input = server.path("x.npy");
    let values: Vec<u8> = (0..64_u8).flat_map(|i| (f32::from(i) / 64.0).to_le_bytes()).collect();
    let file = npy("<f4", "(1, 1, 8, 8)", &values);
    fs::write(&input, file).unwrap();
    let named = format!("input={}", input.display());
    let mut answers = Vec::new();
    for transport in transports() {
        let folder = server.path(&format!("out-{transport}"));
        let words = ["infer", "--model", "digits", "--transport", transport, "--input", &named];
        server.json(&[&words[..], &["--output", folder.to_str().unwrap()]].concat());
        answers.push(fs::read(folder.join("output.npy")).unwrap());
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]));
}

#[test]
fn a_bench_prints_one_object_per_transport_and_sql_finds_every_request() {
    let server = Server::start(&[], |_| {});
    let transports = transports();
    let lines = server.json(&[
        "bench",
        "--model",
        "echo",
        "--transport",
        &transports.join(","),
        "--clients",
        "2",
        "--requests",
        "40",
        "--warmup",
        "5",
        "--wait",
        "block",
        "--in-bytes",
        "5000",
        "--out-bytes",
        "100",
    ]);
    assert_eq!(lines.len(), transports.len());
    for (line, transport) in lines.iter().zip(&transports) {
        assert_eq!(line["transport"], *transport);
        assert_eq!((&line["model"], &line["clients"]), (&"echo".into(), &2.into()));
        assert_eq!((&line["requests"], &line["errors"]), (&80.into(), &0.into()), "{line}");
        assert!(line["throughput_rps"].as_f64().unwrap() > 0.0);
        for key in STAGES {
            assert!(line["total_ns"][key].is_number(), "{transport} total_ns.{key}: {line}");
            assert!(line["stages"]["infer"][key].is_number(), "{transport} infer.{key}");
        }
        let run_id = line["run_id"].as_i64().unwrap();
        let sql = format!(
            "SELECT count(*) AS n, count(total_ns) AS totals, count(copy_in_ns) AS copies, \
             min(unattributed_ns) AS least FROM requests WHERE run_id = {run_id} \
             AND transport = '{transport}'"
        );
        let rows = server.json(&["sql", "--store", &server.store(), &sql]);
        assert_eq!((&rows[0]["n"], &rows[0]["totals"]), (&80.into(), &80.into()), "{transport}");
        assert_eq!(rows[0]["copies"], 0, "absent stages are NULL");
        assert!(rows[0]["least"].as_i64().unwrap() >= 0);
    }
    let runs = server.json(&["runs", "list"]);
    assert!(runs.len() > transports.len(), "the server's own, and one for each");
    let (a, b) = (lines[1]["run_id"].to_string(), lines[2]["run_id"].to_string());
    assert!(server.ferry(&["runs", "show", &a]).status.success());
    let compared = server.json(&["runs", "compare", &a, &b]);
    assert!(compared[0]["p50_ratio"].as_f64().unwrap() > 0.0, "{compared:?}");
}

#[test]
fn without_an_rdma_device_doctor_and_refusal_say_what_to_do() {
    let device = ["--rdma-device", "no-such-device"];
    let nobody = Some("http://127.0.0.1:1");
    // Asks a server of its own.
    let output = run(&[&["doctor", "--json"], &device[..]].concat(), nobody);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{err}");
    let findings: Vec<Value> = out.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
    let area = |area: &str, name: &str| {
        let mut all = findings.iter();
        let found = all.find(|it| it["area"] == area && it["name"] == name);
        found.unwrap_or_else(|| panic!("no {area} {name}: {out}"))
    };
    assert!(area("rdma", "library")["detail"].is_string());
    for (of, name) in
        [("gpu", "driver"), ("gpu", "cuDNN"), ("gpu", "NVRTC"), ("engine", "onnx-cuda")]
    {
        let finding = area(of, name);
        assert_ne!(finding["detail"], "", "{finding}");
        assert!(finding["usable"] == true || finding["fix"] != "", "{finding}");
    }
    let transport = area("transport", "rdma");
    assert_eq!(transport["usable"], false);
    let why = transport["detail"].as_str().unwrap();
    assert!(why.contains("RDMA devices"), "{why}");
    let table = text(&run(&[&["doctor"], &device[..]].concat(), nobody).stdout);
    assert!(table.contains("rdma") && table.contains("library"), "{table}");

    let server = Server::start(&device, |_| {});
    let image = server.path("models").join(demo_jpeg().file_name);
    let words = ["infer", "--model", "digits", "--transport", "rdma", "--image"];
    let refused = server.ferry(&[&words[..], &[image.to_str().unwrap()]].concat());
    assert_eq!(refused.status.code(), Some(4), "refused by the server");
    let said = text(&refused.stderr);
    assert!(said.contains("transport rdma") && said.contains("ferry doctor"), "{said}");
}

#[test]
fn the_other_commands_answer() {
    let server = Server::start(&["--rdma-device", "no-such-device"], |_| {});
    let models = server.json(&["models"]);
    let names: Vec<_> = models.iter().map(|model| model["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["digits", "echo"]);
    let findings = server.json(&["doctor"]);
    let usable = |name: &str| {
        let mut all = findings.iter();
        all.find(|it| it["name"] == name).is_some_and(|it| it["usable"] == true)
    };
    assert!(transports().iter().all(|transport| usable(transport)), "{findings:?}");
    assert!(!usable("rdma"), "said, with what to do");
    let rdma: Vec<_> = findings.iter().filter(|it| it["area"] == "rdma").collect();
    assert!(rdma.iter().any(|it| it["name"] == "library"), "{findings:?}");
    for finding in rdma.iter().filter(|it| it["usable"] == false) {
        assert_ne!(finding["fix"], "", "{finding}");
    }
    assert!(server.json(&["sessions"]).is_empty());
    let rows = server.json(&["sql", "SELECT 1 AS one, NULL AS none"]);
    assert_eq!(rows, [serde_json::json!({ "one": 1, "none": null })]);
    let out = server.path("zoo");
    let written = server.json(&["zoo", "write", "digits", "--out", out.to_str().unwrap()]);
    assert!(out.join("digits.onnx").exists() && written[0]["bytes"].is_u64());
    let help = text(&run(&["--help"], None).stdout);
    assert!(help.contains("Exit codes"), "{help}");
}
