//! Room for one request, to be filled in place.

use std::sync::Arc;
use std::time::Instant;

use ferry_core::{BoundTensor, PixelFormat, Request, RequestKind};
use tokio::sync::OwnedSemaphorePermit;
use zerocopy::FromBytes;

use crate::agreed::Agreed;
use crate::error::Error;

/// Room for one request, in the memory that the server's end reads (shared memory) or that the
/// link sends from. Moved into `infer`, and back as a [`Reply`](crate::Reply); dropping it gives
/// it back unused.
#[derive(Debug)]
pub struct Slot {
    pub(crate) inner: ferry_memory::Slot,
    pub(crate) agreed: Arc<Agreed>,
    pub(crate) handed_out: Instant,
    pub(crate) what: Request,
    pub(crate) payload_bytes: u64,
    /// Given back after `inner`, so that whoever waits for the permit finds the slot free.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

impl Slot {
    pub(crate) fn new(
        inner: ferry_memory::Slot,
        agreed: Arc<Agreed>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Slot {
        let payload_bytes = agreed.signature.request_bytes();
        let what = Request { kind: RequestKind::Tensor, batch: 1, priority: 0 };
        Slot { inner, agreed, handed_out: Instant::now(), what, payload_bytes, permit }
    }

    /// The bytes of input `index`, to be written in place. What is not written keeps what the
    /// slot held before.
    ///
    /// # Errors
    /// [`Error::NoTensor`] if the model has fewer inputs.
    pub fn input_mut(&mut self, index: usize) -> Result<&mut [u8], Error> {
        let agreed = Arc::clone(&self.agreed);
        let inputs = &agreed.signature.inputs;
        let tensor = inputs.get(index).ok_or_else(|| none("input", index, inputs))?;
        self.what.kind = RequestKind::Tensor;
        self.payload_bytes = agreed.signature.request_bytes();
        let (at, end) = range(tensor);
        Ok(&mut self.room()[at..end])
    }

    /// Input `index` as 32-bit floats.
    ///
    /// # Errors
    /// [`Error::NoTensor`] if the model has fewer inputs, [`Error::Size`] if it is of another type.
    pub fn input_f32_mut(&mut self, index: usize) -> Result<&mut [f32], Error> {
        if let Some(tensor) = self.agreed.signature.inputs.get(index) {
            is_f32(tensor)?;
        }
        let bytes = self.input_mut(index)?;
        let given = bytes.len();
        <[f32]>::mut_from_bytes(bytes).map_err(|_misaligned| Error::Size {
            what: "input as 32-bit floats",
            given: format!("{given} bytes"),
            room: "a multiple of 4".into(),
        })
    }

    /// The index of the input of this name.
    ///
    /// # Errors
    /// [`Error::NoTensor`] if there is none.
    pub fn input_index(&self, name: &str) -> Result<usize, Error> {
        let inputs = &self.agreed.signature.inputs;
        let found = inputs.iter().position(|tensor| tensor.name == name);
        found.ok_or_else(|| none("input", name, inputs))
    }

    /// Makes this the request with a JPEG file, which the server decodes.
    ///
    /// # Errors
    /// [`Error::Size`] if the slot is too small: open the session with
    /// [`request_bytes`](crate::SessionBuilder::request_bytes).
    pub fn set_jpeg(&mut self, file: &[u8]) -> Result<(), Error> {
        self.copy_whole("JPEG file", file)?;
        self.what.kind = RequestKind::Jpeg;
        Ok(())
    }

    /// Makes this the request with pixels: rows from the top, tightly packed.
    ///
    /// # Errors
    /// [`Error::Size`] if `pixels` is not `width` × `height` pixels, or does not fit the slot.
    pub fn set_raw(
        &mut self,
        width: u32,
        height: u32,
        format: PixelFormat,
        pixels: &[u8],
    ) -> Result<(), Error> {
        let wanted = u64::from(width) * u64::from(height) * u64::from(format.bytes());
        if pixels.len() as u64 != wanted {
            return Err(Error::Size {
                what: "pixels",
                given: format!("{} bytes", pixels.len()),
                room: format!("{wanted} bytes ({width} × {height} × {})", format.bytes()),
            });
        }
        self.copy_whole("pixels", pixels)?;
        self.what.kind = RequestKind::Raw { width, height, format };
        Ok(())
    }

    /// Makes this the empty round trip.
    pub fn set_ping(&mut self) {
        self.what.kind = RequestKind::Ping;
        self.payload_bytes = 0;
    }

    /// How many items of the batch are filled; 1 if not said.
    pub fn set_batch(&mut self, items: u32) {
        self.what.batch = items;
    }

    /// Larger is more urgent; 0 if not said.
    pub fn set_priority(&mut self, priority: u8) {
        self.what.priority = priority;
    }

    fn copy_whole(&mut self, what: &'static str, from: &[u8]) -> Result<(), Error> {
        let room = self.room();
        let Some(to) = room.get_mut(..from.len()) else {
            return Err(Error::Size {
                what,
                given: format!("{} bytes", from.len()),
                room: format!("at most {} bytes; open with more `request_bytes`", room.len()),
            });
        };
        to.copy_from_slice(from);
        self.payload_bytes = from.len() as u64;
        Ok(())
    }

    /// The whole request half. A client's slots are its own memory, or the server's, whom it
    /// trusts: there is always a slice.
    fn room(&mut self) -> &mut [u8] {
        self.inner.request_bytes_mut().unwrap_or_default()
    }
}

pub(crate) fn range(tensor: &BoundTensor) -> (usize, usize) {
    // The layout was checked against the slots when the session was opened, and those fit memory.
    let at = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    (at(tensor.offset), at(tensor.offset + tensor.bytes))
}

pub(crate) fn none(
    what: &'static str,
    which: impl std::fmt::Display,
    all: &[BoundTensor],
) -> Error {
    let known = all.iter().map(|tensor| tensor.name.as_str()).collect::<Vec<_>>().join(", ");
    Error::NoTensor { what, which: which.to_string(), known }
}

pub(crate) fn is_f32(tensor: &BoundTensor) -> Result<(), Error> {
    if tensor.dtype == ferry_core::DType::F32 {
        return Ok(());
    }
    let room = format!("{} has {}", tensor.name, tensor.dtype);
    Err(Error::Size { what: "tensor as 32-bit floats", given: "FP32".into(), room })
}
