//! How the inputs of a request without a session get into its slot.

use bytes::Bytes;
use ferry_core::{BoundSignature, BoundTensor, error_text};
use ferry_memory::{MemoryError, Slot};

use super::{InlineRequest, InlineTensor};
use crate::error::ApiError;
use crate::serving::payload;
use crate::serving::regions::RegionPart;

/// Where the bytes of an input are.
#[derive(Clone, Debug)]
pub enum Contents {
    /// In the message that came.
    Message(Bytes),
    /// In shared memory that its tenant registered, which may change at any time.
    Region(RegionPart),
}

impl From<Bytes> for Contents {
    fn from(bytes: Bytes) -> Contents {
        Contents::Message(bytes)
    }
}

impl Contents {
    /// How many there are.
    pub fn bytes(&self) -> u64 {
        match self {
            Contents::Message(bytes) => bytes.len() as u64,
            Contents::Region(part) => part.bytes(),
        }
    }
}

/// Puts the inputs in their places, or the payload as it is; how many bytes that makes. What lies
/// in the message and is all there is stays where it is, if it can be read there.
///
/// # Errors
/// [`ApiError::Field`] names the input that is missing, twice there, or of another size.
pub(crate) fn place(
    slot: &mut Slot,
    binding: &BoundSignature,
    request: &InlineRequest,
) -> Result<usize, ApiError> {
    let internal = |error: MemoryError| ApiError::Internal(error_text(&error));
    if request.inputs.is_empty() {
        slot.request_mut().copy_in(0, &request.payload).map_err(internal)?;
        return Ok(request.payload.len());
    }
    for wanted in &binding.inputs {
        let input = input(wanted, &request.inputs)?;
        match &input.contents {
            Contents::Message(bytes) if binding.inputs.len() == 1 => {
                payload::place(slot, binding, request.what.kind, bytes).map_err(internal)?;
            }
            Contents::Message(bytes) => {
                slot.request_mut().copy_in(at(wanted.offset)?, bytes).map_err(internal)?;
            }
            Contents::Region(part) if is_there(slot, part) => {}
            Contents::Region(part) => {
                let (from, to) = (at(wanted.offset)?, at(wanted.offset + wanted.bytes)?);
                let room = slot.request_bytes_mut().and_then(|all| all.get_mut(from..to));
                let no_room = || ApiError::Internal("a slot without room for its input".into());
                part.read(room.ok_or_else(no_room)?)?;
            }
        }
    }
    at(binding.request_bytes())
}

/// Whether the request half is this very memory, of a device.
fn is_there(slot: &Slot, part: &RegionPart) -> bool {
    let device = slot.request().device();
    device.is_some() && device == part.device()
}

fn at(offset: u64) -> Result<usize, ApiError> {
    usize::try_from(offset).map_err(|error| ApiError::Internal(error.to_string()))
}

fn input<'a>(
    wanted: &BoundTensor,
    inputs: &'a [InlineTensor<Contents>],
) -> Result<&'a InlineTensor<Contents>, ApiError> {
    let mut all = inputs.iter().filter(|it| it.name == wanted.name);
    let (Some(input), None) = (all.next(), all.next()) else {
        let why = format!("the model wants {:?} exactly once", wanted.name);
        return Err(ApiError::field("inputs", why));
    };
    if input.dtype == wanted.dtype && input.contents.bytes() == wanted.bytes {
        return Ok(input);
    }
    let why = format!(
        "{:?} is {} of {} bytes; the model wants {} {:?}, {} bytes",
        input.name,
        input.dtype,
        input.contents.bytes(),
        wanted.dtype,
        wanted.shape,
        wanted.bytes
    );
    Err(ApiError::field("inputs", why))
}
