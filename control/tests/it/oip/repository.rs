//! Models of the folder, and the settings of the server.

use std::collections::HashMap;

use ferry_proto::oip;
use ferry_proto::oip::log_settings_request::setting_value::ParameterChoice as Log;
use ferry_proto::oip::model_repository_parameter::ParameterChoice;
use tonic::Code;

use super::{a_digit, client, put_digits};
use crate::common::Running;

fn load(name: &str, parameters: &[(&str, ParameterChoice)]) -> oip::RepositoryModelLoadRequest {
    let parameter = |(name, value): &(&str, ParameterChoice)| {
        let value = oip::ModelRepositoryParameter { parameter_choice: Some(value.clone()) };
        ((*name).to_owned(), value)
    };
    oip::RepositoryModelLoadRequest {
        repository_name: String::new(),
        model_name: name.into(),
        parameters: parameters.iter().map(parameter).collect(),
    }
}

fn unload(name: &str) -> oip::RepositoryModelUnloadRequest {
    let flag = Some(ParameterChoice::BoolParam(true));
    let flag = oip::ModelRepositoryParameter { parameter_choice: flag };
    oip::RepositoryModelUnloadRequest {
        repository_name: String::new(),
        model_name: name.into(),
        parameters: HashMap::from([("unload_dependents".into(), flag)]),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_unloaded_and_loaded() {
    let folder = tempfile::tempdir().unwrap();
    put_digits(folder.path());
    std::fs::write(folder.path().join("broken.onnx"), b"not a model").unwrap();
    let path = folder.path().to_owned();
    let server = Running::start(|config| config.models = Some(path)).await;
    let mut client = client(&server);
    let index = oip::RepositoryIndexRequest::default;
    let all = client.repository_index(index()).await.unwrap().into_inner().models;
    let states: Vec<_> = all.iter().map(|it| (it.name.as_str(), it.state.as_str())).collect();
    let expected = [("broken", "UNAVAILABLE"), ("digits", "READY"), ("echo", "READY")];
    assert_eq!(states, expected);
    assert!(all[0].reason.contains("broken.onnx"), "{}", all[0].reason);
    let ready = oip::RepositoryIndexRequest { ready: true, ..index() };
    let ready = client.repository_index(ready).await.unwrap().into_inner().models;
    assert_eq!(ready.len(), 2);

    client.repository_model_unload(unload("digits")).await.unwrap();
    let refused = client.model_infer(a_digit().0).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("with RepositoryModelLoad"), "{refused:?}");
    let all = client.repository_index(index()).await.unwrap().into_inner().models;
    assert_eq!((all[1].state.as_str(), all[1].reason.as_str()), ("UNAVAILABLE", "unloaded"));
    let config = ParameterChoice::StringParam(r#"{"name":"digits","backend":"tract"}"#.into());
    client.repository_model_load(load("digits", &[("config", config)])).await.unwrap();
    client.model_infer(a_digit().0).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_loaded_so_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    put_digits(folder.path());
    let path = folder.path().to_owned();
    let server = Running::start(|config| config.models = Some(path)).await;
    let mut client = client(&server);
    let text = |text: &str| ParameterChoice::StringParam(text.into());
    // Longer than any other message of this size: it is told what is wrong, and not how long it is.
    let file = ParameterChoice::BytesParam(vec![0; 1 << 20].into());
    for (asked, code, word) in [
        (load("none", &[]), Code::NotFound, "none"),
        (load("../x", &[]), Code::InvalidArgument, "model: "),
        (load("digits", &[("file:1/model.onnx", file)]), Code::Unimplemented, "file:1/model.onnx"),
        (
            load("digits", &[("config", text(r#"{"max_batch_size":-8}"#))]),
            Code::InvalidArgument,
            "max_batch_size",
        ),
        (load("digits", &[("config", text("{"))]), Code::InvalidArgument, "config: "),
        (load("digits", &[("other", text("x"))]), Code::Unimplemented, "\"other\""),
    ] {
        let refused = client.repository_model_load(asked).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused:?}");
        assert!(refused.message().contains(word), "{}", refused.message());
    }
    let named = "a repository".to_owned();
    let asked = oip::RepositoryIndexRequest { repository_name: named, ready: false };
    let refused = client.repository_index(asked).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    let built_in = client.repository_model_unload(unload("echo")).await.unwrap_err();
    assert_eq!(built_in.code(), Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_told_and_changes_refused_by_name() {
    let server = Running::start(|_| {}).await;
    let mut client = client(&server);
    let trace = |name: &str, value: &[&str]| {
        let value = value.iter().map(|&it| it.to_owned()).collect();
        let value = oip::trace_setting_request::SettingValue { value };
        let settings = HashMap::from([(name.to_owned(), value)]);
        oip::TraceSettingRequest { settings, model_name: String::new() }
    };
    let told = client.trace_setting(oip::TraceSettingRequest::default()).await.unwrap();
    assert_eq!(told.into_inner().settings["trace_level"].value, ["OFF"]);
    client.trace_setting(trace("trace_level", &["OFF"])).await.unwrap();
    client.trace_setting(trace("trace_rate", &[])).await.unwrap();
    let refused = client.trace_setting(trace("trace_level", &["TIMESTAMPS"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(refused.message().contains("trace_level"), "{}", refused.message());
    let refused = client.trace_setting(trace("nonsense", &[])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let of_model =
        |name: &str| oip::TraceSettingRequest { model_name: name.into(), ..Default::default() };
    client.trace_setting(of_model("echo")).await.unwrap();
    let refused = client.trace_setting(of_model("none")).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);

    let log = |name: &str, value: Log| {
        let value = oip::log_settings_request::SettingValue { parameter_choice: Some(value) };
        oip::LogSettingsRequest { settings: HashMap::from([(name.to_owned(), value)]) }
    };
    let told = client.log_settings(oip::LogSettingsRequest::default()).await.unwrap();
    assert_eq!(told.into_inner().settings.len(), 6);
    client.log_settings(log("log_format", Log::StringParam("default".into()))).await.unwrap();
    let asked = log("log_file", Log::StringParam("/tmp/elsewhere".into()));
    let refused = client.log_settings(asked).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(refused.message().contains("log_file"), "{}", refused.message());
    let refused = client.log_settings(log("nonsense", Log::BoolParam(true))).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    server.stop().await;
}
