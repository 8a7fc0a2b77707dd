//! What bad input gets: a status, and a message that names what is wrong.

use serde_json::{Value, json};

use super::{HEAD_BYTES, INFER, call, start, with_bytes};

fn input(data: &str) -> String {
    format!(r#"{{"inputs":[{{"name":"INPUT0","datatype":"FP32","shape":[1,2,2],{data}}}]}}"#)
}

fn of_type(datatype: &str, data: &str) -> String {
    format!(
        r#"{{"inputs":[{{"name":"INPUT0","datatype":"{datatype}","shape":[1,1,1],"data":{data}}}]}}"#
    )
}

fn with_parameters(parameters: &str) -> String {
    let good = r#"{"name":"INPUT0","datatype":"FP32","shape":[1,1,1],"data":[1]}"#;
    format!(r#"{{"inputs":[{good}],{parameters}}}"#)
}

/// JSON alone: a body, its status, and words of the message.
fn texts() -> Vec<(String, u16, &'static str)> {
    let deep = |depth: usize| format!(r#""data":{}1{}"#, "[".repeat(depth), "]".repeat(depth));
    vec![
        (String::new(), 400, "EOF"),
        ("{".into(), 400, "EOF"),
        ("[1]".into(), 400, "JSON"),
        // In the order in which the fields of a request stand with us.
        (
            r#"["i",{},[{"name":"INPUT0","datatype":"FP32","shape":[1,1,1],"data":[1]}],[]]"#
                .into(),
            400,
            "expected an object",
        ),
        ("\u{0}".into(), 400, "JSON"),
        ("{}".into(), 400, "missing field `inputs`"),
        (r#"{"inputs":[]}"#.into(), 400, "INPUT0 FP32[d0,d1,d2] is missing"),
        (r#"{"inputs":{}}"#.into(), 400, "a list of at most"),
        (input(r#""data":[1,2,3,NaNs]"#), 400, "expected"),
        (input(r#""data":NaN"#), 400, "expected value"),
        (input(r#""data":[1,2,3,4],"parameters":{"a":NaN}"#), 400, "expected value"),
        (of_type("FP32", "[1]").replace("[1,1,1]", "[1,1,NaN]"), 400, "expected i64"),
        (of_type("INT32", "[NaN]"), 400, "\"NaN\" is nothing that INT32 holds"),
        (input(r#""data":[1,2,3,1e400]"#), 400, "1e400 is nothing that FP32 holds"),
        (input(r#""data":[1,2,3,1e39]"#), 400, "1e39 is nothing that FP32 holds"),
        (input(r#""data":[1,2,3,null]"#), 400, "null is nothing"),
        (input(r#""data":[1,2,3,"4"]"#), 400, "is nothing that FP32 holds"),
        (input(r#""data":[1,2,3,"4,[]"]"#), 400, "is nothing that FP32 holds"),
        (input(r#""data":[1,2,3,{"a":4}]"#), 400, "is nothing that FP32 holds"),
        (input(r#""data":[1,2,3,true]"#), 400, "true is nothing"),
        (input(r#""data":[1,2,3]"#), 400, "it has 3 elements; its shape says 4"),
        (input(r#""data":[1,2,3,4,5]"#), 400, "more than the 4"),
        (input(r#""data":7.25e000001"#), 400, "its data is no list"),
        (input(r#""data":"text and more""#), 400, "its data is no list"),
        (input(r#""data":{}"#), 400, "fewer than the 4"),
        (input(r#""data":[1,2,3,4],"data":[1,2,3,4]"#), 400, "duplicate field"),
        (input(&deep(65)), 400, "more than 64 lists"),
        (input(&deep(1_000_000)), 400, "more than 64 lists"),
        (input(r#""x":1"#), 400, "give one of data, binary_data_size and shared_memory_region"),
        (input(r#""parameters":{"binary_data_size":16}"#), 400, "0 are left behind the JSON"),
        (input(r#""parameters":{"binary_data_size":-1}"#), 400, "binary_data_size"),
        (input(r#""data":[1,2,3,4],"parameters":{"binary_data_size":16}"#), 400, "give one of"),
        (input(r#""parameters":{"shared_memory_region":"r"}"#), 400, "shared_memory_byte_size"),
        (
            input(r#""parameters":{"shared_memory_region":"r","shared_memory_byte_size":16}"#),
            404,
            "\"r\"",
        ),
        (of_type("INT32", "[1]"), 400, "it is FP32"),
        (of_type("INT8", "[128]"), 400, "128 is nothing that INT8 holds"),
        (of_type("INT64", "[9223372036854775808]"), 400, "is nothing that INT64 holds"),
        (of_type("UINT8", "[-1]"), 400, "-1 is nothing that UINT8 holds"),
        (of_type("INT32", "[1.0]"), 400, "1.0 is nothing that INT32 holds"),
        (of_type("BOOL", "[1]"), 400, "1 is nothing that BOOL holds"),
        (of_type("FP16", "[1]"), 400, "it is FP32"),
        (of_type("FP16", "[65520]"), 400, "65520 is nothing that FP16 holds"),
        (of_type("BYTES", r#"["text"]"#), 400, "BYTES is for texts"),
        (of_type("FP31", "[1]"), 400, "\"FP31\" is not its type"),
        (of_type("FP32", "[1]").replace("INPUT0", "INPUT1"), 400, "INPUT0 FP32"),
        (of_type("FP32", "[1]").replace("[1,1,1]", "[-1,1,1]"), 400, "inputs.shape"),
        (of_type("FP32", "[1]").replace("[1,1,1]", "[1]"), 400, "\"INPUT0\" has shape [1]"),
        (of_type("FP32", "[1]").replace("[1,1,1]", "[4e9,1,1]"), 400, "floating point"),
        (
            of_type("FP32", "[1]").replace("[1,1,1]", "[9223372036854775807,9,9]"),
            400,
            "fewer than the 18446744073709551615",
        ),
        (with_parameters(r#""outputs":[{"name":"OUTPUT1"}]"#), 400, "OUTPUT0 FP32"),
        (
            with_parameters(r#""outputs":[{"name":"OUTPUT0","parameters":{"binary_data":1}}]"#),
            400,
            "binary_data: give true or false",
        ),
        (with_parameters(r#""parameters":{"binary_data_output":"yes"}"#), 400, "true or false"),
        (with_parameters(r#""parameters":{"sequence_id":3}"#), 501, "sequence_id"),
        (with_parameters(r#""parameters":{"triton_x":3}"#), 501, "triton_x"),
        (with_parameters(r#""parameters":{"priority":-1}"#), 400, "priority: "),
        (with_parameters(r#""parameters":{"timeout":1.5}"#), 400, "timeout: "),
        (with_parameters(r#""parameters":{"a":[]}"#), 400, "a boolean, a number or a text"),
        (with_parameters(r#""id":7"#), 400, "expected a string"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn json_without_a_meaning_is_refused_by_what_is_wrong() {
    let (server, http) = start(|_| {}).await;
    for (body, status, words) in texts() {
        let shown: String = body.chars().take(200).collect();
        let answer = call(http, INFER, &[], body.as_bytes()).await;
        assert_eq!(answer.status, status, "{shown}: {}", answer.error());
        assert!(answer.error().contains(words), "{shown}: {:?} has no {words}", answer.error());
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    let good = with_parameters(r#""more":[{"deep":[[]]}]"#);
    assert_eq!(call(http, INFER, &[], good.as_bytes()).await.status, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_that_lie_are_refused() {
    let (server, http) = start(|_| {}).await;
    let asked = |says: usize| {
        json!({ "inputs": [{
            "name": "INPUT0", "datatype": "FP32", "shape": [1, 2, 2],
            "parameters": { "binary_data_size": says },
        }] })
    };
    let head = |asked: &Value, more: i64| {
        let length = i64::try_from(asked.to_string().len()).unwrap();
        (length + more).to_string()
    };
    for (says, behind, more, words) in [
        (16, 15, 0, "says 16, and 15 are left"),
        (16, 17, 0, "1 bytes behind those"),
        (15, 15, 0, "has 15; FP32 [1, 2, 2] takes 16"),
        (usize::try_from(i64::MAX).unwrap(), 16, 0, "are left"),
        (usize::MAX, 16, 0, "a number from 0 on"),
        (16, 16, 1, "trailing characters"),
        (16, 16, -1, "EOF"),
        (16, 16, 17, "message has"),
        (16, 16, i64::MAX / 2, "message has"),
    ] {
        let asked = asked(says);
        let (_, body) = with_bytes(&asked, &vec![0; behind]);
        let head = head(&asked, more);
        let answer = call(http, INFER, &[(HEAD_BYTES, &head)], &body).await;
        assert_eq!(answer.status, 400, "{says} {behind} {more}: {}", answer.error());
        assert!(answer.error().contains(words), "{} has no {words}", answer.error());
    }
    let (right, body) = with_bytes(&asked(16), &[0; 16]);
    for head in ["", "-1", "x", "1e3", "99999999999999999999", "0x10", "16, 16"] {
        let answer = call(http, INFER, &[(HEAD_BYTES, head)], &body).await;
        assert_eq!(answer.status, 400, "{head}");
        assert!(answer.error().contains("as a number of bytes"), "{}", answer.error());
    }
    let twice = [(HEAD_BYTES, &*right), (HEAD_BYTES, &*right)];
    assert_eq!(call(http, INFER, &twice, &body).await.status, 400);
    // No JSON at all: the identity has three sizes that do not follow from the bytes.
    let answer = call(http, INFER, &[(HEAD_BYTES, "0")], &body).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.error().contains("has several open sizes"), "{}", answer.error());
    // No bytes behind the JSON where nobody takes them.
    let answer = call(http, "POST /v2/repository/index", &[(HEAD_BYTES, "2")], b"{}x").await;
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.error().contains("1 bytes behind the JSON"), "{}", answer.error());
    // The same in chunks, whose length is known only at their end.
    let chunks = [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
    let long = (body.len() + 1).to_string();
    for (head, status) in [(&right, 200), (&long, 400)] {
        let headers = [(HEAD_BYTES, &**head), ("transfer-encoding", "chunked")];
        assert_eq!(call(http, INFER, &headers, &chunks).await.status, status);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn codings_that_are_not_what_they_say_are_refused() {
    let (server, http) = start(|_| {}).await;
    let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    for (coding, body, status, words) in [
        ("br", &b"x"[..], 415, "gzip and deflate"),
        ("gzip, gzip", b"x", 415, "gzip and deflate"),
        ("gzip", b"no gzip at all", 400, "no gzip"),
        ("gzip", b"", 400, "no gzip"),
        ("gzip", &gzip, 400, "no gzip"),
        ("deflate", b"no zlib at all", 400, "no deflate"),
        ("deflate", &[0x78, 0x9c, 3, 0, 0, 0, 0, 1, 9], 400, "behind its end"),
    ] {
        let answer = call(http, INFER, &[("content-encoding", coding)], body).await;
        assert_eq!(answer.status, status, "{coding}: {}", answer.error());
        assert!(answer.error().contains(words), "{coding}: {}", answer.error());
    }
    server.stop().await;
}
