//! Inferences.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::{GzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::json;

use super::{Connection, HEAD_BYTES, INFER, call, floats, start, with_bytes};
use crate::oip::{a_digit, put_digits};

#[tokio::test(flavor = "multi_thread")]
async fn tensors_go_as_bytes_and_come_back_as_bytes() {
    let (server, http) = start(|_| {}).await;
    // Not a multiple of a page, and with JSON of any length before it.
    for (count, id) in [(6, "seven"), (0, "x"), (150_528, "a longer id")] {
        let sent = floats(count);
        let asked = json!({
            "id": id,
            "parameters": { "binary_data_output": true, "custom": "value", "priority": 1 },
            "inputs": [{
                "name": "INPUT0", "datatype": "FP32", "shape": [1, 1, count],
                "parameters": { "binary_data_size": sent.len() },
            }],
        });
        let (head, body) = with_bytes(&asked, &sent);
        let answer = call(http, INFER, &[(HEAD_BYTES, &head)], &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
        let at: usize = answer.header(HEAD_BYTES).unwrap().parse().unwrap();
        let told: serde_json::Value = serde_json::from_slice(&answer.body[..at]).unwrap();
        let expected = json!({
            "model_name": "echo", "model_version": "1", "id": id,
            "outputs": [{
                "name": "OUTPUT0", "datatype": "FP32", "shape": [1, 1, count],
                "parameters": { "binary_data_size": sent.len() },
            }],
        });
        assert_eq!(told, expected);
        assert_eq!(answer.body[at..], sent);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_numbers_are_rows_however_they_nest() {
    let (server, http) = start(|_| {}).await;
    for data in ["[1.5,-2,3e2,0.1]", "[[[1.5,-2],\n[3e2, 0.1 ]]]", "[ [1.5], [-2, [3E+2], 0.1] ]"] {
        let body = format!(
            r#"{{"inputs":[{{"data":{data},"name":"INPUT0","shape":[1,2,2],"datatype":"FP32"}}]}}"#
        );
        let answer =
            call(http, "POST /v2/models/echo/versions/1/infer", &[], body.as_bytes()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header(HEAD_BYTES), None);
        let output = &answer.json()["outputs"][0];
        assert_eq!(output["shape"], json!([1, 2, 2]));
        assert_eq!(output["data"].to_string(), "[1.5,-2.0,300.0,0.1]");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_json_does_not_have_come_and_go_as_tritons_clients_write_them() {
    let (server, http) = start(|_| {}).await;
    let bare = "[NaN,Infinity,-Infinity,1.0]";
    for data in [bare, "[[ NaN, Infinity],\n[-Infinity ,1]]", r#"["NaN","Infinity","-Infinity",1]"#]
    {
        let body = format!(
            r#"{{"inputs":[{{"name":"INPUT0","shape":[1,2,2],"datatype":"FP32","data":{data}}}],"id":"[NaN"}}"#
        );
        let answer = call(http, INFER, &[], body.as_bytes()).await;
        assert_eq!(answer.status, 200, "{data}: {answer:?}");
        let text = String::from_utf8(answer.body).unwrap();
        assert!(text.contains(&format!("\"data\":{bare}")), "{text}");
        assert!(text.contains("\"id\":\"[NaN\""), "{text}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_output_is_written_as_it_is_asked_for() {
    let (server, http) = start(|_| {}).await;
    let ask = |outputs: serde_json::Value, all: bool| {
        json!({
            "parameters": { "binary_data_output": all },
            "inputs": [{
                "name": "INPUT0", "datatype": "FP32", "shape": [1, 1, 2], "data": [0.5, 1],
            }],
            "outputs": outputs,
        })
    };
    let of =
        |parameters: serde_json::Value| json!([{ "name": "OUTPUT0", "parameters": parameters }]);
    for (outputs, all, is_binary) in [
        (json!([]), true, true),
        (json!([]), false, false),
        (json!([{ "name": "OUTPUT0" }]), true, true),
        (of(json!({ "binary_data": false })), true, false),
        (of(json!({ "binary_data": true })), false, true),
        (of(json!({ "binary_data": true, "classification": 1 })), false, true),
        (of(json!({ "binary_data": false, "classification": 2 })), false, false),
    ] {
        let asked = ask(outputs, all);
        let answer = call(http, INFER, &[], asked.to_string().as_bytes()).await;
        assert_eq!(answer.status, 200, "{asked}: {answer:?}");
        assert_eq!(answer.header(HEAD_BYTES).is_some(), is_binary, "{asked}: {answer:?}");
        let at = answer.header(HEAD_BYTES).map_or(answer.body.len(), |it| it.parse().unwrap());
        let told: serde_json::Value = serde_json::from_slice(&answer.body[..at]).unwrap();
        let output = &told["outputs"][0];
        let has_data = output.get("data").is_some();
        assert_eq!(has_data, !is_binary, "{told}");
        let classes = asked["outputs"][0]["parameters"]["classification"].as_u64();
        assert_eq!(output["datatype"] == "BYTES", classes.is_some(), "{told}");
        match classes {
            Some(1) => assert_eq!(answer.body[at..], *b"\x0a\0\0\x001.000000:1"),
            Some(_) => assert_eq!(output["data"], json!(["1.000000:1", "0.500000:0"])),
            None => {}
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trained_model_reads_a_digit() {
    let folder = tempfile::tempdir().unwrap();
    put_digits(folder.path());
    let (server, http) = start(|config| config.models = Some(folder.path().into())).await;
    let (request, digit) = a_digit();
    let (_, bytes) = (0, &request.raw_input_contents[0]);
    let output = json!({ "name": request_output(&server), "parameters": { "classification": 1 } });
    let asked = json!({
        "inputs": [{
            "name": "input", "datatype": "FP32", "shape": [1, 1, 8, 8],
            "parameters": { "binary_data_size": bytes.len() },
        }],
        "outputs": [output],
    });
    let (head, body) = with_bytes(&asked, bytes);
    let answer = call(http, "POST /v2/models/digits/infer", &[(HEAD_BYTES, &head)], &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let text = answer.json()["outputs"][0]["data"][0].as_str().unwrap().to_owned();
    assert!(text.ends_with(&format!(":{digit}:digit {digit}")), "{text}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_without_json_are_the_only_input() {
    let folder = tempfile::tempdir().unwrap();
    put_digits(folder.path());
    let (server, http) = start(|config| config.models = Some(folder.path().into())).await;
    let bytes = a_digit().0.raw_input_contents.remove(0);
    let asked = json!({
        "parameters": { "binary_data_output": true },
        "inputs": [{
            "name": "input", "datatype": "FP32", "shape": [1, 1, 8, 8],
            "parameters": { "binary_data_size": bytes.len() },
        }],
    });
    let (head, body) = with_bytes(&asked, &bytes);
    let path = "POST /v2/models/digits/versions/1/infer";
    let expected = call(http, path, &[(HEAD_BYTES, &head)], &body).await;
    assert_eq!(expected.status, 200, "{expected:?}");
    let answer = call(http, path, &[(HEAD_BYTES, "0")], &bytes).await;
    assert_eq!(answer.header(HEAD_BYTES), expected.header(HEAD_BYTES));
    assert_eq!((answer.status, answer.body), (200, expected.body));
    for wrong in [&bytes[1..], &[], &[&*bytes, &*bytes].concat()] {
        let answer = call(http, path, &[(HEAD_BYTES, "0")], wrong).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.error().contains("FP32 [1, 1, 8, 8] takes 256"), "{}", answer.error());
    }
    server.stop().await;
}

/// The name of the digits' output.
fn request_output(server: &crate::common::Running) -> String {
    server.state.models.get("digits", 0).unwrap().signature().outputs[0].name.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_compressed_as_they_say_and_as_clients_ask() {
    let (server, http) = start(|_| {}).await;
    let sent = floats(40_000);
    let asked = json!({
        "parameters": { "binary_data_output": true },
        "inputs": [{
            "name": "INPUT0", "datatype": "FP32", "shape": [1, 4, 10_000],
            "parameters": { "binary_data_size": sent.len() },
        }],
    });
    let (head, plain) = with_bytes(&asked, &sent);
    let gzip = || {
        let mut to = GzEncoder::new(Vec::new(), Compression::fast());
        to.write_all(&plain).unwrap();
        to.finish().unwrap()
    };
    let zlib = || {
        let mut to = ZlibEncoder::new(Vec::new(), Compression::fast());
        to.write_all(&plain).unwrap();
        to.finish().unwrap()
    };
    for (coding, body, accepted, answered) in [
        ("gzip", gzip(), "gzip", Some("gzip")),
        ("deflate", zlib(), "deflate", Some("deflate")),
        ("identity", plain.clone(), "gzip;q=0.2, deflate ; q=0.9, br", Some("deflate")),
        ("GZIP", gzip(), "gzip;q=0, identity", None),
        ("gzip", gzip(), "br", None),
    ] {
        let headers =
            [(HEAD_BYTES, &*head), ("content-encoding", coding), ("accept-encoding", accepted)];
        let answer = call(http, INFER, &headers, &body).await;
        assert_eq!(answer.status, 200, "{coding}: {answer:?}");
        assert_eq!(answer.header("content-encoding"), answered);
        let mut body = Vec::new();
        match answered {
            Some("gzip") => drop(GzDecoder::new(&*answer.body).read_to_end(&mut body).unwrap()),
            Some(_) => drop(ZlibDecoder::new(&*answer.body).read_to_end(&mut body).unwrap()),
            None => body.clone_from(&answer.body),
        }
        let at: usize = answer.header(HEAD_BYTES).unwrap().parse().unwrap();
        assert_eq!(body[at..], sent);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_serves_many_also_in_pieces_and_before_they_are_read() {
    let (server, http) = start(|_| {}).await;
    let body = br#"{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1,1,1],"data":[7]}]}"#;
    tokio::task::block_in_place(|| {
        let mut connection = Connection::open(http);
        for _ in 0..20 {
            connection.ask(INFER, &[], body);
            connection.ask("GET /v2/health/live", &[], &[]);
        }
        for _ in 0..20 {
            assert_eq!(connection.answer(true).unwrap().json()["outputs"][0]["data"][0], 7.0);
            assert_eq!(connection.answer(true).unwrap().status, 200);
        }
        // A body in chunks, which come one byte at a time.
        connection.ask(INFER, &[("transfer-encoding", "chunked")], &[]);
        for byte in body {
            connection.send(&[b"1\r\n", &[*byte][..], b"\r\n"].concat());
        }
        connection.send(b"0\r\n\r\n");
        assert_eq!(connection.answer(true).unwrap().json()["outputs"][0]["data"][0], 7.0);
        // One that waits to be told to send.
        let length = body.len().to_string();
        let headers = [("content-length", &*length), ("expect", "100-continue")];
        connection.ask(INFER, &headers, &[]);
        assert_eq!(connection.answer(false).unwrap().status, 100);
        connection.send(body);
        assert_eq!(connection.answer(true).unwrap().status, 200);
    });
    server.stop().await;
}
