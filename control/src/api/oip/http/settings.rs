//! What only the operator does: models come and go, settings are told.

use std::collections::HashMap;

use ferry_proto::oip;
use ferry_proto::oip::log_settings_request as log_asked;
use ferry_proto::oip::log_settings_request::setting_value::ParameterChoice as LogChoice;
use ferry_proto::oip::log_settings_response::setting_value::ParameterChoice as LogTold;
use ferry_proto::oip::model_repository_parameter::ParameterChoice as ModelChoice;
use ferry_proto::oip::trace_setting_request as trace_asked;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::call::{self, Answer, Call};
use super::refused::Refused;
use crate::api::oip::{repository, settings};

/// What is said along with a model.
#[derive(Debug, Deserialize)]
struct Along {
    #[serde(default)]
    parameters: Map<String, Value>,
}

/// The parameters of a model: configurations and files as text, others as they are.
fn along(call: &Call) -> Result<HashMap<String, oip::ModelRepositoryParameter>, Refused> {
    let Along { parameters } = call.json()?;
    let one = |(name, value): (String, Value)| {
        let choice = match value {
            Value::Bool(flag) => ModelChoice::BoolParam(flag),
            Value::String(text) => ModelChoice::StringParam(text),
            Value::Number(number) if number.is_i64() => {
                ModelChoice::Int64Param(number.as_i64().unwrap_or_default())
            }
            _ => {
                let why = "give a boolean, a whole number or a text";
                return Err(Refused::bad(format!("parameters: {name:?}: {why}")));
            }
        };
        Ok((name, oip::ModelRepositoryParameter { parameter_choice: Some(choice) }))
    };
    parameters.into_iter().map(one).collect()
}

pub(super) async fn load(call: Call) -> Answer {
    let asked = oip::RepositoryModelLoadRequest {
        repository_name: call.name("repository").to_owned(),
        model_name: call.name("model").to_owned(),
        parameters: along(&call)?,
    };
    repository::load(call.state(), asked).await?;
    call::empty()
}

pub(super) async fn unload(call: Call) -> Answer {
    let asked = oip::RepositoryModelUnloadRequest {
        repository_name: call.name("repository").to_owned(),
        model_name: call.name("model").to_owned(),
        parameters: along(&call)?,
    };
    repository::unload(call.state(), asked).await?;
    call::empty()
}

/// Tells the settings of tracing, after those of the message are looked at.
pub(super) async fn trace(call: Call) -> Answer {
    let asked: Map<String, Value> = call.json()?;
    let setting = |(name, value): (String, Value)| {
        let texts = match value {
            // Clears it.
            Value::Null => Some(Vec::new()),
            Value::Array(all) => all.into_iter().map(text).collect(),
            other => text(other).map(|text| vec![text]),
        };
        let why = || Refused::bad(format!("settings: {name:?}: give a text, or a list of texts"));
        let value = texts.ok_or_else(why)?;
        Ok((name, trace_asked::SettingValue { value }))
    };
    let settings = asked.into_iter().map(setting).collect::<Result<_, Refused>>()?;
    let model_name = call.name("model").to_owned();
    let told = settings::trace(call.state(), &oip::TraceSettingRequest { settings, model_name })?;
    let one = |(name, mut it): (String, oip::trace_setting_response::SettingValue)| {
        // The only one of which there may be several.
        let value = match it.value.pop() {
            Some(value) if name != "trace_level" => json!(value),
            last => json!(it.value.into_iter().chain(last).collect::<Vec<_>>()),
        };
        (name, value)
    };
    call::json(&told.settings.into_iter().map(one).collect::<Map<_, _>>())
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Tells the settings of the log, after those of the message are looked at.
pub(super) async fn log(call: Call) -> Answer {
    let asked: Map<String, Value> = call.json()?;
    let setting = |(name, value): (String, Value)| {
        let choice = match &value {
            Value::Bool(flag) => Some(LogChoice::BoolParam(*flag)),
            Value::String(text) => Some(LogChoice::StringParam(text.clone())),
            other => other.as_u64().and_then(|it| it.try_into().ok()).map(LogChoice::Uint32Param),
        };
        let why = || Refused::bad(format!("settings: {name:?}: {value} is no setting of the log"));
        let parameter_choice = Some(choice.ok_or_else(why)?);
        Ok((name, log_asked::SettingValue { parameter_choice }))
    };
    let settings = asked.into_iter().map(setting).collect::<Result<_, Refused>>()?;
    let told = settings::log(oip::LogSettingsRequest { settings })?;
    let one = |(name, it): (String, oip::log_settings_response::SettingValue)| {
        let value = match it.parameter_choice? {
            LogTold::BoolParam(flag) => json!(flag),
            LogTold::Uint32Param(number) => json!(number),
            LogTold::StringParam(text) => json!(text),
        };
        Some((name, value))
    };
    call::json(&told.settings.into_iter().filter_map(one).collect::<Map<_, _>>())
}
