//! How often a tenant may ask a model: the same over every way in.

use std::path::Path;

use ferry_control::host::rate::Rate;
use ferry_control::tenants::{Quota, TenantConfig};
use ferry_core::{Status, Transport};
use ferry_proto::v1;
use ferry_proto::v1::inference_client::InferenceClient;
use ferry_proto::v1::models_client::ModelsClient;
use tonic::{Code, Request};

use crate::common::{LONG, Running, ask};

fn put(folder: &Path, limits: &str) {
    std::fs::write(folder.join("digits.onnx"), ferry_zoo::digits::onnx()).unwrap();
    std::fs::write(folder.join("digits.toml"), format!("engine = 'tract'\n{limits}")).unwrap();
}

fn ask_digits(transport: Transport) -> v1::OpenSessionRequest {
    v1::OpenSessionRequest { model: "digits".into(), shapes: Vec::new(), ..ask(transport, 1, 1) }
}

fn inline() -> v1::InferRequest {
    v1::InferRequest { model: "digits".into(), payload: vec![0; 256].into(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_the_rate_of_a_model_is_refused_with_the_rate_and_when_to_try_again() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "[limits]\nrequests_per_s = 0.01\nburst = 4");
    let path = folder.path().to_owned();
    let server = Running::start(|config| config.models = Some(path)).await;
    let mut inference = InferenceClient::new(server.channel.clone());
    let mut sessions = Vec::new();
    for transport in [Transport::Shm, Transport::Tcp, Transport::Zmq] {
        sessions.push(server.client(ask_digits(transport)).await);
    }
    for session in &mut sessions {
        assert_eq!(session.infer(&[0; 256]).0, Status::Ok);
    }
    inference.infer(inline()).await.unwrap();
    for session in &mut sessions {
        let (status, text) = session.infer(&[0; 256]);
        let text = String::from_utf8(text).unwrap();
        assert_eq!(status, Status::RateLimited, "{text}");
        assert!(text.contains("0.01 requests a second, 4 at once"), "{text}");
        assert!(text.contains("tenant default") && text.contains("try again in"), "{text}");
    }
    let refused = inference.infer(inline()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("try again in"), "{refused:?}");
    assert_eq!(server.served("digits").pool.stats().served, 4);
    server.state.recorder.flush(LONG).await.unwrap();
    let sql = "SELECT count(*) FROM requests WHERE status = 'rate_limited'";
    let query = v1::QueryRequest { sql: sql.into(), rows_max: 0 };
    let mut runs = v1::runs_client::RunsClient::new(server.channel.clone());
    let mut answers = runs.query(query).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    // Those of the sessions are stored by the server too: their clients do not record.
    assert_eq!(answer.rows[0].values[0].kind, Some(v1::value::Kind::Integer(4)));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_tenant_has_its_own_rate_and_one_for_all_models_together() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "[limits]\nrequests_per_s = 0.01\nburst = 2");
    let path = folder.path().to_owned();
    let tenant = |name: &str, rate| TenantConfig {
        name: name.into(),
        key: format!("key-{name}"),
        quota: Quota::default(),
        rate,
    };
    let rate = Some(Rate::new(0.01, Some(1)).unwrap());
    let server = Running::start(|config| {
        (config.models, config.tenants) = (Some(path), vec![tenant("a", None), tenant("b", rate)]);
    })
    .await;
    let mut inference = InferenceClient::new(server.channel.clone());
    let mut told = Vec::new();
    for key in ["key-a", "key-b", "key-b", "key-a", "key-a"] {
        let mut request = Request::new(inline());
        request.metadata_mut().insert("ferry-key", key.parse().unwrap());
        told.push(inference.infer(request).await.err().map(|it| it.message().to_owned()));
    }
    let [None, None, Some(all), None, Some(one)] = &told[..] else { panic!("{told:?}") };
    assert!(all.contains("tenant b") && all.contains("all models together"), "{all}");
    assert!(one.contains("tenant a") && one.contains("this model"), "{one}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_without_a_meaning_fails_its_model_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "[limits]\nrequests_per_s = 0");
    let path = folder.path().to_owned();
    let server = Running::start(|config| config.models = Some(path)).await;
    let mut models = ModelsClient::new(server.channel.clone());
    let listed = models.list(v1::ListModelsRequest {}).await.unwrap().into_inner().models;
    let model = listed.iter().find(|model| model.name == "digits").unwrap();
    assert!(model.error.contains("limits: 0 requests a second"), "{}", model.error);
    server.stop().await;
}
