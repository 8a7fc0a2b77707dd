//! `ferry tune`: what it tries, writes, and puts back.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ferry_client::blocking::Client;
use ferry_client::v1;
use ferry_proto::v1::models_client::ModelsClient;
use rustix::process::{Pid, Signal, kill_process};

use crate::server::{Server, ferry_path, run, text};

/// Only a guard.
const WATCHDOG: Duration = Duration::from_secs(60);

const SHORT: [&str; 6] = ["--seconds", "5", "--trials", "3", "--clients-max", "2"];

fn is_overridden(server: &Server) -> bool {
    server.json(&["models", "get", "digits"])[0]["is_overridden"] == true
}

#[test]
fn everything_tried_is_told_and_all_other_keys_are_kept() {
    let server = Server::start(&[], |models| {
        let toml = "# ours\ndescription = 'kept' # why\ninstances = 1\nengine = 'tract'\n";
        fs::write(models.join("digits.toml"), toml).unwrap();
    });
    let out = server.path("tuned.toml");
    let words = ["tune", "digits", "--slo-ms", "60000", "--out", out.to_str().unwrap()];
    let lines = server.json(&[&words[..], &SHORT].concat());
    let (result, trials) = lines.split_last().unwrap();
    assert_eq!((&trials[0]["kind"], &trials[0]["why"]), (&"trial".into(), &"start".into()));
    assert_eq!(trials[0]["settings"], serde_json::json!({ "instances": 1 }), "tract: no threads");
    for trial in trials {
        assert!(trial["error"].is_null(), "{trial}");
        assert!(trial["best"]["throughput_rps"].as_f64().unwrap() > 0.0, "{trial}");
        assert!(trial["rungs"][0]["requests"].as_u64().unwrap() > 0, "{trial}");
    }
    assert_eq!((&result["kind"], &result["best"]["meets"]), (&"result".into(), &true.into()));
    assert_eq!(result["measurements"], trials.len());
    let written = fs::read_to_string(&out).unwrap();
    assert!(written.starts_with("# ours\ndescription = 'kept' # why\ninstances = "), "{written}");
    assert!(!is_overridden(&server), "the server has its model as it was");
    let config = ["models", "load", "digits", "--config", out.to_str().unwrap()];
    assert!(server.ferry(&config).status.success(), "what is written can be loaded");
}

#[test]
fn a_model_that_was_loaded_with_another_toml_has_that_again() {
    let server = Server::start(&[], |_| {});
    let mine = server.path("mine.toml");
    fs::write(&mine, "description = 'mine'\nengine = 'tract'\n").unwrap();
    server.json(&["models", "load", "digits", "--config", mine.to_str().unwrap()]);
    let out = server.path("tuned.toml");
    let words = ["tune", "digits", "--slo-ms", "60000", "--out", out.to_str().unwrap()];
    server.json(&[&words[..], &SHORT].concat());
    assert!(fs::read_to_string(&out).unwrap().contains("'mine'"));
    let model = &server.json(&["models", "get", "digits"])[0];
    assert_eq!((&model["description"], &model["is_overridden"]), (&"mine".into(), &true.into()));
}

#[test]
fn a_bound_that_nothing_meets_is_told_with_the_best_that_was_reached() {
    let server = Server::start(&[], |_| {});
    let out = server.path("tuned.toml");
    let words =
        ["tune", "digits", "--slo-ms", "0.000001", "--json", "--out", out.to_str().unwrap()];
    let output = server.ferry(&[&words[..], &SHORT].concat());
    let (told, said) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no settings meet") && said.contains("best reached"), "{said}");
    let result: serde_json::Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&result["best"]["meets"], &result["out"]),
        (&false.into(), &serde_json::Value::Null)
    );
    assert!(!out.exists() && !is_overridden(&server));
}

#[test]
fn what_cannot_be_tuned_is_refused_with_what_would_do() {
    let server = Server::start(&[], |_| {});
    let out = server.path("tuned.toml");
    let out = out.to_str().unwrap();
    let cases: [(&[&str], i32, &str); 6] = [
        (&["absent", "--out", out], 4, "absent"),
        (&["echo", "--out", out], 4, "built in"),
        (&["digits", "--out", "/absent/folder/x.toml"], 1, "/absent/folder/x.toml"),
        (&["digits", "--out", out, "--try-batches"], 2, "--try-batches"),
        (&["digits", "--out", out, "--transport", "local"], 2, "local"),
        (&["digits", "--out", out, "--slo-ms", "0"], 2, "milliseconds"),
    ];
    for (words, code, hint) in cases {
        let slo: &[&str] = if words.contains(&"--slo-ms") { &[] } else { &["--slo-ms", "1000"] };
        let refused = server.ferry(&[&["tune"], words, slo, &SHORT].concat());
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(code), "{words:?}: {said}");
        assert!(said.contains(hint), "{words:?}: {said}");
    }
    let words = ["tune", "digits", "--slo-ms", "1", "--out", out];
    assert_eq!(run(&words, Some("http://127.0.0.1:1")).status.code(), Some(3));
    assert!(!is_overridden(&server));
}

#[test]
fn a_tenant_loads_nothing_and_the_operator_asks_for_nothing() {
    let config = tempfile::NamedTempFile::new().unwrap();
    fs::write(config.path(), "operator-key = 'op'\n[tenants.a]\nkey = 'of-a'\n").unwrap();
    let server = Server::start(&["--config", config.path().to_str().unwrap()], |_| {});
    let out = server.path("tuned.toml");
    let words =
        ["tune", "digits", "--slo-ms", "60000", "--out", out.to_str().unwrap(), "--key", "of-a"];
    let words = [&words[..], &SHORT].concat();
    let refused = server.ferry(&words);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(4), "{said}");
    assert!(said.contains("--operator-key"), "{said}");
    let both = server.ferry(&[&words[..], &["--operator-key", "op"]].concat());
    assert!(both.status.success(), "{}", text(&both.stderr));
    for (key, is_told) in [("op", true), ("of-a", false)] {
        let client = Client::connect_with(&server.url, Some(key)).unwrap();
        let mut models = ModelsClient::new(client.control().channel());
        let get = v1::GetModelRequest { name: "digits".into(), version: 0 };
        let toml = client.run(models.get(get)).unwrap().into_inner().config_toml;
        assert_eq!(toml.is_some_and(|it| it.contains("[picture]")), is_told, "{key}");
    }
}

#[test]
fn an_interrupted_search_puts_the_model_back_and_one_without_its_server_ends() {
    let mut server = Server::start(&[], |_| {});
    let out = server.path("tuned.toml");
    let begin = || {
        let child = Command::new(ferry_path())
            .args(["tune", "digits", "--slo-ms", "60000", "--seconds", "600", "--out"])
            .arg(&out)
            .args(["--server", &server.url])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while !is_overridden(&server) {
            assert!(start.elapsed() < WATCHDOG, "nothing is tried");
        }
        child
    };
    let child = begin();
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", text(&ended.stderr));
    assert!(!is_overridden(&server) && !out.exists());

    let child = begin();
    server.signal(Signal::KILL);
    server.wait();
    let ended = child.wait_with_output().unwrap();
    let said = text(&ended.stderr);
    assert!(matches!(ended.status.code(), Some(1 | 3)), "{said}");
    assert!(said.contains("digits is not as it was"), "{said}");
}
