//! An inference over HTTP: the header that divides JSON from bytes, codings, JSON and the bytes.
//!
//! An input is a line with the model, the header (`-`: none; `~`: as long as the JSON is, which ends
//! at the first byte 30, and that byte is not sent), the coding (behind `packed-`, the body is
//! compressed here) and the coding of the answer. The body follows.

use std::future::ready;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

use flate2::Compression;
use flate2::read::{GzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::Value;

use super::http::{Client, refused};
use crate::http::{Answer, HEAD_BYTES, start};

/// Of the region that inputs of the folder name.
const REGION_BYTES: usize = 32;

/// Where `~` divides a body.
const MARK: u8 = 30;

struct Asked<'a> {
    model: &'a str,
    /// The value of the header.
    head: Option<String>,
    coding: &'a str,
    accepted: &'a str,
    json: &'a [u8],
    behind: &'a [u8],
}

/// What an input asks for, if a client could.
fn asked(input: &[u8]) -> Option<Asked<'_>> {
    let at = input.iter().position(|&byte| byte == b'\n')?;
    let (line, body) = (std::str::from_utf8(&input[..at]).ok()?, &input[at + 1..]);
    let words: Vec<&str> = line.split(' ').collect();
    let [model, head, coding, accepted] = words[..] else { return None };
    let is_word = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    let is_name = !model.is_empty() && model.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !is_name || !is_word(head) || !is_word(coding) || !is_word(accepted) {
        return None;
    }
    let mark = body.iter().position(|&byte| byte == MARK).filter(|_| head == "~");
    let (json, behind) = body.split_at(mark.unwrap_or(body.len()));
    let behind = behind.get(1..).unwrap_or_default();
    let head = match head {
        "-" => None,
        "~" => Some(json.len().to_string()),
        other => Some(other.to_owned()),
    };
    Some(Asked { model, head, coding, accepted, json, behind })
}

fn packed(coding: &str, body: Vec<u8>) -> Vec<u8> {
    match coding {
        "gzip" => {
            let mut to = GzEncoder::new(Vec::new(), Compression::fast());
            to.write_all(&body).unwrap();
            to.finish().unwrap()
        }
        "deflate" => {
            let mut to = ZlibEncoder::new(Vec::new(), Compression::fast());
            to.write_all(&body).unwrap();
            to.finish().unwrap()
        }
        _ => body,
    }
}

/// Appends the numbers of a list.
fn flat(value: &Value, into: &mut Vec<u8>) -> Option<()> {
    match value {
        Value::Array(all) => all.iter().try_for_each(|it| flat(it, into)),
        other => {
            #[expect(clippy::cast_possible_truncation, reason = "to the nearest")]
            let number = other.as_f64()? as f32;
            into.extend(number.to_le_bytes());
            Some(())
        }
    }
}

/// The bytes of the only input, as another reader of JSON finds them; `None` where it does not, or
/// they are in shared memory.
fn given(asked: &Asked<'_>) -> Option<Vec<u8>> {
    let json: Value = serde_json::from_slice(asked.json).ok()?;
    let [input] = &json["inputs"].as_array()?[..] else { return None };
    if input["parameters"]["binary_data_size"].is_u64() {
        return Some(asked.behind.to_vec());
    }
    let mut bytes = Vec::new();
    flat(input.get("data")?, &mut bytes)?;
    Some(bytes)
}

/// The body of an answer: its JSON, in which the numbers of outputs stand, and the bytes behind it.
fn divided(answer: &Answer) -> (String, Vec<u8>) {
    let mut plain = Vec::new();
    match answer.header("content-encoding") {
        Some("gzip") => drop(GzDecoder::new(&*answer.body).read_to_end(&mut plain).unwrap()),
        Some("deflate") => drop(ZlibDecoder::new(&*answer.body).read_to_end(&mut plain).unwrap()),
        other => {
            assert_eq!(other, None, "{answer:?}");
            plain.clone_from(&answer.body);
        }
    }
    let head = answer.header(HEAD_BYTES).map_or(plain.len(), |it| it.parse().unwrap());
    let behind = plain.split_off(head);
    (String::from_utf8(plain).unwrap(), behind)
}

/// The numbers of the first list `data`, whatever JSON would say of them.
fn numbers(json: &str) -> Option<Vec<u8>> {
    let list = json.split_once("\"data\":[")?.1.split_once(']')?.0;
    let numbers = list.split(',').filter(|it| !it.is_empty());
    Some(numbers.flat_map(|it| it.parse::<f32>().unwrap().to_le_bytes()).collect())
}

fn is_same(left: &[u8], right: &[u8]) -> bool {
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes.as_chunks().0.iter().map(|it| f32::from_le_bytes(*it)).collect()
    };
    let (left, right) = (floats(left), floats(right));
    // The other reader rounds twice.
    let is_near = |(a, b): (&f32, &f32)| {
        a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= a.abs() * f32::EPSILON
    };
    left.len() == right.len() && left.iter().zip(&right).all(is_near)
}

fn target(client: &Client, input: &[u8]) -> String {
    let Some(asked) = asked(input) else { return "no request".into() };
    let mut body = [asked.json, asked.behind].concat();
    let mut coding = asked.coding;
    if let Some(name) = coding.strip_prefix("packed-") {
        (coding, body) = (name, packed(name, body));
    }
    let mut headers = vec![("content-encoding", coding), ("accept-encoding", asked.accepted)];
    headers.extend(asked.head.as_deref().map(|head| (HEAD_BYTES, head)));
    let path = format!("/v2/models/{}/infer", asked.model);
    let answer = client.call(&format!("POST {path}"), &headers, &body);
    if answer.status != 200 {
        return refused(&answer, &path);
    }
    let (json, behind) = divided(&answer);
    // Words that JSON does not have stand where a number may.
    let plain = ["-Infinity", "Infinity", "NaN"].iter().fold(json.clone(), |json, word| {
        json.replace(&format!("[{word}"), "[0").replace(&format!(",{word}"), ",0")
    });
    let told: Value = serde_json::from_str(&plain).unwrap_or_else(|why| panic!("{why}: {json}"));
    let outputs = told["outputs"].as_array().unwrap();
    let said = outputs.iter().map(|it| it["parameters"]["binary_data_size"].as_u64().unwrap_or(0));
    assert_eq!(said.sum::<u64>(), behind.len() as u64, "{json}");
    if asked.model == "echo"
        && coding == asked.coding
        && matches!(coding, "identity" | "")
        && let [output] = &outputs[..]
        && output["datatype"] == "FP32"
        && let Some(given) = given(&asked)
    {
        let made = if output.get("data").is_some() { numbers(&json).unwrap() } else { behind };
        let is_elsewhere = made.is_empty() && !json.contains("\"data\"");
        assert!(is_elsewhere || is_same(&given, &made), "an identity: {json} {made:?}");
    }
    format!(
        "200 {} {:?} {}",
        outputs.len(),
        answer.header("content-encoding"),
        json.contains("data\":")
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_an_inference_over_http_end_in_an_answer_or_a_status_of_the_table() {
    let models = tempfile::tempdir().unwrap();
    crate::oip::put_digits(models.path());
    let (server, address) = start(|config| config.models = Some(models.path().to_owned())).await;
    let file = tempfile::Builder::new().prefix("ferry-fuzz-").tempfile_in("/dev/shm").unwrap();
    file.as_file().write_all_at(&[1; REGION_BYTES], 0).unwrap();
    let key = file.path().file_name().unwrap().to_str().unwrap();
    let tenant = server.state.tenants.everybody();
    let bytes = u64::try_from(REGION_BYTES).unwrap();
    server.state.regions.register(tenant, "region", key, 0, bytes).unwrap();
    let client = Client::new(address);
    let did = super::search("http_infer", |input| ready(target(&client, &input))).await;
    for reached in [
        "200 1 None true",
        "200 1 None false",
        "200 1 Some(\"gzip\")",
        "no request",
        "415 ",
        "404 ",
        "400 ",
        "are left behind the JSON",
    ] {
        assert!(did.iter().any(|it| it.contains(reached)), "{reached:?} is not in {did:#?}");
    }
    server.stop().await;
}
