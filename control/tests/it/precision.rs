//! Where a model runs and in which numbers it computes: told over gRPC, and kept for every load of
//! it and every request.

use std::path::Path;
use std::time::Instant;

use ferry_core::{Status, Transport};
use ferry_proto::v1;
use ferry_proto::v1::models_client::ModelsClient;
use ferry_zoo::Precision;
use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use crate::common::{Client, LONG, Running, ask};

/// The digits in this precision, for tract, under the zoo's name for them.
fn put(precision: Precision, folder: &Path, more: &str) {
    ferry_zoo::write_in(precision, "digits", folder, 1, &mut |_| {}).unwrap();
    let metadata = folder.join(precision.model_name("digits")).with_extension("toml");
    let text = std::fs::read_to_string(&metadata).unwrap();
    assert!(text.contains("engine = \"auto\""));
    std::fs::write(&metadata, text.replace("\"auto\"", "\"tract\"") + more).unwrap();
}

async fn texts(store: &mut SqliteConnection, sql: &'static str) -> Vec<String> {
    sqlx::query_scalar(sql).fetch_all(store).await.unwrap()
}

fn infer(opened: &v1::OpenSessionResponse, payload_bytes: usize) {
    let (status, reply) = Client::connect(opened).infer(&vec![0; payload_bytes]);
    assert_eq!(status, Status::Ok, "{}", String::from_utf8_lossy(&reply));
}

fn load(name: &str) -> v1::LoadModelRequest {
    v1::LoadModelRequest { name: name.to_owned(), version: 0, config_toml: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_load_and_each_request_has_its_device_and_precision() {
    let folder = tempfile::tempdir().unwrap();
    // The choice is for a GPU: it must not be told of a model that runs on the CPU.
    put(Precision::Fp32, folder.path(), "[gpu]\nprecision = 'tf32'\n");
    put(Precision::Fp16, folder.path(), "");
    std::fs::write(folder.path().join("broken.onnx"), b"not a model").unwrap();
    let (models, store) = (folder.path().to_owned(), folder.path().join("runs.db"));
    let options = SqliteConnectOptions::new().filename(&store);
    let server = Running::start(|config| {
        config.models = Some(models);
        config.store = format!("sqlite:{}", store.display());
    })
    .await;
    let mut models = ModelsClient::new(server.channel.clone());
    let listed = models.list(v1::ListModelsRequest {}).await.unwrap().into_inner().models;
    let told = |it: &v1::Model| format!("{} {} {}", it.name, it.device, it.precision);
    let expected = ["broken  ", "digits cpu fp32", "digits-fp16 cpu fp16", "echo cpu "];
    assert_eq!(listed.iter().map(told).collect::<Vec<_>>(), expected);

    for (model, payload_bytes) in [("digits", 64 * 4), ("digits-fp16", 64 * 2), ("echo", 8)] {
        let asked = ask(Transport::Tcp, 8, 8);
        let shapes = if model == "echo" { asked.shapes.clone() } else { Vec::new() };
        let asked = v1::OpenSessionRequest { model: model.into(), shapes, ..asked };
        let opened = server.open(asked).await.unwrap();
        infer(&opened, payload_bytes);
    }
    // A file that did not change is not loaded again; one that did takes the other's place.
    models.load(load("digits")).await.unwrap();
    std::fs::copy(folder.path().join("digits-fp16.onnx"), folder.path().join("digits.onnx"))
        .unwrap();
    let again = models.load(load("digits")).await.unwrap().into_inner();
    assert_eq!(told(&again.model.unwrap()), "digits cpu fp16");
    let unload = v1::UnloadModelRequest { name: "digits-fp16".into(), version: 0 };
    models.unload(unload).await.unwrap();
    models.load(load("digits-fp16")).await.unwrap();
    let mut store = options.connect().await.unwrap();
    // The one before is retired beside the call that replaced it.
    let late = Instant::now() + LONG;
    let gone = "SELECT name FROM models WHERE unloaded_unix_ns IS NOT NULL";
    loop {
        // Before each look: that both are gone does not say that the last load is stored.
        server.state.recorder.flush(LONG).await.unwrap();
        if texts(&mut store, gone).await.len() == 2 {
            break;
        }
        assert!(Instant::now() < late, "never told to the store");
    }
    let of_models = "SELECT concat_ws(' ', name, device, coalesce(precision, 'NULL'), CASE WHEN \
                     unloaded_unix_ns IS NULL THEN 'serves' ELSE 'gone' END) FROM models \
                     ORDER BY name, id";
    let expected = [
        "digits cpu fp32 gone",
        "digits cpu fp16 serves",
        "digits-fp16 cpu fp16 gone",
        "digits-fp16 cpu fp16 serves",
        "echo cpu NULL serves",
    ];
    assert_eq!(texts(&mut store, of_models).await, expected);
    let of_requests = "SELECT concat_ws(' ', model, version, device, coalesce(precision, 'NULL'), \
                       status) FROM requests WHERE total_ns IS NOT NULL OR server_ns IS NOT NULL \
                       ORDER BY model";
    let expected = ["digits 1 cpu fp32 ok", "digits-fp16 1 cpu fp16 ok", "echo 1 cpu NULL ok"];
    assert_eq!(texts(&mut store, of_requests).await, expected);
    // By model and version, without the view.
    let joined = "SELECT DISTINCT concat_ws(' ', r.model, m.precision) FROM requests AS r \
                  JOIN models AS m ON m.name = r.model AND m.version = r.version \
                  AND m.loaded_unix_ns <= r.started_unix_ns \
                  AND (m.unloaded_unix_ns IS NULL OR m.unloaded_unix_ns > r.started_unix_ns) \
                  WHERE r.model = 'digits'";
    assert_eq!(texts(&mut store, joined).await, ["digits fp32"]);
    server.stop().await;
}
