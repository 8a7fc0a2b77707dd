//! Health, metadata, settings; paths and methods; who may ask.

use ferry_control::tenants::{Quota, TenantConfig};
use ferry_proto::channel::KEY_METADATA;
use serde_json::json;

use super::{Connection, INFER, call, start};
use crate::oip::put_digits;

const GOOD: &[u8] =
    br#"{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1,1,1],"data":[1]}]}"#;

#[tokio::test(flavor = "multi_thread")]
async fn server_and_models_tell_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    put_digits(folder.path());
    let (server, http) = start(|config| config.models = Some(folder.path().into())).await;
    let get = async |path: &str| call(http, &format!("GET {path}"), &[], &[]).await;
    for path in [
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/echo/ready",
        "/v2/models/echo/versions/1/ready",
        "/v2/models/%65cho/ready",
    ] {
        let answer = get(path).await;
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{path}");
    }
    for path in ["/v2/models/none/ready", "/v2/models/echo/versions/2/ready"] {
        assert_eq!(get(path).await.status, 400, "{path}");
    }
    for path in ["/v2", "/v2/"] {
        let told = get(path).await.json();
        assert_eq!(told["name"], "tensorferry");
        let extensions = told["extensions"].as_array().unwrap();
        assert!(extensions.contains(&json!("binary_tensor_data")), "{told}");
    }
    let expected = json!({
        "name": "echo", "versions": ["1"], "platform": "echo",
        "inputs": [{ "name": "INPUT0", "datatype": "FP32", "shape": [-1, -1, -1] }],
        "outputs": [{ "name": "OUTPUT0", "datatype": "FP32", "shape": [-1, -1, -1] }],
    });
    assert_eq!(get("/v2/models/echo").await.json(), expected);
    assert_eq!(get("/v2/models/echo/versions/1").await.json(), expected);
    let config = get("/v2/models/echo/config").await.json();
    assert_eq!(config["input"][0]["data_type"], "TYPE_FP32", "{config}");
    assert_eq!(config["input"][0]["dims"], json!([-1, -1, -1]));
    assert_eq!(config["max_batch_size"], 0);
    assert_eq!(config["instance_group"][0]["kind"], "KIND_CPU");
    call(http, INFER, &[], GOOD).await;
    for path in ["/v2/models/echo/stats", "/v2/models/echo/versions/1/stats"] {
        let told = get(path).await.json();
        let of_echo = &told["model_stats"][0];
        assert_eq!(of_echo["inference_count"], 1, "{told}");
        assert_eq!(of_echo["inference_stats"]["queue"]["count"], 1);
        assert!(of_echo["inference_stats"]["success"]["ns"].as_u64().unwrap() > 0);
        assert_eq!(of_echo["batch_stats"][0]["batch_size"], 1);
    }
    let all = get("/v2/models/stats").await.json();
    assert_eq!(all["model_stats"].as_array().unwrap().len(), 2, "{all}");
    for (path, word) in [
        ("/v2/models/none", "none"),
        ("/v2/models/none/config", "none"),
        ("/v2/models/none/stats", "none"),
        ("/v2/models/echo/versions/7", "version 7"),
    ] {
        let answer = get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.error().contains(word), "{}", answer.error());
    }
    assert_eq!(get("/v2/models/echo/versions/x").await.status, 400);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_come_and_go_and_settings_are_told() {
    let folder = tempfile::tempdir().unwrap();
    put_digits(folder.path());
    let (server, http) = start(|config| config.models = Some(folder.path().into())).await;
    let post = async |path: &str, body: &str| {
        call(http, &format!("POST {path}"), &[], body.as_bytes()).await
    };
    let load = "/v2/repository/models/digits/load";
    let unload = "/v2/repository/models/digits/unload";
    let parameters = r#"{"parameters":{"unload_dependents":true}}"#;
    assert_eq!(post(unload, parameters).await.status, 200);
    let all = post("/v2/repository/index", "").await.json();
    assert_eq!(
        all,
        json!([
            { "name": "digits", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded" },
            { "name": "echo", "version": "1", "state": "READY" },
        ])
    );
    let ready = post("/v2/repository/index", r#"{"ready":true}"#).await.json();
    assert_eq!(ready, json!([{ "name": "echo", "version": "1", "state": "READY" }]));
    assert_eq!(
        post(load, r#"{"parameters":{"config":"{\"name\":\"digits\"}"}}"#).await.status,
        200
    );
    let ready = call(http, "GET /v2/models/digits/ready", &[], &[]).await;
    assert_eq!(ready.status, 200);
    for (path, body, status, word) in [
        (load, r#"{"parameters":{"file:1/model.onnx":"AAAA"}}"#, 501, "file:1/model.onnx"),
        (load, r#"{"parameters":{"config":"{\"max_batch_size\":8}"}}"#, 400, "max_batch_size"),
        (load, r#"{"parameters":{"config":{}}}"#, 400, "config"),
        (load, r#"{"parameters":[]}"#, 400, "JSON"),
        (unload, r#"{"parameters":{"x":1}}"#, 501, "x"),
        ("/v2/repository/models/none/load", "", 404, "none"),
        ("/v2/repository/other/index", "", 501, "other"),
        ("/v2/repository/other/models/echo/load", "", 501, "other"),
        ("/v2/trace/setting", r#"{"trace_rate":"1"}"#, 501, "trace_rate"),
        ("/v2/trace/setting", r#"{"trace_rate":{}}"#, 400, "trace_rate"),
        ("/v2/trace/setting", r#"{"other":"1"}"#, 400, "other"),
        ("/v2/logging", r#"{"log_verbose_level":1}"#, 501, "has a log of its own"),
        ("/v2/logging", r#"{"log_verbose_level":1,"log_error":false}"#, 400, "severe"),
        ("/v2/logging", r#"{"log_error":"yes"}"#, 400, "\"log_error\" has another type"),
        ("/v2/logging", r#"{"log_file":"/tmp/x"}"#, 501, "log_file"),
        ("/v2/logging", r#"{"log_verbose_level":-1}"#, 400, "log_verbose_level"),
    ] {
        let answer = post(path, body).await;
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.error());
        assert!(answer.error().contains(word), "{}", answer.error());
    }
    for path in ["/v2/trace/setting", "/v2/models/echo/trace/setting"] {
        let told = call(http, &format!("GET {path}"), &[], &[]).await.json();
        assert_eq!((&told["trace_level"], &told["trace_rate"]), (&json!(["OFF"]), &json!("1000")));
        let same =
            post(path, r#"{"trace_level":["OFF"],"trace_rate":1000,"trace_file":null}"#).await;
        assert_eq!(same.json(), told);
    }
    let told = call(http, "GET /v2/logging", &[], &[]).await.json();
    assert!(told["log_info"].is_boolean() && told["log_verbose_level"].is_u64(), "{told}");
    assert_eq!(post("/v2/logging", &told.to_string()).await.json(), told);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_and_methods_that_are_none_are_told() {
    let (server, http) = start(|_| {}).await;
    for (head, status) in [
        ("GET /", 404),
        ("GET /v3", 404),
        ("GET /v2/models", 404),
        ("GET /v2/models/echo/other", 404),
        ("GET /v2/models/%ff/ready", 400),
        ("GET /v2/models/echo/infer", 405),
        ("POST /v2/models/echo", 405),
        ("DELETE /v2", 405),
        ("BREW /v2", 405),
        ("GET /v2/repository/index", 405),
    ] {
        let answer = call(http, head, &[], &[]).await;
        assert_eq!(answer.status, status, "{head}: {answer:?}");
        assert!(!answer.error().is_empty());
    }
    tokio::task::block_in_place(|| {
        let mut connection = Connection::open(http);
        connection.ask("HEAD /v2", &[], &[]);
        let answer = connection.answer(false).unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.header("content-length").unwrap().parse::<u32>().unwrap() > 0);
        assert_eq!(connection.call("GET /v2/health/live", &[], &[]).status, 200);
    });
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_say_who_may_do_what() {
    let (server, http) = start(|config| {
        let tenant = |name: &str| TenantConfig {
            name: name.into(),
            key: name.into(),
            quota: Quota { slots: 2, ..Quota::default() },
            rate: None,
        };
        config.tenants = vec![tenant("a"), tenant("b")];
        config.operator_key = Some("operator".into());
    })
    .await;
    for (head, nobody, tenant, operator) in [
        ("GET /v2/health/live", 200, 200, 200),
        ("GET /v2/health/ready", 200, 200, 200),
        ("GET /v2", 401, 200, 200),
        ("GET /v2/models/echo", 401, 200, 200),
        ("GET /v2/models/stats", 401, 200, 200),
        (INFER, 401, 200, 403),
        ("GET /v2/systemsharedmemory/status", 401, 200, 403),
        ("POST /v2/systemsharedmemory/unregister", 401, 200, 403),
        ("GET /v2/cudasharedmemory/status", 401, 200, 403),
        ("POST /v2/repository/models/none/load", 403, 403, 404),
        ("POST /v2/repository/models/none/unload", 403, 403, 200),
        ("GET /v2/trace/setting", 403, 403, 200),
        ("GET /v2/logging", 403, 403, 200),
    ] {
        let body = if head == INFER { GOOD } else { b"" };
        for (key, status) in [
            (None, nobody),
            (Some("wrong"), nobody),
            (Some("a"), tenant),
            (Some("operator"), operator),
        ] {
            let headers: Vec<_> = key.map(|key| (KEY_METADATA, key)).into_iter().collect();
            let answer = call(http, head, &headers, body).await;
            assert_eq!(answer.status, status, "{head} {key:?}: {answer:?}");
        }
    }
    let refused = server.state.refusals.counts();
    assert!(refused.iter().any(|it| (it.link, it.what) == ("http", "wrong_key")), "{refused:?}");
    let page = [("origin", "http://evil.example"), (KEY_METADATA, "a")];
    assert_eq!(call(http, INFER, &page, GOOD).await.status, 200);
    // A long message of somebody without a key: the answer is read, and not a broken connection.
    let answer = call(http, INFER, &[], &vec![b' '; 3 << 20]).await;
    assert_eq!(answer.status, 401, "{answer:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_a_browser_is_no_operator() {
    let (server, http) = start(|_| {}).await;
    let page = [("origin", "http://evil.example")];
    for head in [INFER, "POST /v2/repository/models/echo/unload", "GET /v2"] {
        let answer = call(http, head, &page, GOOD).await;
        assert_eq!(answer.status, 403, "{head}: {answer:?}");
    }
    assert_eq!(call(http, INFER, &[], GOOD).await.status, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_drains_says_so() {
    let (server, http) = start(|_| {}).await;
    server.state.gate.close();
    assert_eq!(call(http, "GET /v2/health/live", &[], &[]).await.status, 200);
    assert_eq!(call(http, "GET /v2/health/ready", &[], &[]).await.status, 400);
    let answer = call(http, INFER, &[], GOOD).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.error().contains("draining"), "{}", answer.error());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_control_plane_serves_http_again() {
    let (server, http) = start(|_| {}).await;
    assert_eq!(call(http, "GET /v2/health/live", &[], &[]).await.status, 200);
    let mut kept = Connection::open(http);
    tokio::task::block_in_place(|| assert_eq!(kept.call("GET /v2", &[], &[]).status, 200));
    server.state.restart.notify_one();
    tokio::task::block_in_place(|| {
        // It is cut off, and the address answers again.
        let mut byte = [0];
        assert!(!matches!(std::io::Read::read(&mut kept.0, &mut byte), Ok(1)));
    });
    assert_eq!(call(http, INFER, &[], GOOD).await.status, 200);
    server.stop().await;
}
