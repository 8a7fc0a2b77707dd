//! What a server without a GPU says of models and sessions that want one, and that it serves on.
//! Where there is a GPU, `./test gpu` tests the rest, and these cases have nothing to show.

use ferry_core::{SlotPlace, Status, Transport};
use ferry_proto::v1;
use ferry_proto::v1::model::State;
use ferry_proto::v1::models_client::ModelsClient;
use tonic::Code;

use crate::common::{Client, Running, ask};

fn put(folder: &std::path::Path, name: &str, metadata: &str) {
    std::fs::write(folder.join(format!("{name}.onnx")), ferry_zoo::digits::onnx()).unwrap();
    std::fs::write(folder.join(format!("{name}.toml")), metadata).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_must_run_on_a_gpu_is_refused_with_the_reason_and_others_are_served() {
    let Err(missing) = ferry_cuda::probe() else { return };
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "gpu", "engine = 'onnx'\ndevice = 'cuda:0'");
    put(folder.path(), "odd", "device = 'gpu'");
    put(folder.path(), "many", "[gpu]\nstreams = 65");
    put(folder.path(), "pure", "engine = 'tract'\ndevice = 'cuda:0'");
    put(folder.path(), "digits", "engine = 'tract'");
    let path = folder.path().to_owned();
    let server = Running::start(|config| config.models = Some(path)).await;
    let mut models = ModelsClient::new(server.channel.clone());
    let listed = models.list(v1::ListModelsRequest {}).await.unwrap().into_inner().models;
    let error = |name: &str| {
        let model = listed.iter().find(|it| it.name == name).unwrap();
        assert_eq!(model.state(), State::Failed, "{name}");
        model.error.clone()
    };
    assert!(error("gpu").contains(&missing.why), "{}", error("gpu"));
    assert!(error("gpu").contains("install"), "the fix is told: {}", error("gpu"));
    assert!(error("odd").contains("cuda:N"), "{}", error("odd"));
    assert!(error("many").contains("1 to 64"), "{}", error("many"));
    assert!(error("pure").contains("engine = \"onnx\""), "{}", error("pure"));

    let asked = v1::OpenSessionRequest {
        model: "digits".into(),
        shapes: Vec::new(),
        ..ask(Transport::Tcp, 1, 1)
    };
    let opened = server.open(asked).await.unwrap();
    assert_eq!(opened.placement, None, "the model runs on the CPU");
    let (status, reply) =
        tokio::task::spawn_blocking(move || Client::connect(&opened).infer(&[0; 8 * 8 * 4]))
            .await
            .unwrap();
    assert_eq!((status, reply.len()), (Status::Ok, 10 * 4));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_for_a_gpu_is_refused_where_the_model_runs_on_the_cpu() {
    let server = Running::start(|_config| {}).await;
    for (place, why) in [
        ("pinned", "runs on the CPU"),
        ("mapped", "runs on the CPU"),
        ("cuda:0", "device = \"cuda:0\""),
        ("cuda:7", "device = \"cuda:7\""),
    ] {
        let place: SlotPlace = place.parse().unwrap();
        let asked =
            v1::OpenSessionRequest { placement: Some(place.into()), ..ask(Transport::Tcp, 64, 64) };
        let refused = server.open(asked).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{place}: {refused}");
        assert!(refused.message().contains(why), "{place}: {}", refused.message());
    }
    let senseless = v1::Placement { cuda_ordinal: None, host_memory: "fast".into() };
    let asked =
        v1::OpenSessionRequest { placement: Some(senseless), ..ask(Transport::Tcp, 64, 64) };
    let refused = server.open(asked).await.unwrap_err();
    assert!(refused.message().contains("pageable, pinned, mapped"), "{}", refused.message());
    for place in ["auto", "pageable"] {
        let place: SlotPlace = place.parse().unwrap();
        let asked =
            v1::OpenSessionRequest { placement: Some(place.into()), ..ask(Transport::Tcp, 64, 64) };
        assert!(server.open(asked).await.is_ok(), "{place}: what every CPU has");
    }
    server.stop().await;
}
