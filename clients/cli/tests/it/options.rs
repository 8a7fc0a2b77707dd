//! Options that every command of a server has, wherever a person types them.

use std::io::ErrorKind;
use std::net::TcpListener;

use ferry_proto::channel::ADDRESS_DEFAULT;
use ferry_zoo::Precision;
use serde_json::Value;

use crate::server::{Server, ferryd, npy, run, text};

/// Nobody listens there: an answer means that the option of the command line was heard.
const NOBODY: &str = "http://127.0.0.1:1";

#[test]
fn the_server_is_named_before_and_after_a_verb() {
    let server = Server::start(&[], |_| {});
    let verbs: [&[&str]; 8] = [
        &["models", "list"],
        &["models", "get", "digits"],
        &["models", "load", "digits"],
        &["sessions", "list"],
        &["runs", "list"],
        &["runs", "show", "1"],
        &["models", "unload", "digits"],
        &["sql", "SELECT 1 AS one"],
    ];
    let options = ["--server", &server.url, "--key", "any", "--json"];
    for words in verbs {
        for place in 1..=words.len() {
            // A verb that ends something is done once.
            if words.contains(&"unload") && place < words.len() {
                continue;
            }
            let typed = [&words[..place], &options, &words[place..]].concat();
            let output = run(&typed, Some(NOBODY));
            assert!(output.status.success(), "{typed:?}: {}", text(&output.stderr));
            for line in text(&output.stdout).lines() {
                serde_json::from_str::<Value>(line).unwrap_or_else(|it| panic!("{typed:?}: {it}"));
            }
        }
    }
    let evict = ["sessions", "evict", "0000000000000001", "--server", &server.url];
    let refused = run(&evict, Some(NOBODY));
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused.stderr));
    let compare = ["runs", "compare", "1", "1", "--server", &server.url];
    assert_ne!(run(&compare, Some(NOBODY)).status.code(), Some(2));
    let elsewhere = run(&["models", "list", "--server", NOBODY], Some(&server.url));
    assert_eq!(elsewhere.status.code(), Some(3), "the option is stronger than the environment");
}

#[test]
fn a_server_needs_no_scheme_and_no_other_one_is_taken_for_plain_text() {
    let server = Server::start(&[], |_| {});
    let bare = server.url.trim_start_matches("http://");
    assert!(run(&["models", "--server", bare], None).status.success());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    for scheme in ["https", "grpc", "unix"] {
        let url = format!("{scheme}://{address}");
        let refused = run(&["models", "--server", &url, "--key", "secret"], None);
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{said}");
        assert!(said.contains(&url) && said.contains("http://HOST:PORT"), "{said}");
        let nobody_came = listener.accept().unwrap_err();
        assert_eq!(nobody_came.kind(), ErrorKind::WouldBlock, "{scheme}");
    }
    let help = text(&run(&["models", "--help"], None).stdout);
    assert!(help.contains(ADDRESS_DEFAULT), "{help}");
    let server_help = text(&ferryd(&["--help"]).output().unwrap().stdout);
    assert!(server_help.contains(ADDRESS_DEFAULT), "{server_help}");
}

#[test]
fn one_input_has_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.npy");
    std::fs::write(&file, npy("|u1", "(1,)", &[7])).unwrap();
    let input = format!("x={}", file.display());
    let twice = ["infer", "--model", "any", "--input", &input, "--input", &input];
    let refused = run(&twice, Some(NOBODY));
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("--input x is given twice"), "{said}");
    assert_eq!(run(&twice[..5], Some(NOBODY)).status.code(), Some(3), "once is right");
}

#[test]
fn shapes_are_asked_for_and_told() {
    let server = Server::start(&[], |_| {});
    let shapes = ["--shape", "input=50", "--shape", "output=7"];
    let bench = ["bench", "--transport", "local,tcp", "--requests", "4", "--warmup", "1"];
    let lines = server.json(&[&bench[..], &shapes].concat());
    let tensor = |name: &str, shape: &[u64]| serde_json::json!([{ "name": name, "shape": shape }]);
    for line in &lines {
        assert_eq!(line["inputs"], tensor("input", &[50]), "{line}");
        assert_eq!(line["lost"], 0, "{line}");
    }
    assert_eq!(lines[1]["outputs"], tensor("output", &[7]));
    let table = text(&server.ferry(&[&bench[..], &["--model", "digits"]].concat()).stdout);
    assert!(table.contains("digits with input 1x1x8x8 → output 1x10"), "{table}");
    let fixed = server.ferry(&[&bench[..], &["--model", "digits", "--batch", "3"]].concat());
    let said = text(&fixed.stderr);
    assert_eq!(fixed.status.code(), Some(2), "{said}");
    assert!(said.contains("--batch 3") && said.contains("input FP32[1,1,8,8]"), "{said}");
    let none = server.ferry(&[&bench[..], &["--batch", "3"]].concat());
    assert_eq!(none.status.code(), Some(2), "echo's sizes are said by bytes");
    let unknown = server.ferry(&[&bench[..], &["--shape", "x=1"]].concat());
    let said = text(&unknown.stderr);
    assert!(said.contains("\"x\"") && said.contains("input, output"), "{said}");
}

#[test]
fn models_are_shown_with_device_and_precision() {
    let server = Server::start(&[], |models| {
        ferry_zoo::write_in(Precision::Fp16, "digits", models, 1, &mut |_| {}).unwrap();
    });
    let models = server.json(&["models"]);
    let shown = |name: &str| {
        let model = models.iter().find(|model| model["name"] == name).unwrap();
        (model["device"].clone(), model["precision"].clone())
    };
    assert_eq!(shown("digits").1, "fp32");
    assert_eq!(shown("digits-fp16").1, "fp16");
    assert_eq!(shown("echo"), ("cpu".into(), Value::Null));
    let got = &server.json(&["models", "get", "digits-fp16"])[0];
    assert_eq!((&got["device"], &got["precision"]), (&shown("digits-fp16").0, &"fp16".into()));
    let table = text(&server.ferry(&["models"]).stdout);
    let row = table.lines().find(|line| line.contains("digits-fp16")).unwrap();
    let device = shown("digits-fp16").0;
    assert!(row.contains(device.as_str().unwrap()) && row.contains(" fp16 "), "{table}");
    let got = text(&server.ferry(&["models", "get", "digits-fp16"]).stdout);
    assert!(got.contains("precision") && got.contains(" fp16 "), "{got}");
    let rows = server.json(&["sql", "SELECT name, precision FROM models ORDER BY name"]);
    let expected = [("digits", Some("fp32")), ("digits-fp16", Some("fp16")), ("echo", None)];
    let expected = expected.map(|(name, it)| serde_json::json!({ "name": name, "precision": it }));
    assert_eq!(rows, expected);
}

#[test]
fn a_load_says_what_changed_and_a_broken_toml_is_refused_by_name() {
    let server = Server::start(&[], |_| {});
    let load = ["models", "load", "digits"];
    let said = |output: &std::process::Output| text(&output.stderr).to_owned();
    let again = server.ferry(&load);
    assert!(again.status.success(), "{}", said(&again));
    assert!(said(&again).contains("none of its files changed"), "{}", said(&again));
    let toml = server.path("models/digits.toml");
    std::fs::write(&toml, "description = 'another'").unwrap();
    let changed = server.ferry(&load);
    assert!(changed.status.success(), "{}", said(&changed));
    assert!(said(&changed).contains("digits.toml"), "{}", said(&changed));
    assert!(text(&changed.stdout).contains("another"), "{}", text(&changed.stdout));
    let json = server.json(&load);
    assert_eq!((&json[0]["loaded"], &json[0]["changed"]), (&false.into(), &Value::Array(vec![])));
    std::fs::write(&toml, "max_batch = 'many'").unwrap();
    let refused = server.ferry(&load);
    assert_eq!(refused.status.code(), Some(4), "{}", said(&refused));
    for part in ["digits.toml", "max_batch", "goes on as it was"] {
        assert!(said(&refused).contains(part), "{part}: {}", said(&refused));
    }
    let served = server.json(&["models", "get", "digits"]);
    assert_eq!(
        (&served[0]["state"], &served[0]["description"]),
        (&"loaded".into(), &"another".into())
    );
}
