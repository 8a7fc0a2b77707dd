//! The answer to an inference.

use std::collections::HashMap;

use bytes::Bytes;
use ferry_proto::oip::ModelInferResponse;
use ferry_proto::oip::model_infer_response::InferOutputTensor;

use super::request::{Asked, To};
use super::{classes, parameters};
use crate::error::ApiError;
use crate::serving::inline::{InlineReply, InlineTensor};
use crate::serving::regions::RegionPart;

/// Puts the outputs where they were asked for.
///
/// # Errors
/// [`ApiError::Field`] if one has no room there, or no classes; [`ApiError::Busy`] if a message has
/// no room for them.
pub(super) async fn answer(
    asked: &Asked,
    reply: InlineReply,
) -> Result<ModelInferResponse, ApiError> {
    let served = &reply.served;
    let made = asked.offer.as_offered(&asked.inline, reply.outputs);
    let mut answer = ModelInferResponse {
        model_name: served.name.clone(),
        model_version: served.version.to_string(),
        id: asked.id.clone(),
        ..ModelInferResponse::default()
    };
    for wanted in &asked.outputs {
        let output = made.iter().find(|it| it.name == wanted.name).ok_or_else(|| {
            ApiError::Internal(format!("the model did not make {:?}", wanted.name))
        })?;
        let mut described = described(output);
        // One entry for each output, whatever it is: clients count on that.
        answer.raw_output_contents.push(match &wanted.to {
            To::Message => output.contents.clone(),
            To::Region(part) => {
                described.parameters = match reply.is_in_place {
                    true => told(part, output.dtype.bytes_of(&output.shape)),
                    false => write(output, part)?,
                };
                Bytes::new()
            }
            To::Classes(count) => {
                let has_batch = served.batch_max().is_some();
                let labels = served.metadata.labels_of(&output.name);
                let classes = classes::of(output, has_batch, labels, *count).await?;
                described.datatype = classes::DATATYPE.to_owned();
                described.shape = sizes(&classes.shape);
                classes.contents
            }
        });
        answer.outputs.push(described);
    }
    let bytes = answer.raw_output_contents.iter().map(|it| it.len() as u64).sum();
    asked.inline.in_message.check(bytes)?;
    Ok(answer)
}

fn described(output: &InlineTensor) -> InferOutputTensor {
    InferOutputTensor {
        name: output.name.clone(),
        datatype: output.dtype.name().to_owned(),
        shape: sizes(&output.shape),
        ..InferOutputTensor::default()
    }
}

/// Sizes as the protocol writes them; those of tensors that exist fit.
fn sizes(shape: &[u64]) -> Vec<i64> {
    shape.iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect()
}

/// Copies an output to shared memory; where it is now, for the answer.
fn write(output: &InlineTensor, part: &RegionPart) -> Result<parameters::Parameters, ApiError> {
    let bytes = output.contents.len() as u64;
    if bytes > part.bytes() {
        let (name, room) = (&output.name, part.bytes());
        let why = format!("{name:?} has {bytes} bytes and was given room for {room}");
        return Err(ApiError::field(parameters::BYTE_SIZE, why));
    }
    part.write(&output.contents)?;
    Ok(told(part, bytes))
}

/// Where an output is, for the answer.
fn told(part: &RegionPart, bytes: u64) -> parameters::Parameters {
    let mut told = HashMap::from([
        (parameters::REGION.to_owned(), parameters::text(part.name())),
        (parameters::BYTE_SIZE.to_owned(), parameters::number(bytes)),
    ]);
    if part.at() > 0 {
        told.insert(parameters::OFFSET.to_owned(), parameters::number(part.at()));
    }
    told
}
