//! Room for one request, to be filled in place.

use std::sync::Arc;
use std::time::Instant;

use ferry_connect::ImportedBacking;
use ferry_core::{BoundTensor, PixelFormat, Placement, Request, RequestKind, TraceId};
use ferry_memory::{DeviceAddress, SlotHold};
use tokio::sync::OwnedSemaphorePermit;
use zerocopy::FromBytes;

use crate::agreed::Agreed;
use crate::error::Error;

/// Room for one request, in the memory that the server's end reads (shared memory, or memory of a
/// GPU) or that the link sends from. Moved into `infer`, and back as a [`Reply`](crate::Reply);
/// dropping it gives it back unused.
#[derive(Debug)]
pub struct Slot {
    pub(crate) inner: ferry_memory::Slot,
    pub(crate) agreed: Arc<Agreed>,
    pub(crate) handed_out: Instant,
    pub(crate) what: Request,
    pub(crate) payload_bytes: u64,
    /// Where it lies, if that is memory of a CUDA device.
    device: Option<Arc<ImportedBacking>>,
    /// Given back after `inner`, so that whoever waits for the permit finds the slot free.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

impl Slot {
    pub(crate) fn new(
        inner: ferry_memory::Slot,
        agreed: Arc<Agreed>,
        device: Option<&Arc<ImportedBacking>>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Slot {
        let device = device.map(Arc::clone);
        let payload_bytes = agreed.signature.request_bytes();
        let what = Request::of(RequestKind::Tensor);
        Slot { inner, agreed, handed_out: Instant::now(), what, payload_bytes, device, permit }
    }

    /// The bytes of input `index`, to be written in place. What is not written keeps what the
    /// slot held before.
    ///
    /// # Errors
    /// [`Error::NoTensor`] if the model has fewer inputs, [`Error::OnDevice`] if the slot lies in
    /// memory of a device (cuda-ipc), which [`set_input`](Slot::set_input) writes.
    pub fn input_mut(&mut self, index: usize) -> Result<&mut [u8], Error> {
        let (at, end) = self.range(index)?;
        self.is_tensor();
        let (place, transport) = (self.inner.request().placement(), self.agreed.transport);
        // A client's slots in memory of the host are its own, or the server's, whom it trusts.
        match self.inner.request_bytes_mut() {
            Some(room) => Ok(&mut room[at..end]),
            None => Err(Error::OnDevice { place, transport }),
        }
    }

    /// Keeps the slot's memory, and keeps it from other requests, until this and the slot (or the
    /// reply that it becomes) are dropped: for programs that give its addresses to others, such as
    /// arrays of another language.
    pub fn hold(&mut self) -> SlotHold {
        self.inner.hold()
    }

    /// What was agreed for the lease that the slot is of.
    pub fn agreed(&self) -> &Arc<Agreed> {
        &self.agreed
    }

    /// Length of input `index` in bytes.
    ///
    /// # Errors
    /// [`Error::NoTensor`] if the model has fewer inputs.
    pub fn input_bytes(&self, index: usize) -> Result<usize, Error> {
        self.range(index).map(|(at, end)| end - at)
    }

    /// Copies all of input `index` into the slot, wherever that lies.
    ///
    /// # Errors
    /// [`Error::NoTensor`] if the model has fewer inputs, [`Error::Size`] if `bytes` is not as long
    /// as the input, [`Error::Memory`] with what the device says.
    pub fn set_input(&mut self, index: usize, bytes: &[u8]) -> Result<(), Error> {
        let (at, end) = self.range(index)?;
        if bytes.len() != end - at {
            return Err(Error::Size {
                what: "input",
                given: format!("{} bytes", bytes.len()),
                room: format!("it has {}", end - at),
            });
        }
        self.write(at, bytes)
    }

    /// Copies bytes into the tensors of the request, at this offset from the first one's start,
    /// wherever the slot lies. [`BoundTensor::offset`] says where each begins.
    ///
    /// # Errors
    /// [`Error::Size`] if the bytes do not lie within the tensors, [`Error::Memory`] with what the
    /// device says.
    pub fn write(&mut self, at: usize, bytes: &[u8]) -> Result<(), Error> {
        self.within("bytes to write", at, bytes.len())?;
        self.is_tensor();
        self.copy_in(at, bytes)
    }

    /// Where the slot's tensors begin in memory of a CUDA device, for kernels and copies of the
    /// application's own, which must be over before the request is sent. The ordinal is this
    /// process's. `None` where the slot lies in memory of the host.
    pub fn device_address(&self) -> Option<DeviceAddress> {
        let request = self.inner.request();
        request.device().filter(|_| request.placement() != Placement::Host)
    }

    /// Copies a tensor of the application's own from device memory into the slot, as
    /// [`write`](Slot::write) does from the host, and waits until it is there. What computes the
    /// tensor must be over: the application waits for its stream first.
    ///
    /// # Errors
    /// [`Error::NotOnDevice`] if the slot lies in memory of the host, [`Error::Size`] if the bytes
    /// do not lie within the tensors, [`Error::Memory`] if `address` is not the start of as many
    /// bytes of device memory, or with what the device says.
    pub fn copy_from_device(&mut self, at: usize, address: u64, bytes: usize) -> Result<(), Error> {
        self.within("bytes to copy", at, bytes)?;
        let (Some(device), Some(to)) = (self.device.clone(), self.device_address()) else {
            return Err(Error::NotOnDevice(self.agreed.transport));
        };
        self.is_tensor();
        let to = DeviceAddress { address: to.address + at as u64, ..to };
        let copied = device.copy_from_device(to, address, bytes);
        copied.map_err(Error::memory("copy a tensor of a device into the slot"))
    }

    fn within(&self, what: &'static str, at: usize, bytes: usize) -> Result<(), Error> {
        let room = usize::try_from(self.agreed.signature.request_bytes()).unwrap_or(usize::MAX);
        if at.checked_add(bytes).is_some_and(|end| end <= room) {
            return Ok(());
        }
        let given = format!("{bytes} bytes at {at}");
        Err(Error::Size { what, given, room: format!("the tensors have {room}") })
    }

    fn range(&self, index: usize) -> Result<(usize, usize), Error> {
        let inputs = &self.agreed.signature.inputs;
        inputs.get(index).map(range).ok_or_else(|| none("input", index, inputs))
    }

    fn is_tensor(&mut self) {
        self.what.kind = RequestKind::Tensor;
        self.payload_bytes = self.agreed.signature.request_bytes();
    }

    /// Input `index` as 32-bit floats.
    ///
    /// # Errors
    /// As [`input_mut`](Slot::input_mut), and [`Error::Size`] if it is of another type.
    pub fn input_f32_mut(&mut self, index: usize) -> Result<&mut [f32], Error> {
        if let Some(tensor) = self.agreed.signature.inputs.get(index) {
            is_f32(tensor)?;
        }
        let bytes = self.input_mut(index)?;
        let given = bytes.len();
        <[f32]>::mut_from_bytes(bytes).map_err(|_misaligned| Error::Size {
            what: "input as 32-bit floats",
            given: format!("{given} bytes"),
            room: "that is no multiple of 4".into(),
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

    /// Makes this the request with a picture file (JPEG, PNG or WebP), which the server decodes.
    ///
    /// # Errors
    /// [`Error::Size`] if the slot is too small: open the session with
    /// [`request_bytes`](crate::SessionBuilder::request_bytes). [`Error::Memory`] with what a
    /// device says.
    pub fn set_jpeg(&mut self, file: &[u8]) -> Result<(), Error> {
        self.copy_whole("picture file", file)?;
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
                room: format!("{width} × {height} × {} are {wanted}", format.bytes()),
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

    /// The trace that the request is part of; none if not said. The server records it.
    pub fn set_trace(&mut self, trace: TraceId) {
        self.what.trace = trace;
    }

    /// With a request that another slot had.
    pub(crate) fn refilled(mut self, what: Request, payload: &[u8]) -> Result<Slot, Error> {
        self.copy_whole("request", payload)?;
        self.what = what;
        Ok(self)
    }

    /// Its request in a slot of another lease.
    pub(crate) fn moved_to(self, other: Slot) -> Result<Slot, Error> {
        let mut payload = vec![0; self.payload_len()];
        let read = self.inner.request().copy_out(0, &mut payload);
        read.map_err(Error::memory("read the request that moves to another slot"))?;
        Ok(Slot { handed_out: self.handed_out, ..other.refilled(self.what, &payload)? })
    }

    pub(crate) fn payload_len(&self) -> usize {
        usize::try_from(self.payload_bytes).unwrap_or(usize::MAX)
    }

    /// Copies to where the slot lies, the way that suits who reads it next.
    fn copy_in(&mut self, at: usize, from: &[u8]) -> Result<(), Error> {
        let for_device = self.agreed.is_read_by_device();
        let mut room = self.inner.request_mut();
        let copied = match for_device {
            true => room.copy_in_for_device(at, from),
            false => room.copy_in(at, from),
        };
        copied.map_err(Error::memory("write the slot"))
    }

    fn copy_whole(&mut self, what: &'static str, from: &[u8]) -> Result<(), Error> {
        let room = self.inner.request().bytes();
        if from.len() > room {
            return Err(Error::Size {
                what,
                given: format!("{} bytes", from.len()),
                room: format!(
                    "the slot has room for {room}: open the session with more `request_bytes`"
                ),
            });
        }
        self.copy_in(0, from)?;
        self.payload_bytes = from.len() as u64;
        Ok(())
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
    let (given, room) = (format!("{:?}", tensor.name), format!("it has {}", tensor.dtype));
    Err(Error::Size { what: "tensor as 32-bit floats", given, room })
}

#[cfg(test)]
mod tests;
