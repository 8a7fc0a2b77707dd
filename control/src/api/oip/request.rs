//! What an inference asks for: from its message to a request that any protocol could have brought.

use std::sync::Arc;

use bytes::Bytes;
use ferry_core::{DType, Request, RequestKind, Signature, TensorSpec};
use ferry_proto::oip::ModelInferRequest;
use ferry_proto::oip::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};

use super::offer::Offer;
use super::{contents, parameters};
use crate::api::from_wire::OUTPUTS_BYTES_MAX;
use crate::error::ApiError;
use crate::models::Used;
use crate::serving::inline::{Came, Contents, InMessage, InlineRequest, InlineTensor};
use crate::serving::regions::{RegionPart, Regions};
use crate::state::State;
use crate::tenants::Tenant;

/// An inference that has a meaning.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) offer: Offer,
    /// With the names, types and shapes of the offer.
    pub(super) inline: InlineRequest,
    pub(super) id: String,
    /// The outputs, in the order of the answer.
    pub(super) outputs: Vec<Wanted>,
}

/// An output that is asked for.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) to: To,
}

/// Where an output goes, and as what.
#[derive(Debug)]
pub(super) enum To {
    Message,
    Region(RegionPart),
    /// So many of its largest elements, with their labels.
    Classes(u64),
}

/// Where inputs and outputs may lie.
#[derive(Clone, Copy)]
struct Memory<'a> {
    regions: &'a Regions,
    tenant: &'a Tenant,
}

impl Memory<'_> {
    fn region(&self, all: &parameters::Parameters) -> Result<Option<RegionPart>, ApiError> {
        parameters::region(all, self.regions, self.tenant)
    }
}

/// Reads an inference. A model that made room is brought back into memory for it.
///
/// # Errors
/// [`ApiError`] names the field that has no meaning, and what would have one.
pub(super) async fn read(
    state: &State,
    tenant: &Arc<Tenant>,
    message: ModelInferRequest,
    came: Came,
) -> Result<(Asked, Used), ApiError> {
    let ModelInferRequest { model_name, model_version, id, parameters, .. } = message;
    // Told before anything about the message, and before a model is brought back for it.
    Offer::find(state, &model_name, &model_version)?;
    let of_request = parameters::of_request(&parameters, came.seen)?;
    let until = came.until(of_request.deadline).deadline;
    let (offer, used) = Offer::take(state, tenant, (&model_name, &model_version), until).await?;
    let memory = Memory { regions: &state.regions, tenant };
    let inputs = inputs(&offer, memory, message.inputs, message.raw_input_contents)?;
    if offer.profile.batch_max().is_some() {
        as_many_rows(&inputs)?;
    }
    let outputs = outputs(&offer, memory, message.outputs)?;
    let first = inputs.first().and_then(|input| input.shape.first());
    let items =
        first.filter(|_| offer.profile.batch_max().is_some()).map_or(1, |&items| items.max(1));
    let what = Request {
        batch: u32::try_from(items).unwrap_or(u32::MAX),
        priority: offer.profile.metadata.queue.priority(of_request.priority),
        ..Request::of(RequestKind::Tensor)
    };
    let inline = InlineRequest {
        model: model_name,
        version: offer.profile.version,
        what,
        inputs,
        payload: Bytes::new(),
        shapes: Vec::new(),
        deadline: of_request.deadline,
        reply_to: match outputs.as_slice() {
            [Wanted { to: To::Region(part), .. }] => Some(part.clone()),
            _ => None,
        },
        in_message: InMessage {
            outputs: Some(in_message(offer.signature(), &outputs)),
            bytes_max: OUTPUTS_BYTES_MAX,
        },
    };
    Ok((Asked { offer, inline, id, outputs }, used))
}

fn inputs(
    offer: &Offer,
    memory: Memory<'_>,
    given: Vec<InferInputTensor>,
    raw: Vec<Bytes>,
) -> Result<Vec<InlineTensor<Contents>>, ApiError> {
    let wanted = &offer.signature().inputs;
    let entries = raw.len();
    let mut raw = raw.into_iter();
    let mut inputs: Vec<InlineTensor<Contents>> = Vec::with_capacity(wanted.len());
    for input in given {
        let spec = wanted.iter().find(|spec| spec.name == input.name);
        let spec = spec.ok_or_else(|| unknown("inputs.name", &input.name, wanted))?;
        if inputs.iter().any(|known| known.name == input.name) {
            return Err(ApiError::field("inputs.name", format!("{:?} twice", input.name)));
        }
        inputs.push(self::input(spec, memory, input, &mut raw, entries > 0)?);
    }
    if raw.next().is_some() {
        let why = format!("{entries} entries; one is for each input that is not in shared memory");
        return Err(ApiError::field("raw_input_contents", why));
    }
    let is_there = |spec: &&TensorSpec| inputs.iter().any(|input| input.name == spec.name);
    match wanted.iter().find(|spec| !is_there(spec)) {
        None => Ok(inputs),
        Some(missing) => {
            let why = format!("{missing} is missing; the model takes {}", list(wanted));
            Err(ApiError::field("inputs", why))
        }
    }
}

/// That the inputs of a model with a batch have as many rows each.
fn as_many_rows(inputs: &[InlineTensor<Contents>]) -> Result<(), ApiError> {
    let rows = |input: &InlineTensor<Contents>| input.shape.first().copied().unwrap_or_default();
    let Some(first) = inputs.first() else { return Ok(()) };
    match inputs.iter().find(|it| rows(it) != rows(first)) {
        None => Ok(()),
        Some(other) => {
            let why = format!(
                "{:?} has {} rows, and {:?} has {}: a request has as many rows in each input",
                first.name,
                rows(first),
                other.name,
                rows(other)
            );
            Err(ApiError::field("inputs.shape", why))
        }
    }
}

fn input(
    spec: &TensorSpec,
    memory: Memory<'_>,
    given: InferInputTensor,
    raw: &mut impl Iterator<Item = Bytes>,
    is_raw: bool,
) -> Result<InlineTensor<Contents>, ApiError> {
    let InferInputTensor { name, datatype, shape, parameters, contents } = given;
    let dtype = dtype(&name, &datatype, spec.dtype)?;
    let size = |&size: &i64| u64::try_from(size).ok();
    let sizes = shape.iter().map(size).collect::<Option<Vec<u64>>>().ok_or_else(|| {
        ApiError::field("inputs.shape", format!("{name:?} has {shape:?}; sizes are 0 or more"))
    })?;
    let both = |what: &str| {
        let why = format!("{name:?} has contents and {what}: give one of them");
        ApiError::field("inputs.contents", why)
    };
    let contents = match (memory.region(&parameters)?, contents) {
        (Some(_), Some(_)) => return Err(both("shared memory")),
        (None, Some(_)) if is_raw => return Err(both("raw_input_contents")),
        (Some(region), None) => Contents::Region(region),
        (None, Some(contents)) => contents::bytes_of(&name, dtype, contents)?.into(),
        (None, None) => raw.next().map(Contents::from).ok_or_else(|| {
            let why = format!("{name:?} has none, and no contents and no shared memory either");
            ApiError::field("raw_input_contents", why)
        })?,
    };
    let (has, needs) = (contents.bytes(), dtype.bytes_of(&sizes));
    if has != needs {
        let field = match contents {
            Contents::Message(_) if is_raw => "raw_input_contents",
            Contents::Message(_) => "inputs.contents",
            Contents::Region(_) => parameters::BYTE_SIZE,
        };
        let why = format!("{name:?} has {has} bytes; {dtype} {sizes:?} takes {needs}");
        return Err(ApiError::field(field, why));
    }
    Ok(InlineTensor { name, dtype, shape: sizes, contents })
}

fn dtype(name: &str, given: &str, wanted: DType) -> Result<DType, ApiError> {
    if given == wanted.name() {
        return Ok(wanted);
    }
    let why = match given {
        "BYTES" => "BYTES is for texts, which no model here takes".to_owned(),
        _ => format!("{given:?} is not its type"),
    };
    let why = format!("{name:?}: {why}; it is {wanted}");
    Err(ApiError::field("inputs.datatype", why))
}

fn outputs(
    offer: &Offer,
    memory: Memory<'_>,
    given: Vec<InferRequestedOutputTensor>,
) -> Result<Vec<Wanted>, ApiError> {
    let all = &offer.signature().outputs;
    if given.is_empty() {
        let whole = |spec: &TensorSpec| Wanted { name: spec.name.clone(), to: To::Message };
        return Ok(all.iter().map(whole).collect());
    }
    let mut outputs: Vec<Wanted> = Vec::with_capacity(all.len());
    for InferRequestedOutputTensor { name, parameters } in given {
        if !all.iter().any(|spec| spec.name == name) {
            return Err(unknown("outputs.name", &name, all));
        }
        if outputs.iter().any(|known| known.name == name) {
            return Err(ApiError::field("outputs.name", format!("{name:?} twice")));
        }
        let to = match (memory.region(&parameters)?, parameters::classes(&parameters)?) {
            (None, None) => To::Message,
            (Some(region), None) => To::Region(region),
            (None, Some(classes)) => To::Classes(classes),
            (Some(_), Some(_)) => {
                let why = format!("{name:?}: classes go into the message, not to shared memory");
                return Err(ApiError::field("classification", why));
            }
        };
        outputs.push(Wanted { name, to });
    }
    Ok(outputs)
}

/// The places in the signature of those that go into the message.
fn in_message(signature: &Signature, wanted: &[Wanted]) -> Vec<usize> {
    let goes = |name: &str| wanted.iter().any(|it| it.name == name && matches!(it.to, To::Message));
    let all = signature.outputs.iter().enumerate();
    all.filter(|(_, spec)| goes(&spec.name)).map(|(at, _)| at).collect()
}

fn unknown(field: &'static str, name: &str, known: &[TensorSpec]) -> ApiError {
    ApiError::field(field, format!("the model has no {name:?}; there are {}", list(known)))
}

fn list(specs: &[TensorSpec]) -> String {
    specs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_that_disagree_in_their_rows_are_named_with_them() {
        let input = |name: &str, rows| InlineTensor {
            name: name.to_owned(),
            dtype: DType::F32,
            shape: vec![rows, 3],
            contents: Contents::from(Bytes::new()),
        };
        as_many_rows(&[]).unwrap();
        as_many_rows(&[input("a", 2), input("b", 2)]).unwrap();
        let told = as_many_rows(&[input("a", 2), input("b", 2), input("c", 3)]).unwrap_err();
        let told = told.to_string();
        assert!(told.contains("inputs.shape") && told.contains("\"a\" has 2 rows"), "{told}");
        assert!(told.contains("\"c\" has 3"), "{told}");
    }
}
