//! Shared memory over HTTP.

use serde_json::json;

use super::{INFER, call, floats, start};
use crate::oip::Shm;

#[tokio::test(flavor = "multi_thread")]
async fn a_tensor_goes_from_one_region_to_another() {
    let (server, http) = start(|_| {}).await;
    let get = async |path: &str| call(http, &format!("GET {path}"), &[], &[]).await;
    let post = async |path: &str, body: serde_json::Value| {
        call(http, &format!("POST {path}"), &[], body.to_string().as_bytes()).await
    };
    // What clients begin with.
    for path in ["/v2/systemsharedmemory/unregister", "/v2/cudasharedmemory/unregister"] {
        assert_eq!(call(http, &format!("POST {path}"), &[], &[]).await.status, 200);
    }
    let shm = Shm::new("http", 10_000);
    let sent = floats(500);
    let mut file = vec![0; 10_000];
    file[8..2008].copy_from_slice(&sent);
    std::fs::write(shm.path(), &file).unwrap();
    let key = format!("/{}", shm.0);
    let region = "/v2/systemsharedmemory/region/r";
    let register = format!("{region}/register");
    let asked = json!({ "key": key, "offset": 0, "byte_size": 10_000 });
    assert_eq!(post(&register, asked.clone()).await.status, 200);
    let told = json!([{ "name": "r", "key": key, "offset": 0, "byte_size": 10_000 }]);
    assert_eq!(get("/v2/systemsharedmemory/status").await.json(), told);
    assert_eq!(get(&format!("{region}/status")).await.json(), told);
    let place = |at: u64| {
        json!({
            "shared_memory_region": "r", "shared_memory_offset": at,
            "shared_memory_byte_size": 2000,
        })
    };
    let answer = post(
        &INFER[5..],
        json!({
            "inputs": [{
                "name": "INPUT0", "datatype": "FP32", "shape": [1, 5, 100], "parameters": place(8),
            }],
            "outputs": [{ "name": "OUTPUT0", "parameters": place(4000) }],
        }),
    )
    .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        answer.json()["outputs"][0],
        json!({
            "name": "OUTPUT0", "datatype": "FP32", "shape": [1, 5, 100],
        })
    );
    assert_eq!(std::fs::read(shm.path()).unwrap()[4000..6000], sent);
    let cuda = "/v2/cudasharedmemory/region/x/register";
    let handle = format!("{}==", "A".repeat(86));
    for (path, body, status) in [
        (&*register, asked, 400),
        (
            "/v2/systemsharedmemory/region/x/register",
            json!({ "key": "/../x", "byte_size": 1 }),
            400,
        ),
        ("/v2/systemsharedmemory/region/x/register", json!({ "key": key }), 400),
        ("/v2/systemsharedmemory/region/x/register", json!({ "key": key, "byte_size": -1 }), 400),
        (
            "/v2/systemsharedmemory/region/x/register",
            json!({ "key": key, "offset": 9999, "byte_size": 2 }),
            400,
        ),
        (cuda, json!({}), 400),
        (cuda, json!({ "raw_handle": { "b64": "?" }, "device_id": 0, "byte_size": 1 }), 400),
        (cuda, json!({ "raw_handle": { "b64": "AAAA" }, "device_id": 0, "byte_size": 1 }), 400),
        // Without a GPU, as where the tests run.
        (cuda, json!({ "raw_handle": { "b64": handle }, "device_id": 0, "byte_size": 1 }), 501),
    ] {
        let answer = post(path, body).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.error());
    }
    assert_eq!(get("/v2/systemsharedmemory/region/x/status").await.status, 404);
    assert_eq!(get("/v2/cudasharedmemory/region/x/status").await.status, 404);
    assert_eq!(get("/v2/cudasharedmemory/status").await.json(), json!([]));
    assert_eq!(post(&format!("{region}/unregister"), json!({})).await.status, 200);
    assert_eq!(get("/v2/systemsharedmemory/status").await.json(), json!([]));
    server.stop().await;
}
