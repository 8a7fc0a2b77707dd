//! Parameters: of a request, of an input, of an output that is asked for.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ferry_proto::oip::InferParameter;
use ferry_proto::oip::infer_parameter::ParameterChoice;

use crate::error::ApiError;
use crate::serving::regions::{RegionPart, Regions};
use crate::tenants::Tenant;

/// Of any message.
pub(super) type Parameters = HashMap<String, InferParameter>;

pub(super) const REGION: &str = "shared_memory_region";
pub(super) const OFFSET: &str = "shared_memory_offset";
pub(super) const BYTE_SIZE: &str = "shared_memory_byte_size";
pub(super) const FINAL_RESPONSE: &str = "triton_final_response";
const CLASSIFICATION: &str = "classification";
const EMPTY_FINAL_RESPONSE: &str = "triton_enable_empty_final_response";

/// What the parameters of a request say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OfRequest {
    /// The level that is named: 1 is the most urgent one, 0 none in particular.
    pub(super) priority: u64,
    pub(super) deadline: Option<Instant>,
}

pub(super) fn text(value: &str) -> InferParameter {
    of(ParameterChoice::StringParam(value.to_owned()))
}

pub(super) fn flag(value: bool) -> InferParameter {
    of(ParameterChoice::BoolParam(value))
}

/// A number of bytes; one that the protocol's signed numbers do not hold is cut.
pub(super) fn number(value: u64) -> InferParameter {
    of(ParameterChoice::Int64Param(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn of(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}

/// A parameter that may be absent and is a number from 0 on.
fn unsigned(all: &Parameters, name: &'static str) -> Result<Option<u64>, ApiError> {
    let Some(parameter) = all.get(name) else { return Ok(None) };
    let number = match parameter.parameter_choice {
        Some(ParameterChoice::Int64Param(number)) => u64::try_from(number).ok(),
        Some(ParameterChoice::Uint64Param(number)) => Some(number),
        _ => None,
    };
    let why = || ApiError::field(name, "give an int64_param or uint64_param from 0 on");
    number.map(Some).ok_or_else(why)
}

/// A parameter that may be absent and is a text.
fn string<'a>(all: &'a Parameters, name: &'static str) -> Result<Option<&'a str>, ApiError> {
    match all.get(name).map(|it| &it.parameter_choice) {
        None => Ok(None),
        Some(Some(ParameterChoice::StringParam(text))) => Ok(Some(text)),
        Some(_) => Err(ApiError::field(name, "give a string_param")),
    }
}

/// Reads the parameters of a request that came at `seen`. Those that the protocol does not know are
/// for the code of a model, which models here have none of.
///
/// # Errors
/// [`ApiError::Unsupported`] for a sequence and for names that are reserved, [`ApiError::Field`]
/// for values without a meaning.
pub(super) fn of_request(all: &Parameters, seen: Instant) -> Result<OfRequest, ApiError> {
    for (name, value) in all {
        let is_sequence =
            matches!(name.as_str(), "sequence_id" | "sequence_start" | "sequence_end");
        if is_sequence && !is_absence(value) {
            return Err(ApiError::Unsupported {
                what: name.clone(),
                why: "no model here keeps a state between requests: leave it out".into(),
            });
        }
        if name.starts_with("triton_") && name != EMPTY_FINAL_RESPONSE {
            let why = "names that begin with triton_ are the protocol's own: leave it out";
            return Err(ApiError::Unsupported { what: name.clone(), why: why.into() });
        }
    }
    if let Some(value) = all.get(EMPTY_FINAL_RESPONSE)
        && !matches!(value.parameter_choice, Some(ParameterChoice::BoolParam(_)))
    {
        return Err(ApiError::field(EMPTY_FINAL_RESPONSE, "give a bool_param"));
    }
    let priority = unsigned(all, "priority")?;
    // A time that no clock reaches is no limit.
    let until = |micros| seen.checked_add(Duration::from_micros(micros));
    Ok(OfRequest {
        priority: priority.unwrap_or_default(),
        deadline: unsigned(all, "timeout")?.filter(|&micros| micros > 0).and_then(until),
    })
}

/// Whether a parameter of a sequence says that there is none.
fn is_absence(value: &InferParameter) -> bool {
    match &value.parameter_choice {
        None => true,
        Some(ParameterChoice::BoolParam(flag)) => !flag,
        Some(ParameterChoice::Int64Param(number)) => *number == 0,
        Some(ParameterChoice::Uint64Param(number)) => *number == 0,
        Some(ParameterChoice::StringParam(text)) => text.is_empty(),
        Some(ParameterChoice::DoubleParam(_)) => false,
    }
}

/// The shared memory that a tensor's parameters name.
///
/// # Errors
/// [`ApiError::Field`] and [`ApiError::NotFound`] name what is wrong with it.
pub(super) fn region(
    all: &Parameters,
    regions: &Regions,
    tenant: &Tenant,
) -> Result<Option<RegionPart>, ApiError> {
    let (at, bytes) = (unsigned(all, OFFSET)?, unsigned(all, BYTE_SIZE)?);
    match (string(all, REGION)?, bytes) {
        (Some(name), Some(bytes)) => regions.part(tenant, name, at.unwrap_or(0), bytes).map(Some),
        (Some(_), None) => Err(ApiError::field(BYTE_SIZE, "it is not set beside a region")),
        (None, None) if at.is_none() => Ok(None),
        (None, _) => Err(ApiError::field(REGION, "it is not set beside an offset or a size")),
    }
}

/// How many classes an output is asked for; `None`: the tensor itself.
///
/// # Errors
/// [`ApiError::Field`] for what is no number of classes.
pub(super) fn classes(all: &Parameters) -> Result<Option<u64>, ApiError> {
    Ok(unsigned(all, CLASSIFICATION)?.filter(|&classes| classes > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, choice: ParameterChoice) -> Result<OfRequest, String> {
        let all = [(name.to_owned(), of(choice))].into();
        of_request(&all, Instant::now()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_priority_is_a_number_from_0_on() {
        let given = |level| read("priority", ParameterChoice::Uint64Param(level)).unwrap().priority;
        assert_eq!([0, 1, u64::MAX].map(given), [0, 1, u64::MAX]);
        let told = read("priority", ParameterChoice::Int64Param(-1)).unwrap_err();
        assert!(told.starts_with("priority: "), "{told}");
        assert!(read("priority", ParameterChoice::BoolParam(true)).is_err());
    }

    #[test]
    fn a_timeout_is_a_deadline_and_none_is_none() {
        let given = |micros| read("timeout", ParameterChoice::Int64Param(micros));
        assert_eq!(given(0).unwrap().deadline, None);
        assert!(given(5).unwrap().deadline.is_some());
        assert!(read("timeout", ParameterChoice::Uint64Param(u64::MAX)).is_ok());
        assert!(given(-5).is_err());
    }

    #[test]
    fn sequences_are_refused_by_name_and_their_absence_is_not() {
        let told = read("sequence_id", ParameterChoice::Int64Param(7)).unwrap_err();
        assert!(told.starts_with("sequence_id is not served"), "{told}");
        assert!(read("sequence_start", ParameterChoice::BoolParam(true)).is_err());
        assert!(read("sequence_end", ParameterChoice::StringParam("x".into())).is_err());
        assert!(read("sequence_start", ParameterChoice::BoolParam(false)).is_ok());
        assert!(read("sequence_id", ParameterChoice::StringParam(String::new())).is_ok());
    }

    #[test]
    fn reserved_names_are_refused_and_a_models_own_are_not() {
        assert!(read("triton_anything", ParameterChoice::BoolParam(true)).is_err());
        assert!(read(EMPTY_FINAL_RESPONSE, ParameterChoice::BoolParam(true)).is_ok());
        assert!(read(EMPTY_FINAL_RESPONSE, ParameterChoice::Int64Param(1)).is_err());
        assert!(read("temperature", ParameterChoice::DoubleParam(0.5)).is_ok());
    }
}
