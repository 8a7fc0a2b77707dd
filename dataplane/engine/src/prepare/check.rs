//! What can be said of a request without touching its payload.

use ferry_core::{BoundSignature, DType, PixelFormat, RequestKind, Status};
use ferry_memory::Arrival;
use ferry_vision::Numbers;

use super::Unfit;
use crate::options::Picture;

/// How many items a session's tensors have room for: the outermost dimension, where all inputs and
/// outputs share it, else 1. Outputs that are open do not count, and tensors without elements are
/// one item.
pub fn batch_of(binding: &BoundSignature) -> u64 {
    let known = binding.inputs.iter().chain(binding.outputs.iter().filter(|output| !output.open));
    let mut outermost = known.map(|tensor| tensor.shape.first().copied());
    match outermost.next().flatten() {
        Some(first) if outermost.all(|dim| dim == Some(first)) => first.max(1),
        _ => 1,
    }
}

/// Checks kind, batch and length against what the session agreed. Cheap enough for a lane, so that
/// what cannot be served never takes a place in a queue.
pub(crate) fn check(
    model: &str,
    arrival: &Arrival,
    binding: &BoundSignature,
    picture: Option<&Picture>,
) -> Result<(), Unfit> {
    let bytes = u64::try_from(arrival.payload_bytes).unwrap_or(u64::MAX);
    match arrival.what.kind {
        RequestKind::Ping => Ok(()),
        RequestKind::Tensor => {
            batch_fits(arrival, binding)?;
            exact(bytes, binding.request_bytes(), "the session's input tensors")
        }
        RequestKind::Raw { width, height, format } => {
            picture_fits(model, arrival, binding, picture)?;
            exact(bytes, raw_bytes(width, height, format), "the picture's sides and format")
        }
        RequestKind::Jpeg => {
            let picture = picture_fits(model, arrival, binding, picture)?;
            let max = picture.decode.limits.compressed_bytes_max;
            if arrival.payload_bytes > max {
                let text = format!("a picture file of {bytes} bytes, above the limit of {max}");
                return Err(Unfit::new(Status::BadPicture, text + ": send a smaller one"));
            }
            Ok(())
        }
    }
}

fn exact(bytes: u64, wanted: u64, what: &str) -> Result<(), Unfit> {
    if bytes == wanted {
        return Ok(());
    }
    let text = format!("payload of {bytes} bytes where {what} make {wanted}: send exactly these");
    Err(Unfit::new(Status::BadRequest, text))
}

/// Saturated: no payload is as long.
fn raw_bytes(width: u32, height: u32, format: PixelFormat) -> u64 {
    (u64::from(width) * u64::from(height)).saturating_mul(u64::from(format.bytes()))
}

fn batch_fits(arrival: &Arrival, binding: &BoundSignature) -> Result<(), Unfit> {
    let (filled, room) = (u64::from(arrival.what.batch), batch_of(binding));
    if (1..=room).contains(&filled) {
        return Ok(());
    }
    let text = format!("batch {filled} where the session has room for 1 to {room}: open a session");
    Err(Unfit::new(Status::BadRequest, text + " with larger shapes, or send fewer items"))
}

/// Whether one picture makes the whole input of this session.
fn picture_fits<'a>(
    model: &str,
    arrival: &Arrival,
    binding: &BoundSignature,
    picture: Option<&'a Picture>,
) -> Result<&'a Picture, Unfit> {
    let Some(picture) = picture else {
        let text =
            format!("model {model} takes no pictures: add a [picture] table to {model}.toml");
        return Err(Unfit::new(Status::Unsupported, text + ", or send tensors"));
    };
    batch_fits(arrival, binding)?;
    if arrival.what.batch != 1 {
        let text =
            format!("a picture with batch {}: send one picture a request", arrival.what.batch);
        return Err(Unfit::new(Status::BadRequest, text));
    }
    let spec = &picture.spec;
    let values = spec.output_len().ok().and_then(|len| u64::try_from(len).ok());
    // What the model takes was compared with the picture when the pool was started.
    let dtype = picture_numbers(binding.inputs.iter().map(|it| it.dtype)).map(Numbers::dtype);
    let dtype = dtype.unwrap_or(DType::F32);
    let wanted = values.unwrap_or(u64::MAX).saturating_mul(dtype.bytes());
    match binding.inputs.as_slice() {
        [input] if input.dtype == dtype && input.bytes == wanted => Ok(picture),
        _ => {
            let has = binding.request_bytes();
            let (width, height) = (spec.width, spec.height);
            let text = format!(
                "one picture of {width} x {height} makes {wanted} bytes of {dtype}, but this \
                 session's input has {has} bytes: open a session with batch 1 and these sides"
            );
            Err(Unfit::new(Status::BadRequest, text))
        }
    }
}

/// In which numbers a model with these inputs takes a picture: it must have one input, of floats
/// of 32 or 16 bits.
pub(crate) fn picture_numbers(mut inputs: impl Iterator<Item = DType>) -> Option<Numbers> {
    let only = inputs.next().filter(|_| inputs.next().is_none());
    only.and_then(Numbers::of)
}
