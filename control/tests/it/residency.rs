//! Models within a budget of memory: those that are not asked for make room, and come back.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ferry_control::host::rate::Rate;
use ferry_control::models::{Budget, ModelControl};
use ferry_control::tenants::{Quota, TenantConfig};
use ferry_core::{Status, Transport};
use ferry_proto::oip::grpc_inference_service_client::GrpcInferenceServiceClient as Oip;
use ferry_proto::v1::admin_client::AdminClient;
use ferry_proto::v1::inference_client::InferenceClient;
use ferry_proto::v1::models_client::ModelsClient;
use ferry_proto::{oip, v1};
use tonic::{Code, Request};

use crate::common::{Running, ask, until};
use crate::reload::add;
use crate::repository::{added, index, load, put_version, unload};

/// What the weights of one of these models take: its file, and the number beside it.
fn bytes_of_one() -> u64 {
    add().len() as u64 + 4
}

/// `a` adds 1, `b` adds 2 and so on; `models` of them.
fn put_all(root: &Path, models: u8) {
    for at in 0..models {
        let name = char::from(b'a' + at).to_string();
        put_version(root, &name, 1, "model.onnx");
        std::fs::write(root.join(&name).join("model.toml"), "engine = 'tract'").unwrap();
        let number = f32::from(at + 1).to_le_bytes();
        std::fs::write(root.join(&name).join("1/add.data"), number).unwrap();
    }
}

/// A server with memory for so many of them.
async fn serve(root: &Path, fit: u64) -> Running {
    let root = root.to_owned();
    Running::start(|config| {
        config.models = Some(root);
        config.models_budget.host_bytes_max = Some(fit * bytes_of_one());
    })
    .await
}

async fn residency(server: &Running, name: &str) -> v1::Residency {
    let asked = v1::GetModelRequest { name: name.into(), version: 0 };
    let model = ModelsClient::new(server.channel.clone()).get(asked).await.unwrap().into_inner();
    assert_eq!(model.state(), v1::model::State::Loaded, "in memory or not, it serves: {model:?}");
    model.residency.unwrap()
}

async fn states(server: &Running) -> Vec<String> {
    let listed = ModelsClient::new(server.channel.clone()).list(v1::ListModelsRequest {}).await;
    let models = listed.unwrap().into_inner().models.into_iter();
    models.filter(|it| it.name != "echo").map(|it| it.residency.unwrap().state).collect()
}

fn ask_for(model: &str, transport: Transport) -> v1::OpenSessionRequest {
    let shape = v1::TensorShape { name: "x".into(), shape: vec![1, 1] };
    v1::OpenSessionRequest { model: model.into(), shapes: vec![shape], ..ask(transport, 1, 1) }
}

fn inline(model: &str) -> v1::InferRequest {
    let shape = v1::TensorShape { name: "x".into(), shape: vec![1, 1] };
    let payload = vec![0; 4].into();
    v1::InferRequest { model: model.into(), payload, shapes: vec![shape], ..Default::default() }
}

/// Many clients ask for twice as many models as there is memory for, without a session and with.
#[tokio::test(flavor = "multi_thread")]
async fn four_models_serve_many_clients_within_the_memory_of_two() {
    let root = tempfile::tempdir().unwrap();
    put_all(root.path(), 4);
    let server = serve(root.path(), 2).await;
    let bytes_max = 2 * bytes_of_one();
    let is_over = Arc::new(AtomicBool::new(false));
    let (models, over) = (Arc::clone(&server.state.models), Arc::clone(&is_over));
    let watching = tokio::task::spawn_blocking(move || {
        let mut most = 0;
        while !over.load(Ordering::Relaxed) {
            most = most.max(models.memory()[0].bytes_now);
            std::thread::yield_now();
        }
        most
    });
    let client = |seed: u8| {
        let mut client = Oip::new(server.channel.clone());
        let mut calls = InferenceClient::new(server.channel.clone());
        async move {
            for turn in 0..12_u8 {
                let at = seed.wrapping_mul(31).wrapping_add(turn.wrapping_mul(7)) / 3 % 4;
                let (name, number) = (char::from(b'a' + at).to_string(), f32::from(at + 1));
                let answer = match turn % 2 {
                    0 => added(&mut client, &name, "").await.unwrap(),
                    _ => {
                        let answer = calls.infer(inline(&name)).await.unwrap().into_inner();
                        let output = answer.outputs[0].contents.as_ref();
                        f32::from_le_bytes(output.try_into().unwrap())
                    }
                };
                assert_eq!(answer, number, "{name}");
            }
        }
    };
    let clients: Vec<_> = (0..8).map(|seed| tokio::spawn(client(seed))).collect();
    for client in clients {
        client.await.unwrap();
    }
    is_over.store(true, Ordering::Relaxed);
    let most = watching.await.unwrap();
    assert!(most <= bytes_max, "{most} bytes, and {bytes_max} are allowed");
    let mut evictions = 0;
    for name in ["a", "b", "c", "d"] {
        evictions += residency(&server, name).await.evictions;
    }
    assert!(evictions > 2, "only the start made models go");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_made_room_is_told_as_ready_and_described_without_being_loaded() {
    let root = tempfile::tempdir().unwrap();
    put_all(root.path(), 3);
    std::fs::write(root.path().join("a/model.toml"), "engine = 'tract'\naliases = ['first']")
        .unwrap();
    let server = serve(root.path(), 2).await;
    assert_eq!(states(&server).await, ["absent", "resident", "resident"]);
    let mut client = Oip::new(server.channel.clone());
    let all = index(&mut client).await;
    assert_eq!((all[0].2.as_str(), all[1].2.as_str()), ("READY", "READY"));
    assert!(all[0].3.starts_with("absent: it made room"), "{all:?}");
    let ready = oip::ModelReadyRequest { name: "a".into(), version: String::new() };
    assert!(client.model_ready(ready).await.unwrap().into_inner().ready);
    let asked = oip::ModelMetadataRequest { name: "first".into(), version: "1".into() };
    let metadata = client.model_metadata(asked).await.unwrap().into_inner();
    assert_eq!((metadata.name.as_str(), metadata.inputs[0].name.as_str()), ("a", "x"));
    assert_eq!(metadata.versions, ["1"]);
    let asked = oip::ModelConfigRequest { name: "a".into(), version: String::new() };
    assert_eq!(client.model_config(asked).await.unwrap().into_inner().config.unwrap().name, "a");
    let asked = oip::ModelStatisticsRequest { name: "a".into(), version: String::new() };
    assert_eq!(client.model_statistics(asked).await.unwrap().into_inner().model_stats.len(), 1);
    // What no model takes is refused before one is loaded for it.
    let refused = added(&mut client, "a", "7").await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
    let told = residency(&server, "a").await;
    assert_eq!((told.state.as_str(), told.loads, told.evictions), ("absent", 1, 1));

    // By its alias, it comes back, and what it was asked goes on to be counted.
    assert_eq!(added(&mut client, "first", "").await.unwrap(), 1.0);
    assert_eq!(states(&server).await, ["resident", "absent", "resident"]);
    let told = residency(&server, "a").await;
    assert_eq!((told.loads, told.evictions, told.bytes), (2, 1, bytes_of_one()));
    assert!(told.last_load_us > 0 && told.place == "host", "{told:?}");
    assert_eq!(added(&mut client, "b", "").await.unwrap(), 2.0);
    assert_eq!(added(&mut client, "c", "").await.unwrap(), 3.0);
    assert_eq!(added(&mut client, "a", "").await.unwrap(), 1.0);
    let asked = oip::ModelStatisticsRequest { name: "a".into(), version: String::new() };
    let counted = client.model_statistics(asked).await.unwrap().into_inner();
    assert_eq!(counted.model_stats[0].inference_count, 2);
    let status = AdminClient::new(server.channel.clone()).status(v1::StatusRequest {}).await;
    let status = status.unwrap().into_inner();
    let memory = &status.memory[0];
    let two = 2 * bytes_of_one();
    assert_eq!((memory.bytes_now, memory.bytes_max), (two, Some(two)), "{memory:?}");
    assert_eq!(status.models[0].residency.as_ref().unwrap().loads, 3);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_session_keeps_its_model_and_what_does_not_fit_is_refused_with_the_numbers() {
    let root = tempfile::tempdir().unwrap();
    put_all(root.path(), 3);
    std::fs::write(root.path().join("c/model.toml"), "engine = 'tract'\nkeep = true").unwrap();
    let server = serve(root.path(), 2).await;
    let mut client = Oip::new(server.channel.clone());
    // Opening a session brings a model back, too.
    let mut session = server.client(ask_for("a", Transport::Shm)).await;
    assert_eq!(states(&server).await, ["resident", "absent", "resident"]);
    let refused = added(&mut client, "b", "").await.unwrap_err();
    let one = bytes_of_one();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    for part in [format!("needs {one} bytes"), format!("{} are of models in use", 2 * one)] {
        assert!(refused.message().contains(&part), "{part} is not in {}", refused.message());
    }
    let refused = server.open(ask_for("b", Transport::Tcp)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert_eq!(states(&server).await, ["resident", "absent", "resident"], "nothing went in vain");
    assert_eq!(session.infer(&[0; 4]), (Status::Ok, 1_f32.to_le_bytes().to_vec()));
    let close = v1::CloseSessionRequest { session: Some(session.reference.clone()) };
    server.sessions().close(close).await.unwrap();
    assert_eq!(added(&mut client, "b", "").await.unwrap(), 2.0);
    assert_eq!(states(&server).await, ["absent", "resident", "resident"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_unloads_stays_unloaded_and_what_changed_meanwhile_is_read() {
    let root = tempfile::tempdir().unwrap();
    put_all(root.path(), 3);
    let server = serve(root.path(), 2).await;
    let mut client = Oip::new(server.channel.clone());
    // A file that changes while its model is not in memory.
    std::fs::write(root.path().join("a/1/add.data"), 10_f32.to_le_bytes()).unwrap();
    assert_eq!(added(&mut client, "a", "").await.unwrap(), 10.0);
    client.repository_model_unload(unload("b")).await.unwrap();
    let refused = added(&mut client, "b", "").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    client.repository_model_load(load("b", None)).await.unwrap();
    assert_eq!(added(&mut client, "b", "").await.unwrap(), 2.0);
    // One whose file went is failed with the reason, and the others serve.
    let absent = if residency(&server, "a").await.state == "absent" { "a" } else { "c" };
    std::fs::remove_file(root.path().join(absent).join("1/add.data")).unwrap();
    let refused = added(&mut client, absent, "").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("add.data"), "{refused:?}");
    assert_eq!(added(&mut client, "b", "").await.unwrap(), 2.0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_not_in_memory_is_not_loaded_because_its_file_changed() {
    let root = tempfile::tempdir().unwrap();
    put_all(root.path(), 3);
    let folder = root.path().to_owned();
    let server = Running::start(|config| {
        config.models = Some(folder);
        config.model_control = ModelControl::Poll(std::time::Duration::from_millis(100));
        config.models_budget =
            Budget { host_bytes_max: Some(2 * bytes_of_one()), ..Budget::default() };
    })
    .await;
    let write = |name: &str, number: f32| {
        std::fs::write(root.path().join(name).join("1/add.data"), number.to_le_bytes()).unwrap();
    };
    write("a", 10.0);
    write("b", 20.0);
    let mut client = Oip::new(server.channel.clone());
    let is_new = || {
        let listed = server.state.models.list();
        let of = |name: &str| listed.iter().find(|it| it.name == name).unwrap().presence.unwrap();
        (of("a").loads, of("b").loads) == (1, 2)
    };
    until("the one in memory is loaded again", is_new).await;
    assert_eq!(added(&mut client, "b", "").await.unwrap(), 20.0);
    assert_eq!(added(&mut client, "a", "").await.unwrap(), 10.0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_over_its_rate_has_no_model_loaded() {
    let root = tempfile::tempdir().unwrap();
    put_all(root.path(), 3);
    let path = root.path().to_owned();
    let server = Running::start(|config| {
        config.models = Some(path);
        config.models_budget.host_bytes_max = Some(2 * bytes_of_one());
        config.operator_key = Some("op".into());
        config.tenants = vec![TenantConfig {
            name: "t".into(),
            key: "k".into(),
            quota: Quota::default(),
            rate: Some(Rate::new(0.01, Some(2)).unwrap()),
        }];
    })
    .await;
    let mut calls = InferenceClient::new(server.channel.clone());
    let asked = |model: &str| {
        let mut request = Request::new(inline(model));
        request.metadata_mut().insert("ferry-key", "k".parse().unwrap());
        request
    };
    calls.infer(asked("a")).await.unwrap();
    calls.infer(asked("c")).await.unwrap();
    let refused = calls.infer(asked("b")).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("try again in"), "{refused:?}");
    let listed = server.state.models.list();
    let b = listed.iter().find(|it| it.name == "b").unwrap().presence.unwrap();
    assert_eq!((b.loads, b.evictions), (1, 1), "it was not loaded for nothing");
    assert_eq!(server.state.tenants.in_flight(), 0);
    server.stop().await;
}
