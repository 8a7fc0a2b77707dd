//! Models for TensorRT: refused with the reason where it does not run, and nobody else is stopped.

use std::path::Path;

use ferry_core::{Status, Transport};
use ferry_proto::v1;
use ferry_proto::v1::admin_client::AdminClient;
use ferry_proto::v1::model::State;
use ferry_proto::v1::models_client::ModelsClient;
use tonic::Code;

use crate::common::{Client, Running, ask};

/// What every refusal for want of a GPU says.
const NO_GPU: [&str; 2] = ["8.0, 8.6, 8.9, 12.0 and above", "engine = \"onnx\""];

fn put(folder: &Path, name: &str, metadata: &str) {
    std::fs::write(folder.join(format!("{name}.onnx")), ferry_zoo::digits::onnx()).unwrap();
    std::fs::write(folder.join(format!("{name}.toml")), metadata).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_no_gpu_can_run_is_refused_with_the_reason_and_the_others_are_served() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "digits", "engine = 'tract'");
    let device = |device: &str| format!("engine = 'tensorrt'\ndevice = '{device}'\n");
    // No machine has that many.
    put(folder.path(), "absent", &device("cuda:4095"));
    put(folder.path(), "cpu", &device("cpu"));
    put(folder.path(), "first", "engine = 'tensorrt'");
    put(folder.path(), "fp16", "engine = 'onnx'\n[gpu]\nprecision = 'fp16'");
    put(folder.path(), "dims", "[dims]\nN = { max = 4 }");
    put(folder.path(), "wait", "engine = 'tensorrt'\n[gpu]\ncompletion = 'wait'");
    let (models, cache) = (folder.path().to_owned(), folder.path().join("engines"));
    let server = Running::start(|config| {
        config.models = Some(models);
        config.engine_cache = Some(cache);
    })
    .await;

    let mut models = ModelsClient::new(server.channel.clone());
    let listed = models.list(v1::ListModelsRequest {}).await.unwrap().into_inner().models;
    let find = |name: &str| listed.iter().find(|it| it.name == name).unwrap();
    let failed = |name: &str, parts: &[&str]| {
        let model = find(name);
        assert_eq!(model.state(), State::Failed, "{name}");
        for part in parts {
            assert!(model.error.contains(part), "{name}, {part}: {}", model.error);
        }
    };
    failed("absent", &NO_GPU);
    failed("cpu", &["device is \"cpu\"", "engine = \"onnx\""]);
    failed("fp16", &["fp16", "16 bits", "engine = \"tensorrt\""]);
    failed("dims", &["[dims]", "max_batch", "engine = \"tensorrt\""]);
    failed("wait", &["gpu.completion", "leave it out"]);
    // A machine with a GPU that TensorRT runs on serves this one.
    let mut admin = AdminClient::new(server.channel.clone());
    let devices = admin.devices(v1::DevicesRequest {}).await.unwrap().into_inner();
    let mut all = devices.findings.iter();
    let finding = all.find(|it| it.area == "engine" && it.name == "tensorrt").unwrap();
    if finding.usable {
        let first = find("first");
        assert_eq!((first.state(), first.engine.as_str()), (State::Loaded, "tensorrt"));
    } else {
        assert!(!finding.detail.is_empty() && !finding.fix.is_empty(), "{finding:?}");
        failed("first", &["tensorrt"]);
    }
    if ferry_cuda::probe().is_err() {
        assert!(finding.fix.contains("driver, 580"), "{finding:?}");
        failed("first", &NO_GPU);
    }

    let asked = |model: &str| v1::OpenSessionRequest {
        model: model.into(),
        shapes: Vec::new(),
        ..ask(Transport::Tcp, 1, 1)
    };
    let refused = server.open(asked("absent")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    for part in NO_GPU {
        assert!(refused.message().contains(part), "{}", refused.message());
    }
    let mut client = Client::connect(&server.open(asked("digits")).await.unwrap());
    let digit = ferry_zoo::digits::held_out().next().unwrap();
    let tensor: Vec<u8> =
        digit.pixels.iter().flat_map(|&it| (f32::from(it) / 255.0).to_ne_bytes()).collect();
    assert_eq!(client.infer(&tensor).0, Status::Ok);
    // Asked again, it is refused again, and the server goes on.
    let load = v1::LoadModelRequest { name: "absent".into(), version: 0, config_toml: None };
    let again = models.load(load).await.unwrap_err();
    assert!(again.message().contains(NO_GPU[0]), "{}", again.message());
    assert_eq!(client.infer(&tensor).0, Status::Ok);
    server.stop().await;
}
