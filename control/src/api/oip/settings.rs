//! Settings of tracing and of the log. All can be read; how much is logged can be changed, and the
//! others be set to what they are.

use std::collections::HashMap;
use std::mem::discriminant;

use ferry_proto::oip::log_settings_request as asked_log;
use ferry_proto::oip::log_settings_response::setting_value::ParameterChoice;
use ferry_proto::oip::{
    LogSettingsRequest, LogSettingsResponse, TraceSettingRequest, TraceSettingResponse,
    log_settings_response, trace_setting_response,
};
use tracing::level_filters::LevelFilter;

use super::offer::Offer;
use crate::error::ApiError;
use crate::host::log;
use crate::state::State;

/// What a trace is here: none. The times of every request are in SQL.
const TRACE: [(&str, &str); 6] = [
    ("trace_file", ""),
    ("trace_level", "OFF"),
    ("trace_rate", "1000"),
    ("trace_count", "-1"),
    ("log_frequency", "0"),
    ("trace_mode", "triton"),
];

/// The settings of tracing; those of a model are the same.
///
/// # Errors
/// [`ApiError::Unsupported`] names one that is to be changed, [`ApiError::Field`] one that is none.
/// As [`Offer::find`] if it names a model.
pub(super) fn trace(
    state: &State,
    asked: &TraceSettingRequest,
) -> Result<TraceSettingResponse, ApiError> {
    if !asked.model_name.is_empty() {
        Offer::find(state, &asked.model_name, "")?;
    }
    for (name, setting) in &asked.settings {
        let known = TRACE.iter().find(|(known, _)| known == name);
        let (_, is) = known.ok_or_else(|| unknown(name, &TRACE.map(|(known, _)| known)))?;
        // Nothing at all is the request to clear a setting.
        if !setting.value.iter().all(|value| value == is) {
            return Err(ApiError::Unsupported {
                what: format!("the setting {name}"),
                why: "the stages of every request are in the store already: ask it with \
                      Runs.Query (docs/SQL.md)"
                    .into(),
            });
        }
    }
    let setting = |(name, value): (&str, &str)| {
        let value = vec![value.to_owned()];
        (name.to_owned(), trace_setting_response::SettingValue { value })
    };
    Ok(TraceSettingResponse { settings: TRACE.map(setting).into() })
}

/// Changes how much is logged, if that is asked for; the settings of the log.
///
/// # Errors
/// As [`trace`], and [`ApiError::Field`] if the settings contradict each other.
pub(super) fn log(asked: LogSettingsRequest) -> Result<LogSettingsResponse, ApiError> {
    let settings = log_is();
    let (mut least, mut most) = (LevelFilter::OFF, LevelFilter::TRACE);
    for (name, value) in asked.settings {
        let is = settings.get(&name).ok_or_else(|| {
            let mut known: Vec<&str> = settings.keys().map(String::as_str).collect();
            known.sort_unstable();
            unknown(&name, &known)
        })?;
        let wanted = value.parameter_choice.map(choice);
        let (Some(is), Some(wanted)) = (&is.parameter_choice, wanted) else {
            return Err(ApiError::field("settings", format!("{name:?} has no value")));
        };
        if discriminant(is) != discriminant(&wanted) {
            return Err(ApiError::field("settings", format!("{name:?} has another type")));
        }
        if let Some((from, to)) = levels(&name, &wanted) {
            (least, most) = (least.max(from), most.min(to));
        } else if *is != wanted {
            return Err(ApiError::Unsupported {
                what: format!("the setting {name}"),
                why: "the log goes to stderr as lines while ferryd runs".into(),
            });
        }
    }
    if least > most {
        let why = format!(
            "a log up to {least} cannot be without what is more severe: it would end at {most}"
        );
        return Err(ApiError::field("settings", why));
    }
    log::set(log::level().clamp(least, most)).map_err(|why| ApiError::Unsupported {
        what: "another level of the log".to_owned(),
        why,
    })?;
    Ok(LogSettingsResponse { settings: log_is() })
}

/// Between which levels the log is with a setting; `None` if it says nothing of them.
fn levels(name: &str, wanted: &ParameterChoice) -> Option<(LevelFilter, LevelFilter)> {
    use ParameterChoice::{BoolParam as Is, Uint32Param as Number};
    Some(match (name, wanted) {
        ("log_error", Is(true)) => (LevelFilter::ERROR, LevelFilter::TRACE),
        ("log_error", Is(false)) => (LevelFilter::OFF, LevelFilter::OFF),
        ("log_warning", Is(true)) => (LevelFilter::WARN, LevelFilter::TRACE),
        ("log_warning", Is(false)) => (LevelFilter::OFF, LevelFilter::ERROR),
        ("log_info", Is(true)) => (LevelFilter::INFO, LevelFilter::TRACE),
        ("log_info", Is(false)) => (LevelFilter::OFF, LevelFilter::WARN),
        ("log_verbose_level", Number(0)) => (LevelFilter::OFF, LevelFilter::INFO),
        ("log_verbose_level", Number(1)) => (LevelFilter::DEBUG, LevelFilter::DEBUG),
        ("log_verbose_level", Number(_)) => (LevelFilter::TRACE, LevelFilter::TRACE),
        _ => return None,
    })
}

fn unknown(name: &str, known: &[&str]) -> ApiError {
    let why = format!("{name:?} is none; there are {}", known.join(", "));
    ApiError::field("settings", why)
}

fn choice(asked: asked_log::setting_value::ParameterChoice) -> ParameterChoice {
    use asked_log::setting_value::ParameterChoice as Asked;
    match asked {
        Asked::BoolParam(flag) => ParameterChoice::BoolParam(flag),
        Asked::Uint32Param(number) => ParameterChoice::Uint32Param(number),
        Asked::StringParam(text) => ParameterChoice::StringParam(text),
    }
}

fn log_is() -> HashMap<String, log_settings_response::SettingValue> {
    let level = log::level();
    let told = |at: LevelFilter| ParameterChoice::BoolParam(level >= at);
    let text = |text: &str| ParameterChoice::StringParam(text.to_owned());
    let verbose = u32::from(level >= LevelFilter::DEBUG) + u32::from(level >= LevelFilter::TRACE);
    let all = [
        ("log_file", text("")),
        ("log_info", told(LevelFilter::INFO)),
        ("log_warning", told(LevelFilter::WARN)),
        ("log_error", told(LevelFilter::ERROR)),
        ("log_verbose_level", ParameterChoice::Uint32Param(verbose)),
        ("log_format", text("default")),
    ];
    let setting = |(name, choice): (&str, _)| {
        let parameter_choice = Some(choice);
        (name.to_owned(), log_settings_response::SettingValue { parameter_choice })
    };
    all.map(setting).into()
}
