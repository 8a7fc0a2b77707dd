//! Answers that are kept: found again by who asked, and by nobody else.

use std::path::Path;

use ferry_control::tenants::{Quota, TenantConfig};
use ferry_proto::oip;
use ferry_proto::oip::grpc_inference_service_client::GrpcInferenceServiceClient;
use ferry_proto::v1;
use ferry_proto::v1::models_client::ModelsClient;
use tonic::Request;
use tonic::transport::Channel;

use crate::common::{LONG, Running};

type Oip = GrpcInferenceServiceClient<Channel>;

fn put(folder: &Path, more: &str) {
    std::fs::write(folder.join("digits.onnx"), ferry_zoo::digits::onnx()).unwrap();
    std::fs::write(folder.join("digits.toml"), format!("engine = 'tract'\n{more}")).unwrap();
}

async fn start(folder: &Path) -> Running {
    let folder = folder.to_owned();
    Running::start(|config| config.models = Some(folder)).await
}

fn digit(level: f32) -> oip::ModelInferRequest {
    let input = oip::model_infer_request::InferInputTensor {
        name: "input".into(),
        datatype: "FP32".into(),
        shape: vec![1, 1, 8, 8],
        ..Default::default()
    };
    let values = (0..64_u8).flat_map(|at| (f32::from(at) / 64.0 * level).to_ne_bytes());
    oip::ModelInferRequest {
        model_name: "digits".into(),
        inputs: vec![input],
        raw_input_contents: vec![values.collect::<Vec<u8>>().into()],
        ..Default::default()
    }
}

/// Hits and misses of the model.
async fn counted(oip: &mut Oip) -> (u64, u64) {
    let asked = oip::ModelStatisticsRequest { name: "digits".into(), version: String::new() };
    let told = oip.model_statistics(asked).await.unwrap().into_inner();
    let stats = told.model_stats[0].inference_stats.unwrap();
    let [hit, miss] = [stats.cache_hit.unwrap(), stats.cache_miss.unwrap()];
    assert_eq!((hit.count == 0, miss.count == 0), (hit.ns == 0, miss.ns == 0));
    (hit.count, miss.count)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_is_answered_without_a_run_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "[cache]\nbytes = 100_000");
    let server = start(folder.path()).await;
    let mut oip = Oip::new(server.channel.clone());
    let first = oip.model_infer(digit(1.0)).await.unwrap().into_inner();
    let other = oip.model_infer(digit(0.5)).await.unwrap().into_inner();
    assert_ne!(first.raw_output_contents, other.raw_output_contents);
    assert_eq!(counted(&mut oip).await, (0, 2));
    for (level, kept) in [(1.0, &first), (0.5, &other), (1.0, &first)] {
        let again = oip.model_infer(digit(level)).await.unwrap().into_inner();
        assert_eq!(
            (&again.outputs, &again.raw_output_contents),
            (&kept.outputs, &kept.raw_output_contents)
        );
    }
    assert_eq!(counted(&mut oip).await, (3, 2));
    assert_eq!(server.served("digits").pool.stats().served, 2);
    server.state.recorder.flush(LONG).await.unwrap();
    let sql = "SELECT count(*) FROM requests WHERE model = 'digits' AND status = 'ok' AND \
               unattributed_ns = 0 AND cached = (infer_ns IS NULL) GROUP BY cached ORDER BY cached";
    let query = v1::QueryRequest { sql: sql.into(), rows_max: 0 };
    let mut runs = v1::runs_client::RunsClient::new(server.channel.clone());
    let mut answers = runs.query(query).await.unwrap().into_inner();
    let rows = answers.message().await.unwrap().unwrap().rows;
    let counts: Vec<_> = rows.iter().map(|row| row.values[0].kind.clone()).collect();
    assert_eq!(counts, [2, 3].map(|count| Some(v1::value::Kind::Integer(count))));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_loaded_again_has_forgotten_and_one_without_a_table_keeps_nothing() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "[cache]\nbytes = 100_000");
    let server = start(folder.path()).await;
    let mut oip = Oip::new(server.channel.clone());
    let mut models = ModelsClient::new(server.channel.clone());
    let load = || v1::LoadModelRequest { name: "digits".into(), ..v1::LoadModelRequest::default() };
    for _ in 0..2 {
        oip.model_infer(digit(1.0)).await.unwrap();
    }
    assert_eq!(counted(&mut oip).await, (1, 1));
    put(folder.path(), "[cache]\nbytes = 200_000");
    models.load(load()).await.unwrap();
    oip.model_infer(digit(1.0)).await.unwrap();
    assert_eq!(counted(&mut oip).await, (0, 1));
    put(folder.path(), "");
    models.load(load()).await.unwrap();
    for _ in 0..2 {
        oip.model_infer(digit(1.0)).await.unwrap();
    }
    assert_eq!(counted(&mut oip).await, (0, 0));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tenant_finds_what_another_one_asked() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "[cache]\nbytes = 100_000");
    let path = folder.path().to_owned();
    let tenant = |name: &str| TenantConfig {
        name: name.into(),
        key: format!("key-{name}"),
        quota: Quota::default(),
        rate: None,
    };
    let server = Running::start(|config| {
        (config.models, config.tenants) = (Some(path), vec![tenant("a"), tenant("b")]);
    })
    .await;
    let mut oip = Oip::new(server.channel.clone());
    let mut answers = Vec::new();
    for key in ["key-a", "key-b", "key-a", "key-b"] {
        let mut request = Request::new(digit(1.0));
        request.metadata_mut().insert("ferry-key", key.parse().unwrap());
        answers.push(oip.model_infer(request).await.unwrap().into_inner().raw_output_contents);
    }
    assert!(answers.iter().all(|it| *it == answers[0]));
    let stats = server.served("digits").cache.as_ref().unwrap().stats();
    assert_eq!((stats.hits, stats.misses), (2, 2));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_draws_random_numbers_and_a_bound_without_meaning_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let field = |number: u8, payload: &[u8]| {
        [&[number << 3 | 2, u8::try_from(payload.len()).unwrap()], payload].concat()
    };
    // A graph with one node, which draws.
    let model = field(7, &field(1, &field(4, b"RandomUniform")));
    std::fs::write(folder.path().join("dice.onnx"), model).unwrap();
    std::fs::write(folder.path().join("dice.toml"), "[cache]\nbytes = 1000").unwrap();
    put(folder.path(), "[cache]\nbytes = 0");
    let server = start(folder.path()).await;
    let mut models = ModelsClient::new(server.channel.clone());
    let listed = models.list(v1::ListModelsRequest {}).await.unwrap().into_inner().models;
    for (name, why) in [("dice", "operator RandomUniform"), ("digits", "cache.bytes = 0")] {
        let model = listed.iter().find(|model| model.name == name).unwrap();
        assert!(model.error.contains(why), "{}", model.error);
    }
    server.stop().await;
}
