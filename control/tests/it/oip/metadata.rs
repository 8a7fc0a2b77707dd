//! What a client asks before its first inference.

use std::time::Duration;

use ferry_conformance::turns;
use ferry_core::DType;
use ferry_proto::oip;
use tonic::Code;

use super::{client, identity, input, number, put_digits};
use crate::common::{LONG, Running, until};

fn metadata(name: &str, version: &str) -> oip::ModelMetadataRequest {
    oip::ModelMetadataRequest { name: name.into(), version: version.into() }
}

fn config(name: &str) -> oip::ModelConfigRequest {
    oip::ModelConfigRequest { name: name.into(), version: String::new() }
}

fn ready(name: &str, version: &str) -> oip::ModelReadyRequest {
    oip::ModelReadyRequest { name: name.into(), version: version.into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn server_and_models_say_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    put_digits(folder.path());
    let path = folder.path().to_owned();
    let server = Running::start(|config| config.models = Some(path)).await;
    let mut client = client(&server);
    assert!(client.server_live(oip::ServerLiveRequest {}).await.unwrap().into_inner().live);
    assert!(client.server_ready(oip::ServerReadyRequest {}).await.unwrap().into_inner().ready);
    let told = client.server_metadata(oip::ServerMetadataRequest {}).await.unwrap().into_inner();
    assert_eq!(told.name, "tensorferry");
    for extension in ["statistics", "system_shared_memory", "classification"] {
        assert!(told.extensions.iter().any(|it| it == extension), "{told:?}");
    }

    for (name, version, is_ready) in
        [("echo", "", true), ("digits", "1", true), ("digits", "2", false), ("none", "", false)]
    {
        let answer = client.model_ready(ready(name, version)).await.unwrap().into_inner();
        assert_eq!(answer.ready, is_ready, "{name} {version:?}");
    }
    let echo = client.model_metadata(metadata("echo", "")).await.unwrap().into_inner();
    assert_eq!((&*echo.versions, echo.platform.as_str()), (&["1".to_owned()][..], "echo"));
    let [one] = &echo.inputs[..] else { panic!("{echo:?}") };
    assert_eq!((one.name.as_str(), one.datatype.as_str()), ("INPUT0", "FP32"));
    assert_eq!((&*one.shape, &*echo.outputs[0].shape), (&[-1; 3][..], &[-1; 3][..]));
    assert_eq!(echo.outputs[0].name, "OUTPUT0");

    for name in ["echo", "digits"] {
        let told = client.model_metadata(metadata(name, "")).await.unwrap().into_inner();
        let config = client.model_config(config(name)).await.unwrap().into_inner().config.unwrap();
        assert_eq!((config.name.as_str(), config.max_batch_size), (name, 0));
        let of_config = config.input.iter().map(|it| (&it.name, &it.dims));
        assert!(of_config.eq(told.inputs.iter().map(|it| (&it.name, &it.shape))), "{config:?}");
        let of_config = config.output.iter().map(|it| (&it.name, &it.dims));
        assert!(of_config.eq(told.outputs.iter().map(|it| (&it.name, &it.shape))), "{config:?}");
        assert_eq!(config.input[0].data_type(), oip::DataType::TypeFp32);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_not_there_says_what_there_is() {
    let server = Running::start(|_| {}).await;
    let mut client = client(&server);
    for (name, version, code, word) in [
        ("none", "", Code::NotFound, "echo version 1"),
        ("echo", "7", Code::NotFound, "echo version 1"),
        ("echo", "0", Code::InvalidArgument, "from 1 on"),
        ("echo", "one", Code::InvalidArgument, "model_version"),
    ] {
        let refused = client.model_metadata(metadata(name, version)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused:?}");
        assert!(refused.message().contains(word), "{}", refused.message());
    }
    assert_eq!(client.model_config(config("none")).await.unwrap_err().code(), Code::NotFound);
    let refused = client.model_ready(ready("echo", "x")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_asked_waits_for_an_inference_and_a_timeout_ends_the_wait_for_one() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("turns.onnx"), turns::onnx()).unwrap();
    let toml = "engine = 'onnx'\nrun_seconds_max = 20\nqueue = 1";
    std::fs::write(folder.path().join("turns.toml"), toml).unwrap();
    let path = folder.path().to_owned();
    let server = Running::start(|config| {
        config.models = Some(path);
        config.drain = Duration::from_millis(100);
    })
    .await;
    let mut client = client(&server);
    let run = |turns: i64| {
        let mut x = input("x", DType::I64, &[1]);
        x.contents =
            Some(oip::InferTensorContents { int64_contents: vec![7], ..Default::default() });
        let mut n = input("n", DType::I64, &[]);
        n.contents =
            Some(oip::InferTensorContents { int64_contents: vec![turns], ..Default::default() });
        let (model_name, inputs) = ("turns".to_owned(), vec![x, n]);
        oip::ModelInferRequest { model_name, inputs, ..Default::default() }
    };
    let answer = client.model_infer(run(3)).await.unwrap().into_inner();
    assert_eq!(answer.raw_output_contents, [21_i64.to_le_bytes().to_vec()]);

    let mut late = run(turns::ENDLESS);
    late.parameters.insert("timeout".into(), number(50_000));
    let refused = client.model_infer(late).await.unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
    // Its run goes on, and keeps the model's only instance.
    let pool = || server.served("turns").pool.stats();
    until("it runs", || pool().in_flight == 1).await;
    let mut waiting = client.clone();
    let next = run(1);
    let waits = tokio::spawn(async move { waiting.model_infer(next).await });
    until("the queue is full", || pool().queued == 1).await;
    let refused = client.model_infer(run(1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    let asked = async {
        assert!(client.server_live(oip::ServerLiveRequest {}).await.unwrap().into_inner().live);
        assert!(client.server_ready(oip::ServerReadyRequest {}).await.unwrap().into_inner().ready);
        client.server_metadata(oip::ServerMetadataRequest {}).await.unwrap();
        client.model_metadata(metadata("turns", "")).await.unwrap();
        client.model_config(config("turns")).await.unwrap();
        assert!(client.model_ready(ready("turns", "")).await.unwrap().into_inner().ready);
        client.model_statistics(oip::ModelStatisticsRequest::default()).await.unwrap();
        let regions = oip::SystemSharedMemoryStatusRequest::default();
        client.system_shared_memory_status(regions).await.unwrap();
        client.repository_index(oip::RepositoryIndexRequest::default()).await.unwrap();
        client.model_infer(identity(&[1, 1, 1], &[0; 4])).await.unwrap();
    };
    tokio::time::timeout(LONG, asked).await.unwrap();
    assert!(!waits.is_finished(), "the model is busy, and the rest was answered all the same");
    waits.abort();
    server.stop().await;
}
