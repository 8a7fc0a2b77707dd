//! The models of the folder: listed, loaded, unloaded.

use std::sync::Arc;

use ferry_proto::oip::model_repository_parameter::ParameterChoice;
use ferry_proto::oip::repository_index_response::ModelIndex;
use ferry_proto::oip::{
    RepositoryIndexRequest, RepositoryModelLoadRequest, RepositoryModelUnloadRequest,
};
use serde_json::Value;

use crate::api::{models, told};
use crate::error::ApiError;
use crate::models::{Listed, State as ModelState};
use crate::state::State;
use crate::tenants::Identity;

/// Every model, or those that serve.
///
/// # Errors
/// [`ApiError::Unsupported`] if a repository is named.
pub(super) fn index(
    state: &State,
    who: &Identity,
    asked: &RepositoryIndexRequest,
) -> Result<Vec<ModelIndex>, ApiError> {
    check_repository(&asked.repository_name)?;
    let one = |listed: Listed| {
        let (is_ready, reason) = match listed.state {
            ModelState::Loaded(_) => (true, String::new()),
            ModelState::Available => (false, "unloaded".to_owned()),
            ModelState::Failed(why) => (false, told::why(state, who, why)),
        };
        (is_ready || !asked.ready).then(|| ModelIndex {
            name: listed.name,
            version: listed.version.to_string(),
            state: if is_ready { "READY" } else { "UNAVAILABLE" }.to_owned(),
            reason,
        })
    };
    Ok(state.models.list().into_iter().filter_map(one).collect())
}

/// Loads the latest version of a model.
///
/// # Errors
/// [`ApiError::Unsupported`] names a parameter that is not honoured; else as
/// [`Models::load`](crate::models::Models::load).
pub(super) async fn load(
    state: &Arc<State>,
    asked: RepositoryModelLoadRequest,
) -> Result<(), ApiError> {
    let RepositoryModelLoadRequest { repository_name, model_name, parameters } = asked;
    check_repository(&repository_name)?;
    for (name, value) in &parameters {
        match (name.as_str(), &value.parameter_choice) {
            ("config", Some(ParameterChoice::StringParam(config))) => {
                check_config(&model_name, config)?;
            }
            ("config", _) => return Err(ApiError::field("config", "give a string_param")),
            (file, _) if file.starts_with("file:") => {
                return Err(ApiError::Unsupported {
                    what: format!("the parameter {file:?}"),
                    why: "a model is code, and only the server's own folder holds what it runs: \
                          put the file there and load the model again"
                        .into(),
                });
            }
            (other, _) => return Err(unsupported(other)),
        }
    }
    models::load(state, &model_name, 0, None).await.map(drop)
}

/// Takes all versions of a model out of service.
///
/// # Errors
/// As [`load`], and as [`Models::unload`](crate::models::Models::unload).
pub(super) async fn unload(
    state: &Arc<State>,
    asked: RepositoryModelUnloadRequest,
) -> Result<(), ApiError> {
    check_repository(&asked.repository_name)?;
    for (name, value) in &asked.parameters {
        match (name.as_str(), &value.parameter_choice) {
            // No model here depends on another.
            ("unload_dependents", Some(ParameterChoice::BoolParam(_))) => {}
            (other, _) => return Err(unsupported(other)),
        }
    }
    models::unload(state, &asked.model_name, 0).await
}

fn check_repository(name: &str) -> Result<(), ApiError> {
    if name.is_empty() {
        return Ok(());
    }
    Err(ApiError::Unsupported {
        what: format!("the repository {name:?}"),
        why: "there is one folder of models, which has no name: leave it empty".into(),
    })
}

fn unsupported(parameter: &str) -> ApiError {
    ApiError::Unsupported {
        what: format!("the parameter {parameter:?}"),
        why: "it has no meaning here with this type: leave it out".into(),
    }
}

/// Whether a configuration says nothing that the model's TOML would have to say.
fn check_config(model: &str, config: &str) -> Result<(), ApiError> {
    let wrong = |why: String| ApiError::field("config", why);
    let parsed = serde_json::from_str(config).map_err(|error| wrong(error.to_string()))?;
    let Value::Object(keys) = parsed else {
        return Err(wrong("it is no JSON object".into()));
    };
    match keys.get("name") {
        None => {}
        Some(Value::String(name)) if name == model => {}
        Some(other) => return Err(wrong(format!("name is {other}, and the model is {model:?}"))),
    }
    match keys.iter().find(|(key, value)| *key != "name" && !is_nothing(value)) {
        None => Ok(()),
        Some((key, _)) => Err(ApiError::Unsupported {
            what: format!("the configuration's {key}"),
            why: "a model is configured by its TOML in the folder: change that and load it again"
                .into(),
        }),
    }
}

/// What a message without this field would say.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(all) => all.is_empty(),
        Value::Object(all) => all.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(config: &str) -> Result<(), String> {
        check_config("m", config).map_err(|error| error.to_string())
    }

    #[test]
    fn a_configuration_that_says_nothing_is_taken_and_each_other_named() {
        for config in ["{}", r#"{"name":"m"}"#, r#"{"name":"m","max_batch_size":0,"input":[]}"#] {
            told(config).unwrap();
        }
        for (config, word) in [
            (r#"{"max_batch_size":8}"#, "max_batch_size"),
            (r#"{"instance_group":[{"count":2}]}"#, "instance_group"),
            (r#"{"name":"other"}"#, "other"),
            ("[]", "no JSON object"),
            ("{", "EOF"),
        ] {
            let told = told(config).unwrap_err();
            assert!(told.contains(word), "{told}");
        }
        // serde_json bounds how deep values nest.
        assert!(told(&"[".repeat(100_000)).unwrap_err().contains("recursion"));
    }
}
