//! The models of the folder: listed, loaded, unloaded.

use std::sync::Arc;

use ferry_proto::oip::model_repository_parameter::ParameterChoice;
use ferry_proto::oip::repository_index_response::ModelIndex;
use ferry_proto::oip::{
    RepositoryIndexRequest, RepositoryModelLoadRequest, RepositoryModelUnloadRequest,
};

use crate::api::{models, told};
use crate::error::ApiError;
use crate::models::{Given, Listed, ModelError, State as ModelState};
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
        let aliases = match listed.aliases().join(", ") {
            none if none.is_empty() => None,
            names => Some(format!("also called {names}")),
        };
        let notes = listed.notes.into_iter().chain(aliases).collect::<Vec<_>>().join("; ");
        let (is_ready, reason) = match listed.state {
            ModelState::Loaded(_) => (true, notes),
            ModelState::Absent(_) => {
                let why = "absent: it made room for others, and is loaded when it is asked for";
                (
                    true,
                    [why, &notes]
                        .into_iter()
                        .filter(|it| !it.is_empty())
                        .collect::<Vec<_>>()
                        .join("; "),
                )
            }
            ModelState::Available if notes.is_empty() => (false, "unloaded".to_owned()),
            ModelState::Available => (false, notes),
            ModelState::Failed(why) => (false, why),
        };
        let reason = told::why(state, who, reason);
        (is_ready || !asked.ready).then(|| ModelIndex {
            name: listed.name,
            version: listed.version.to_string(),
            state: if is_ready { "READY" } else { "UNAVAILABLE" }.to_owned(),
            reason,
        })
    };
    Ok(state.models.list().into_iter().filter_map(one).collect())
}

/// Loads a model, as its folder or the configuration that comes with the call says.
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
    let mut given = None;
    for (name, value) in &parameters {
        match (name.as_str(), &value.parameter_choice) {
            ("config", Some(ParameterChoice::StringParam(config))) => {
                given = Some(Given::Json(config.as_str().into()));
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
    models::load(state, &model_name, 0, given).await.map(drop)
}

/// Takes all versions of a model out of service. One that is not there is not in service: clients
/// that clean up count on that, since Triton says so.
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
    match models::unload(state, &asked.model_name, 0).await {
        // An alias serves on.
        Err(ApiError::Model(ModelError::NotFound { .. }))
            if state.models.get(&asked.model_name, 0).is_err() =>
        {
            Ok(())
        }
        unloaded => unloaded,
    }
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
