//! Options that every command of a server has, wherever a person types them.

use ferry_zoo::Precision;
use serde_json::Value;

use crate::server::{Server, run, text};

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
