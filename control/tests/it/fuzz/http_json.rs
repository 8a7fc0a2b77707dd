//! Every path over HTTP but that of inferences, and their JSON.
//!
//! An input is a line with the method and the path, and the body behind it. `KEY` is the name of a
//! file in `/dev/shm`.

use std::future::ready;

use serde_json::Value;

use super::http::{Client, refused};
use crate::http::start;

fn target(client: &Client, key: &str, input: &[u8]) -> String {
    let Some(at) = input.iter().position(|&byte| byte == b'\n') else { return "no line".into() };
    let line = String::from_utf8_lossy(&input[..at]);
    let Some((method, path)) = line.split_once(' ') else { return "no line".into() };
    let is_path = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
    if !matches!(method, "GET" | "POST") || !is_path || path.contains("/infer") {
        return "no request".into();
    }
    let body = String::from_utf8_lossy(&input[at + 1..]).replace("KEY", key);
    let body =
        if body.contains(char::REPLACEMENT_CHARACTER) { &input[at + 1..] } else { body.as_bytes() };
    let answer = client.call(&line, &[], body);
    let path = path.split(['?', '#']).next().unwrap_or_default();
    if answer.status != 200 {
        return refused(&answer, path);
    }
    let what = path.rsplit('/').next().unwrap_or_default();
    let told = if answer.body.is_empty() { Value::Null } else { answer.json() };
    // Those of a list are its elements', of which there may be any number.
    let kind = match &told {
        Value::Array(all) => format!("{} of a list", all.len().min(1)),
        Value::Object(all) => format!("{} of an object", all.len()),
        Value::Null => "nothing".into(),
        other => panic!("{other}"),
    };
    format!("200 {} {kind}", super::shape(what))
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_for_other_paths_over_http_end_in_an_answer_or_a_status_of_the_table() {
    let (server, address) = start(|_| {}).await;
    let file = tempfile::Builder::new().prefix("ferry-fuzz-").tempfile_in("/dev/shm").unwrap();
    file.as_file().set_len(64).unwrap();
    let key = file.path().file_name().unwrap().to_str().unwrap();
    let client = Client::new(address);
    let did = super::search("http_json", |input| ready(target(&client, key, &input))).await;
    for reached in [
        "200 register nothing",
        "200 status 1 of a list",
        "200 index 1 of a list",
        "200 logging 6 of an object",
        "200 config",
        "405 ",
        "404 ",
        "501 ",
        "400 without a text",
    ] {
        assert!(did.iter().any(|it| it.contains(reached)), "{reached:?} is not in {did:#?}");
    }
    server.stop().await;
}
