//! The folder of models as a tree: versions, configurations of both kinds, who loads what and when.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ferry_control::models::ModelControl;
use ferry_core::{Status, Transport};
use ferry_proto::oip::grpc_inference_service_client::GrpcInferenceServiceClient as Oip;
use ferry_proto::oip::model_infer_request::InferInputTensor;
use ferry_proto::oip::model_repository_parameter::ParameterChoice;
use ferry_proto::v1::models_client::ModelsClient;
use ferry_proto::{oip, v1};
use tonic::Code;
use tonic::transport::Channel;

use crate::common::{Client, LONG, Running, ask, until};
use crate::reload::add;

/// Looks as often as an operator may ask for.
const OFTEN: Duration = Duration::from_millis(100);

/// Writes a file, whose folders are made.
fn put(root: &Path, name: &str, content: impl AsRef<[u8]>) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// A version that adds its own number.
pub(crate) fn put_version(root: &Path, model: &str, version: u16, file: &str) {
    put(root, &format!("{model}/{version}/{file}"), add());
    put(root, &format!("{model}/{version}/add.data"), f32::from(version).to_le_bytes());
}

async fn serve(root: &Path, control: ModelControl) -> Running {
    let root = root.to_owned();
    Running::start(|config| {
        config.models = Some(root);
        config.model_control = control;
    })
    .await
}

fn request(model: &str, version: &str) -> oip::ModelInferRequest {
    let input = InferInputTensor {
        name: "x".into(),
        datatype: "FP32".into(),
        shape: vec![1, 1],
        ..InferInputTensor::default()
    };
    oip::ModelInferRequest {
        model_name: model.into(),
        model_version: version.into(),
        inputs: vec![input],
        raw_input_contents: vec![vec![0; 4].into()],
        ..oip::ModelInferRequest::default()
    }
}

/// What a model adds to nothing.
pub(crate) async fn added(
    client: &mut Oip<Channel>,
    model: &str,
    version: &str,
) -> Result<f32, tonic::Status> {
    let answer = client.model_infer(request(model, version)).await?.into_inner();
    let bytes: &[u8] = &answer.raw_output_contents[0];
    Ok(f32::from_le_bytes(bytes.try_into().unwrap()))
}

/// Name, version, state and reason of each model but `echo`.
pub(crate) async fn index(client: &mut Oip<Channel>) -> Vec<(String, String, String, String)> {
    let all = client.repository_index(oip::RepositoryIndexRequest::default()).await.unwrap();
    let all = all.into_inner().models.into_iter().filter(|it| it.name != "echo");
    all.map(|it| (it.name, it.version, it.state, it.reason)).collect()
}

pub(crate) fn load(model: &str, config: Option<&str>) -> oip::RepositoryModelLoadRequest {
    let parameter = |text: &str| oip::ModelRepositoryParameter {
        parameter_choice: Some(ParameterChoice::StringParam(text.into())),
    };
    oip::RepositoryModelLoadRequest {
        model_name: model.into(),
        parameters: config.map(|it| ("config".to_owned(), parameter(it))).into_iter().collect(),
        ..oip::RepositoryModelLoadRequest::default()
    }
}

pub(crate) fn unload(model: &str) -> oip::RepositoryModelUnloadRequest {
    oip::RepositoryModelUnloadRequest { model_name: model.into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_of_both_layouts_serves_the_versions_that_its_policies_say() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    put(root, "flat.onnx", add());
    put(root, "add.data", 40_f32.to_le_bytes());
    put(root, "flat.toml", "engine = 'tract'");
    let config = "backend: 'tract' default_model_filename: 'net.onnx'
                  version_policy { latest { num_versions: 2 } }";
    put(root, "tree/config.pbtxt", config);
    for version in [1, 2, 3] {
        put_version(root, "tree", version, "net.onnx");
    }
    put(root, "listed/model.toml", "engine = 'tract'\nversions = [1, 7]");
    put_version(root, "listed", 1, "model.onnx");
    put_version(root, "listed", 2, "model.onnx");
    let server = serve(root, ModelControl::None).await;
    let mut client = Oip::new(server.channel.clone());
    let states = |all: &[(String, String, String, String)]| {
        let one = |it: &(String, String, String, String)| format!("{} {} {}", it.0, it.1, it.2);
        all.iter().map(one).collect::<Vec<_>>()
    };
    let all = index(&mut client).await;
    let expected = [
        "flat 1 READY",
        "listed 1 READY",
        "listed 2 UNAVAILABLE",
        "tree 1 UNAVAILABLE",
        "tree 2 READY",
        "tree 3 READY",
    ];
    assert_eq!(states(&all), expected);
    assert!(all[3].3.contains("the latest 2"), "{all:?}");
    assert_eq!(added(&mut client, "flat", "").await.unwrap(), 40.0);
    assert_eq!(added(&mut client, "listed", "").await.unwrap(), 1.0);
    assert_eq!(added(&mut client, "tree", "").await.unwrap(), 3.0);
    assert_eq!(added(&mut client, "tree", "2").await.unwrap(), 2.0);
    assert_eq!(added(&mut client, "tree", "1").await.unwrap_err().code(), Code::FailedPrecondition);
    let mut models = ModelsClient::new(server.channel.clone());
    let first = v1::LoadModelRequest { name: "tree".into(), version: 1, config_toml: None };
    let refused = models.load(first).await.unwrap_err();
    assert!(refused.message().contains("the latest 2"), "{refused:?}");

    // A version that is new takes the place of the oldest.
    put_version(root, "tree", 4, "net.onnx");
    client.repository_model_load(load("tree", None)).await.unwrap();
    assert_eq!(added(&mut client, "tree", "").await.unwrap(), 4.0);
    assert_eq!(added(&mut client, "tree", "2").await.unwrap_err().code(), Code::FailedPrecondition);
    let second = index(&mut client).await.into_iter().find(|it| it.0 == "tree" && it.1 == "2");
    assert!(second.unwrap().3.contains("the latest 2"));
    // One that is broken takes nothing's.
    put(root, "tree/5/net.onnx", "broken");
    let refused = client.repository_model_load(load("tree", None)).await.unwrap_err();
    assert!(refused.message().contains("version 5"), "{refused:?}");
    assert_eq!(added(&mut client, "tree", "").await.unwrap(), 4.0);
    assert_eq!(added(&mut client, "tree", "3").await.unwrap(), 3.0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_configuration_says_is_held_to_named_or_fails_its_model_by_name() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let tract = |more: &str| format!("backend: 'tract'\n{more}");
    for (model, config, state, word) in [
        ("ensemble", "ensemble_scheduling { }".to_owned(), "UNAVAILABLE", "ensemble_scheduling"),
        ("broken", "max_batch_size: {".to_owned(), "UNAVAILABLE", "config.pbtxt"),
        ("python", "backend: 'python'".to_owned(), "UNAVAILABLE", "python"),
        (
            "dims",
            tract("max_batch_size: 4 input { name: 'x' data_type: TYPE_FP32 dims: 2 }"),
            "UNAVAILABLE",
            "dims [2] behind the batch",
        ),
        (
            "type",
            tract("output { name: 'y' data_type: TYPE_FP16 dims: [-1, 1] }"),
            "UNAVAILABLE",
            "FP16",
        ),
        (
            "warm",
            tract("model_warmup { name: 'w' inputs { key: 'q' } }"),
            "UNAVAILABLE",
            "TYPE_INVALID",
        ),
        ("named", tract("metric_tags { key: 'a' value: 'b' }"), "READY", "metric_tags"),
        (
            "good",
            tract(
                "max_batch_size: 4 input { name: 'x' data_type: TYPE_FP32 dims: 1 }
                 output { name: 'y' data_type: TYPE_FP32 dims: 1 } dynamic_batching { }",
            ),
            "READY",
            "",
        ),
    ] {
        put(root, &format!("{model}/config.pbtxt"), config);
        put_version(root, model, 1, "model.onnx");
        let told = format!("{state} {word}");
        put(root, &format!("{model}/expected"), told);
    }
    let server = serve(root, ModelControl::None).await;
    let mut client = Oip::new(server.channel.clone());
    let all = index(&mut client).await;
    assert_eq!(all.len(), 8, "{all:?}");
    for (model, _, state, reason) in all {
        let expected = std::fs::read_to_string(root.join(&model).join("expected")).unwrap();
        let (expected, word) = expected.split_once(' ').unwrap();
        assert!(state == expected && reason.contains(word), "{model}: {state} {reason}");
    }
    let asked = oip::ModelConfigRequest { name: "good".into(), version: String::new() };
    let config = client.model_config(asked).await.unwrap().into_inner().config.unwrap();
    assert_eq!(config.max_batch_size, 4);
    let mut models = ModelsClient::new(server.channel.clone());
    let get = v1::GetModelRequest { name: "named".into(), version: 0 };
    let notes = models.get(get).await.unwrap().into_inner().notes;
    assert!(notes.len() == 1 && notes[0].contains("metric_tags"), "{notes:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_answers_its_warm_up_before_it_serves() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let warm =
        "engine = 'tract'\n[[warmup]]\ncount = 3\ninputs.x = { shape = [2, 1], data = 'random' }";
    put(root, "warm/model.toml", warm);
    put_version(root, "warm", 1, "model.onnx");
    let pbtxt = "backend: 'tract' model_warmup { name: 'w' count: 2 inputs {
                 key: 'x' value { data_type: TYPE_FP32 dims: [1, 1] input_data_file: 'raw' } } }";
    put(root, "triton/config.pbtxt", pbtxt);
    put(root, "triton/warmup/raw", [0; 4]);
    put_version(root, "triton", 1, "model.onnx");
    for (model, wrong) in [
        ("shape", "inputs.x = { shape = [2, 2] }"),
        ("name", "inputs.q = { shape = [2, 1] }"),
        ("bytes", "inputs.x = { shape = [2, 1], file = 'short' }"),
    ] {
        put(root, &format!("{model}/model.toml"), format!("engine = 'tract'\n[[warmup]]\n{wrong}"));
        put(root, &format!("{model}/short"), "abc");
        put_version(root, model, 1, "model.onnx");
    }
    let server = serve(root, ModelControl::None).await;
    let mut client = Oip::new(server.channel.clone());
    let mut models = ModelsClient::new(server.channel.clone());
    for (model, served) in [("warm", 3), ("triton", 2)] {
        let get = v1::GetModelRequest { name: model.into(), version: 0 };
        let told = models.get(get).await.unwrap().into_inner();
        assert_eq!(told.stats.unwrap().served, served, "{}", told.error);
        // Requests of clients are counted from none.
        let asked = oip::ModelStatisticsRequest { name: model.into(), version: String::new() };
        let stats = client.model_statistics(asked).await.unwrap().into_inner().model_stats;
        assert_eq!(stats[0].inference_count, 0);
    }
    for (model, _, state, reason) in index(&mut client).await {
        let is_good = ["warm", "triton"].contains(&&*model);
        assert_eq!(state == "READY", is_good, "{model}: {reason}");
        assert!(is_good || reason.contains("warmup \"1\""), "{model}: {reason}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_answers_to_its_aliases_and_no_two_to_one_name() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    for (model, aliases) in
        [("a", "['prod', 'best']"), ("b", "['prod']"), ("c", "['d']"), ("d", "[]"), ("e", "['e']")]
    {
        put(root, &format!("{model}/model.toml"), format!("engine = 'tract'\naliases = {aliases}"));
        put_version(root, model, 1, "model.onnx");
    }
    let server = serve(root, ModelControl::None).await;
    let mut client = Oip::new(server.channel.clone());
    let all = index(&mut client).await;
    for ((model, _, state, reason), (expected, word)) in all.iter().zip([
        ("READY", "also called prod, best"),
        ("UNAVAILABLE", "\"prod\" is one of the model a"),
        ("UNAVAILABLE", "\"d\" is a model of its own"),
        ("READY", ""),
        ("UNAVAILABLE", "names this model already"),
    ]) {
        assert!(state == expected && reason.contains(word), "{model}: {state} {reason}");
    }
    for name in ["a", "prod", "best"] {
        assert_eq!(added(&mut client, name, "").await.unwrap(), 1.0);
        assert_eq!(added(&mut client, name, "1").await.unwrap(), 1.0);
    }
    let session = v1::OpenSessionRequest {
        model: "best".into(),
        shapes: vec![v1::TensorShape { name: "x".into(), shape: vec![1, 1] }],
        ..ask(Transport::Tcp, 1, 1)
    };
    assert_eq!(server.open(session).await.unwrap().model, "a");
    let refused = client.repository_model_unload(unload("best")).await.unwrap_err();
    assert!(refused.message().contains("alias of a"), "{refused:?}");
    // A file of that name takes nothing from the model that answers to it.
    put(root, "prod/model.toml", "engine = 'tract'");
    put_version(root, "prod", 9, "model.onnx");
    let refused = client.repository_model_load(load("prod", None)).await.unwrap_err();
    assert!(refused.message().contains("alias of the model a"), "{refused:?}");
    assert_eq!(added(&mut client, "prod", "").await.unwrap(), 1.0);
    client.repository_model_unload(unload("a")).await.unwrap();
    assert_eq!(added(&mut client, "best", "").await.unwrap_err().code(), Code::NotFound);
    client.repository_model_load(load("prod", None)).await.unwrap();
    assert_eq!(added(&mut client, "prod", "").await.unwrap(), 9.0);
    let refused = client.repository_model_load(load("a", None)).await.unwrap_err();
    assert!(refused.message().contains("\"prod\" is a model of its own"), "{refused:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_comes_with_a_load_is_honoured() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    put(root, "m/config.pbtxt", "backend: 'tract'");
    for version in [1, 2] {
        put_version(root, "m", version, "model.onnx");
    }
    let server = serve(root, ModelControl::None).await;
    let mut client = Oip::new(server.channel.clone());
    let config = async |client: &mut Oip<Channel>| {
        let asked = oip::ModelConfigRequest { name: "m".into(), version: String::new() };
        client.model_config(asked).await.unwrap().into_inner().config.unwrap()
    };
    let given = r#"{"name": "m", "backend": "tract", "max_batch_size": 3,
                    "instance_group": [{"count": 2, "kind": "KIND_CPU"}],
                    "versionPolicy": {"all": {}}}"#;
    client.repository_model_load(load("m", Some(given))).await.unwrap();
    let told = config(&mut client).await;
    assert_eq!((told.max_batch_size, told.instance_group[0].count), (3, 2));
    assert_eq!(added(&mut client, "m", "1").await.unwrap(), 1.0);
    for (given, word) in [
        (r#"{"max_batch_sise": 1}"#, "max_batch_sise"),
        (r#"{"name": "other"}"#, "other"),
        (r#"{"ensembleScheduling": {}}"#, "ensemble_scheduling"),
        (r#"{"defaultModelFilename": "../../x.onnx"}"#, "default_model_filename"),
        ("[]", "config"),
    ] {
        let refused = client.repository_model_load(load("m", Some(given))).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains(word), "{refused:?}");
    }
    assert_eq!(config(&mut client).await.max_batch_size, 3, "it goes on as it was");
    client.repository_model_load(load("m", None)).await.unwrap();
    assert_ne!(config(&mut client).await.max_batch_size, 3, "the folder's is again");
    assert_eq!(added(&mut client, "m", "1").await.unwrap_err().code(), Code::FailedPrecondition);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_named_is_loaded_at_the_start_where_calls_decide() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    for model in ["a", "b"] {
        put(root, &format!("{model}/config.pbtxt"), "backend: 'tract'");
        put_version(root, model, 1, "model.onnx");
    }
    let server = serve(root, ModelControl::Explicit(vec!["b".into(), "absent".into()])).await;
    let mut client = Oip::new(server.channel.clone());
    let states = async |client: &mut Oip<Channel>| {
        index(client).await.into_iter().map(|it| it.2).collect::<Vec<_>>()
    };
    assert_eq!(states(&mut client).await, ["UNAVAILABLE", "READY"]);
    client.repository_model_load(load("a", None)).await.unwrap();
    client.repository_model_unload(unload("b")).await.unwrap();
    assert_eq!(states(&mut client).await, ["READY", "UNAVAILABLE"]);
    server.stop().await;
    let server = serve(root, ModelControl::Explicit(vec!["*".into()])).await;
    assert_eq!(states(&mut Oip::new(server.channel.clone())).await, ["READY", "READY"]);
    server.stop().await;
}

/// What a model adds, again and again, until it is this.
async fn until_adds(client: &mut Oip<Channel>, model: &str, value: f32) {
    let deadline = tokio::time::Instant::now() + LONG;
    while !added(client, model, "").await.is_ok_and(|it| it == value) {
        assert!(tokio::time::Instant::now() < deadline, "{model} never adds {value}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_in_a_folder_that_is_polled_is_loaded_and_no_half_of_it() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    put(root, "m/model.toml", "engine = 'tract'\nmax_batch = 2");
    put_version(root, "m", 1, "model.onnx");
    let server = serve(root, ModelControl::Poll(OFTEN)).await;
    let mut client = Oip::new(server.channel.clone());
    assert_eq!(added(&mut client, "m", "").await.unwrap(), 1.0);
    let refused = client.repository_model_load(load("m", None)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("--model-control explicit"), "{refused:?}");
    assert!(client.repository_model_unload(unload("m")).await.is_err());

    // The weights, a model that is new, its labels.
    put(root, "m/1/add.data", 10_f32.to_le_bytes());
    until_adds(&mut client, "m", 10.0).await;
    put_version(root, "n", 7, "model.onnx");
    put(root, "n/model.toml", "engine = 'tract'");
    until_adds(&mut client, "n", 7.0).await;

    // Half of a file, for as long as it lies there, and half of a TOML.
    let models = ModelsClient::new(server.channel.clone());
    let reason = async |word: &str| {
        let deadline = tokio::time::Instant::now() + LONG;
        let mut models = models.clone();
        loop {
            let get = v1::GetModelRequest { name: "m".into(), version: 0 };
            let told = models.get(get).await.unwrap().into_inner();
            assert_eq!(told.state(), v1::model::State::Loaded);
            if told.notes.iter().any(|it| it.contains(word)) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{:?}", told.notes);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let whole = add();
    put(root, "m/1/model.onnx", &whole[..whole.len() / 2]);
    reason("model.onnx").await;
    put(root, "m/model.toml", "engine = 'tra");
    reason("model.toml").await;
    assert_eq!(added(&mut client, "m", "").await.unwrap(), 10.0);
    put(root, "m/1/add.data", 11_f32.to_le_bytes());
    put(root, "m/1/model.onnx", &whole);
    put(root, "m/model.toml", "engine = 'tract'\nmax_batch = 3");
    until_adds(&mut client, "m", 11.0).await;

    // What is gone is unloaded.
    std::fs::remove_dir_all(root.join("n")).unwrap();
    let gone = tokio::time::Instant::now() + LONG;
    while added(&mut client, "n", "").await.map_err(|it| it.code()) != Err(Code::NotFound) {
        assert!(tokio::time::Instant::now() < gone, "n is still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(added(&mut client, "m", "").await.unwrap(), 11.0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_a_model_is_loaded_again_under_load() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    put(root, "m/model.toml", "engine = 'tract'\nmax_batch = 2");
    put_version(root, "m", 1, "model.onnx");
    let server = serve(root, ModelControl::None).await;
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let mut client = Oip::new(server.channel.clone());
        let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
        tasks.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                added(&mut client, "m", "").await.unwrap();
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    let asked = v1::OpenSessionRequest {
        model: "m".into(),
        shapes: vec![v1::TensorShape { name: "x".into(), shape: vec![1, 1] }],
        ..ask(Transport::Tcp, 1, 1)
    };
    let mut session = Client::connect(&server.open(asked).await.unwrap());
    let (stop_too, of_session) = (Arc::clone(&stop), Arc::clone(&answered));
    let sent = tokio::task::spawn_blocking(move || {
        let mut last = Vec::new();
        while !stop_too.load(Ordering::Relaxed) {
            let (status, payload) = session.infer_here(&[0; 4]);
            assert_eq!(status, Status::Ok);
            of_session.fetch_add(1, Ordering::Relaxed);
            last = payload;
        }
        last
    });
    let mut models = ModelsClient::new(server.channel.clone());
    for round in 2..7_u16 {
        put(root, "m/1/add.data", f32::from(round).to_le_bytes());
        let again = v1::LoadModelRequest { name: "m".into(), version: 0, config_toml: None };
        assert!(models.load(again).await.unwrap().into_inner().loaded);
        let before = answered.load(Ordering::Relaxed);
        until("requests go on", || answered.load(Ordering::Relaxed) > before + 50).await;
    }
    // Until the last of the old ones is gone, too.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let before = answered.load(Ordering::Relaxed);
    until("requests go on", || answered.load(Ordering::Relaxed) > before + 50).await;
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(sent.await.unwrap(), 6_f32.to_le_bytes(), "the session went on with the new one");
    server.stop().await;
}
