//! An answer, to be read in place.

use std::ops::Range;
use std::sync::Arc;

use ferry_core::payload_bytes as end_of;
use ferry_core::{OutputShapes, Part, Placement, StageTimes, Status};
use ferry_memory::DeviceAddress;
use ferry_transport::{Completion, Ending, LinkError};
use tokio::sync::OwnedSemaphorePermit;
use zerocopy::{FromBytes, IntoBytes};

use crate::agreed::Agreed;
use crate::error::Error;
use crate::slot::{is_f32, none};

/// The outputs of one request, in the slot where they landed; a copy of them where that is memory
/// of a device. Dropping it frees the slot.
#[derive(Debug)]
pub struct Reply {
    slot: ferry_memory::Slot,
    /// What the slot holds, where that is memory of a device. Words, so that floats are aligned.
    copied: Option<Vec<u64>>,
    agreed: Arc<Agreed>,
    request: u64,
    payload_bytes: usize,
    outputs: Option<Box<Outputs>>,
    times: StageTimes,
    /// Given back after `slot`.
    _permit: Option<OwnedSemaphorePermit>,
}

/// Outputs that are not as the session agreed.
#[derive(Debug)]
struct Outputs {
    shapes: OutputShapes,
    parts: Vec<Part>,
}

/// What the outputs of a request take that the session has no room for, in bytes.
pub(crate) fn wanted(done: &Completion, agreed: &Agreed) -> Option<u64> {
    let outputs = done.outputs.as_deref().filter(|_| done.status == Status::ReplyTooLarge)?;
    Some(end_of(&agreed.signature.parts(outputs)?))
}

impl Reply {
    /// A completion that is an answer, or the error that it stands for.
    pub(crate) fn from_completion(done: Completion, agreed: &Arc<Agreed>) -> Result<Reply, Error> {
        let wanted = wanted(&done, agreed);
        let Completion { request, slot, ending, status, payload_bytes, outputs, times, .. } = done;
        let slot = match (ending, slot) {
            (Ending::Replied, Some(slot)) => slot,
            _ => return Err(Error::LinkLost(LinkError::Closed)),
        };
        let copied = match slot.reply_bytes() {
            Some(_) => None,
            None => Some(copy_out(&slot, payload_bytes)?),
        };
        let outputs = outputs.filter(|_| status == Status::Ok).map(|shapes| {
            let parts = agreed
                .signature
                .parts(&shapes)
                .filter(|parts| usize::try_from(end_of(parts)) == Ok(payload_bytes));
            let parts = parts.ok_or_else(|| {
                LinkError::Protocol("a reply that is not as long as its outputs".into())
            })?;
            Ok::<_, LinkError>(Box::new(Outputs { shapes: *shapes, parts }))
        });
        let outputs = outputs.transpose().map_err(Error::LinkLost)?;
        let agreed = Arc::clone(agreed);
        let _permit = None;
        let reply = Reply { slot, copied, agreed, request, payload_bytes, outputs, times, _permit };
        if status == Status::Ok {
            return Ok(reply);
        }
        let text = String::from_utf8_lossy(reply.payload()).into_owned();
        Err(match wanted {
            Some(bytes) => Error::ReplyTooLarge { request, bytes, text },
            None => Error::Request { request, status, text },
        })
    }

    /// The same, with what stands for its slot while it is held.
    pub(crate) fn holding(self, permit: Option<OwnedSemaphorePermit>) -> Reply {
        Reply { _permit: permit, ..self }
    }

    /// The request's number within the session, as [`submit`](crate::blocking::Session::submit) gave
    /// it.
    pub fn request(&self) -> u64 {
        self.request
    }

    /// What was agreed for the lease in which it came.
    pub fn agreed(&self) -> &Arc<Agreed> {
        &self.agreed
    }

    /// Everything that came back: the outputs, one behind the other. Where
    /// [`output_shapes`](Reply::output_shapes) says nothing, they lie as the session agreed.
    pub fn payload(&self) -> &[u8] {
        let in_place = || self.slot.reply_bytes().unwrap_or_default();
        let whole = self.copied.as_deref().map_or_else(in_place, <[u64]>::as_bytes);
        whole.get(..self.payload_bytes).unwrap_or_default()
    }

    /// The shapes that the model gave its outputs this time; `None` where they are those that the
    /// session agreed. See [`shape`](Reply::shape).
    pub fn output_shapes(&self) -> Option<&OutputShapes> {
        self.outputs.as_ref().map(|outputs| &outputs.shapes)
    }

    /// The shape of output `index`, outermost dimension first.
    ///
    /// # Errors
    /// [`Error::NoTensor`] if the model has fewer outputs.
    pub fn shape(&self, index: usize) -> Result<&[u64], Error> {
        let outputs = &self.agreed.signature.outputs;
        let tensor = outputs.get(index).ok_or_else(|| none("output", index, outputs))?;
        let told = self.outputs.as_ref().and_then(|outputs| outputs.shapes.get(index));
        Ok(told.unwrap_or(&tensor.shape))
    }

    /// The bytes of output `index`, in place.
    ///
    /// # Errors
    /// [`Error::NoTensor`] if the model has fewer outputs, [`Error::Size`] if the reply has none
    /// (a ping).
    pub fn output(&self, index: usize) -> Result<&[u8], Error> {
        let place = self.place(index)?;
        // Within the payload: it was looked at.
        Ok(self.payload().get(place).unwrap_or_default())
    }

    /// The bytes of output `index`, in place, to go on computing there: nobody else uses them
    /// before the reply is dropped.
    ///
    /// # Errors
    /// As [`output`](Reply::output).
    pub fn output_mut(&mut self, index: usize) -> Result<&mut [u8], Error> {
        let place = self.place(index)?;
        let whole = match &mut self.copied {
            Some(copied) => copied.as_mut_bytes(),
            None => self.slot.reply_bytes_mut().unwrap_or_default(),
        };
        Ok(whole.get_mut(place).unwrap_or_default())
    }

    /// Where output `index` lies in the payload, which is as long.
    fn place(&self, index: usize) -> Result<Range<usize>, Error> {
        let outputs = &self.agreed.signature.outputs;
        let tensor = outputs.get(index).ok_or_else(|| none("output", index, outputs))?;
        let place = match &self.outputs {
            Some(outputs) => outputs.parts.get(index).copied(),
            None => Some(Part { offset: tensor.offset, bytes: tensor.bytes }),
        };
        let end = place.map_or(u64::MAX, |part| part.end());
        let place = place.and_then(|part| {
            Some(usize::try_from(part.offset).ok()?..usize::try_from(part.end()).ok()?)
        });
        let held = self.payload().len();
        place.filter(|place| place.start <= place.end && place.end <= held).ok_or_else(|| {
            Error::Size {
                what: "reply",
                given: format!("{} bytes", self.payload_bytes),
                room: format!("output {index} ends at {end}"),
            }
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
            room: "that is no multiple of 4".into(),
        })
    }

    /// Where the outputs begin in memory of a CUDA device, for kernels and copies of the
    /// application's own, which must be over before the reply is dropped. `None` where they lie in
    /// memory of the host.
    pub fn device_address(&self) -> Option<DeviceAddress> {
        let reply = self.slot.reply();
        reply.device().filter(|_| reply.placement() != Placement::Host)
    }

    /// Where the time went. `reply` is not known yet: it arrives with the next reply.
    pub fn times(&self) -> &StageTimes {
        &self.times
    }
}

/// The first bytes of the reply half.
fn copy_out(slot: &ferry_memory::Slot, bytes: usize) -> Result<Vec<u64>, Error> {
    let mut copied = vec![0_u64; bytes.div_ceil(size_of::<u64>())];
    let into = copied.as_mut_bytes().get_mut(..bytes).unwrap_or_default();
    slot.reply().copy_out(0, into).map_err(Error::memory("read the reply"))?;
    Ok(copied)
}
