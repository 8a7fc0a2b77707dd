//! An answer, to be read in place.

use std::sync::Arc;

use ferry_core::{StageTimes, Status};
use ferry_transport::{Completion, Ending, LinkError};
use tokio::sync::OwnedSemaphorePermit;
use zerocopy::FromBytes;

use crate::agreed::Agreed;
use crate::error::Error;
use crate::slot::{is_f32, none, range};

/// The outputs of one request, in the slot where they landed. Dropping it frees the slot.
#[derive(Debug)]
pub struct Reply {
    slot: ferry_memory::Slot,
    agreed: Arc<Agreed>,
    request: u64,
    payload_bytes: usize,
    times: StageTimes,
    /// Given back after `slot`.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Reply {
    /// A completion that is an answer, or the error that it stands for.
    pub(crate) fn from_completion(
        done: Completion,
        agreed: &Arc<Agreed>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<Reply, Error> {
        let Completion { request, slot, ending, status, payload_bytes, times } = done;
        let slot = match (ending, slot) {
            (Ending::Replied, Some(slot)) => slot,
            _ => return Err(Error::LinkLost(LinkError::Closed)),
        };
        if status == Status::Ok {
            let agreed = Arc::clone(agreed);
            return Ok(Reply { slot, agreed, request, payload_bytes, times, _permit: permit });
        }
        let text = slot.reply_bytes().and_then(|bytes| bytes.get(..payload_bytes));
        let text = String::from_utf8_lossy(text.unwrap_or_default()).into_owned();
        Err(Error::Request { request, status, text })
    }

    /// The request's number within the session.
    pub fn request(&self) -> u64 {
        self.request
    }

    /// Everything that came back: the outputs, laid out as the session agreed.
    pub fn payload(&self) -> &[u8] {
        let whole = self.slot.reply_bytes().unwrap_or_default();
        whole.get(..self.payload_bytes).unwrap_or_default()
    }

    /// The bytes of output `index`, in place.
    ///
    /// # Errors
    /// [`Error::NoTensor`] if the model has fewer outputs, [`Error::Size`] if the reply has none
    /// (a ping).
    pub fn output(&self, index: usize) -> Result<&[u8], Error> {
        let outputs = &self.agreed.signature.outputs;
        let tensor = outputs.get(index).ok_or_else(|| none("output", index, outputs))?;
        let (at, end) = range(tensor);
        self.payload().get(at..end).ok_or_else(|| Error::Size {
            what: "reply",
            given: format!("{} bytes", self.payload_bytes),
            room: format!("{end} bytes for output {index}"),
        })
    }

    /// Output `index` as 32-bit floats, in place.
    ///
    /// # Errors
    /// As [`output`](Reply::output), and [`Error::Size`] if it is of another type.
    pub fn output_f32(&self, index: usize) -> Result<&[f32], Error> {
        if let Some(tensor) = self.agreed.signature.outputs.get(index) {
            is_f32(tensor)?;
        }
        let bytes = self.output(index)?;
        <[f32]>::ref_from_bytes(bytes).map_err(|_misaligned| Error::Size {
            what: "output as 32-bit floats",
            given: format!("{} bytes", bytes.len()),
            room: "a multiple of 4".into(),
        })
    }

    /// Where the time went. `reply` is not known yet: it arrives with the next reply.
    pub fn times(&self) -> &StageTimes {
        &self.times
    }
}
