//! An inference: from JSON, and bytes behind it, to the message that gRPC would have brought.

use bytes::Bytes;
use ferry_core::DType;
use ferry_proto::oip::infer_parameter::ParameterChoice;
use ferry_proto::oip::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use ferry_proto::oip::{InferParameter, ModelInferRequest};

use super::body::{Hold, Message};
use super::call::{Answer, Call, bad_json, check_object};
use super::json::{Input, Output, Request};
use super::outputs::{self, Form};
use super::refused::Refused;
use super::router::head_bytes;
use super::{numbers, raw, work};
use crate::api::oip::offer::Offer;
use crate::api::oip::parameters::{Parameters, REGION};
use crate::api::oip::service;

pub(super) const BINARY_BYTES: &str = "binary_data_size";
const BINARY: &str = "binary_data";
const BINARY_ALL: &str = "binary_data_output";

/// Serves it.
pub(super) async fn infer(call: Call) -> Answer {
    let (model, version) = (call.name("model").to_owned(), call.name("version").to_owned());
    // Told before anything about the message, as over gRPC.
    let offer = Offer::find(call.state(), &model, &version)?;
    let Call { http, identity, caller, headers, message, seen, .. } = call;
    let tenant = identity.tenant().ok_or(crate::error::ApiError::Key)?;
    let (asked, form, hold) = if head_bytes(&headers)? == Some(0) {
        let Message { rest, hold, .. } = message;
        (raw::request(&offer, version, rest)?, Form { all: Some(true), of: Vec::new() }, hold)
    } else {
        let is_long = message.head.len() > work::SHORT;
        http.work.run_if(is_long, move || read(model, version, message)).await??
    };
    let made = service::infer(&http.state, tenant, asked, seen).await?;
    // The message is not needed any more.
    drop(hold);
    outputs::answer(&http, &caller, made, &form, &headers).await
}

/// Reads a request: its message, and how its outputs are to be written.
fn read(
    model_name: String,
    model_version: String,
    message: Message,
) -> Result<(ModelInferRequest, Form, Hold), Refused> {
    let Message { head, rest, mut hold } = message;
    check_object(&head)?;
    let quoted;
    let request = match serde_json::from_slice(&head) {
        Ok(request) => request,
        Err(error) => {
            quoted = numbers::quoted(&head, &mut hold)?.ok_or_else(|| bad_json(&error))?;
            serde_json::from_slice(&quoted).map_err(|error| bad_json(&error))?
        }
    };
    let Request { id, mut parameters, inputs, outputs } = request;
    let mut form = Form { all: flag(&mut parameters, BINARY_ALL)?, of: Vec::new() };
    let outputs = outputs.into_iter().map(|output| {
        let Output { name, mut parameters } = output;
        if let Some(flag) = flag(&mut parameters, BINARY)? {
            form.of.push((name.clone(), flag));
        }
        Ok(InferRequestedOutputTensor { name, parameters })
    });
    let outputs = outputs.collect::<Result<_, Refused>>()?;
    let (mut tensors, mut raw, mut rest) = (Vec::new(), Vec::new(), rest);
    for input in inputs {
        let (tensor, bytes) = self::input(input, &mut rest, &mut hold)?;
        tensors.push(tensor);
        raw.extend(bytes);
    }
    if !rest.is_empty() {
        let why = format!("{} bytes behind those that {BINARY_BYTES} tells of", rest.len());
        return Err(Refused::bad(why));
    }
    let asked = ModelInferRequest {
        model_name,
        model_version,
        id,
        parameters,
        inputs: tensors,
        outputs,
        raw_input_contents: raw,
    };
    Ok((asked, form, hold))
}

/// An input, and its bytes if it is not in shared memory.
fn input(
    input: Input<'_>,
    rest: &mut Bytes,
    hold: &mut Hold,
) -> Result<(InferInputTensor, Option<Bytes>), Refused> {
    let Input { name, datatype, shape, mut parameters, data } = input;
    let behind = binary_bytes(&name, &mut parameters)?;
    let is_in_region = parameters.contains_key(REGION);
    if usize::from(is_in_region) + usize::from(behind.is_some()) + usize::from(data.is_some()) != 1
    {
        let why = format!("{name:?}: give one of data, {BINARY_BYTES} and {REGION}");
        return Err(Refused::bad(format!("inputs: {why}")));
    }
    // What no model has is refused by its name, whatever the bytes are.
    let sizes = shape.iter().map(|&size| u64::try_from(size).ok()).collect::<Option<Vec<u64>>>();
    let known = datatype.parse::<DType>().ok().zip(sizes);
    let bytes = match (behind, data, &known) {
        (Some(bytes), _, _) => {
            let left = rest.len();
            if bytes > left {
                let why = format!("{name:?} says {bytes}, and {left} are left behind the JSON");
                return Err(Refused::bad(format!("{BINARY_BYTES}: {why}")));
            }
            if let Some((dtype, sizes)) = &known
                && dtype.bytes_of(sizes) != bytes as u64
            {
                let needs = dtype.bytes_of(sizes);
                let why = format!("{name:?} has {bytes}; {dtype} {sizes:?} takes {needs}");
                return Err(Refused::bad(format!("{BINARY_BYTES}: {why}")));
            }
            Some(rest.split_to(bytes))
        }
        (None, Some(data), Some((dtype, sizes))) => {
            let count = sizes.iter().fold(1_u64, |all, &size| all.saturating_mul(size));
            Some(numbers::bytes_of(&name, *dtype, count, data, hold)?.into())
        }
        (None, Some(_), None) => Some(Bytes::new()),
        (None, None, _) => None,
    };
    Ok((InferInputTensor { name, datatype, shape, parameters, contents: None }, bytes))
}

fn binary_bytes(name: &str, parameters: &mut Parameters) -> Result<Option<usize>, Refused> {
    let Some(InferParameter { parameter_choice }) = parameters.remove(BINARY_BYTES) else {
        return Ok(None);
    };
    let bytes = match parameter_choice {
        Some(ParameterChoice::Int64Param(bytes)) => usize::try_from(bytes).ok(),
        _ => None,
    };
    let why = || Refused::bad(format!("{BINARY_BYTES}: {name:?}: give a number from 0 on"));
    bytes.map(Some).ok_or_else(why)
}

/// A parameter that is a truth value and of this protocol alone.
fn flag(parameters: &mut Parameters, name: &str) -> Result<Option<bool>, Refused> {
    match parameters.remove(name).map(|it| it.parameter_choice) {
        None => Ok(None),
        Some(Some(ParameterChoice::BoolParam(flag))) => Ok(Some(flag)),
        Some(_) => Err(Refused::bad(format!("{name}: give true or false"))),
    }
}
