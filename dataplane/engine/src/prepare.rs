//! From what a client sent to what the model takes.

use std::sync::Arc;

use ferry_core::{BoundSignature, Stage};
use ferry_core::{RequestKind, Status};
use ferry_memory::{Arrival, HeapBacking, MemoryError, Placer, Region, Slot, ViewMut};
use ferry_vision::{Decoder, Numbers, Pixels, Preparer, SpecError};

use crate::clock::StageClock;
use crate::options::Picture;
use ferry_core::error_text;

mod check;

pub use check::batch_of;
pub(crate) use check::{check, picture_numbers};

/// What a buffer may keep between requests, in bytes: what one huge request needed is given back
/// at the next smaller one.
const RETAINED_BYTES_MAX: usize = 16 << 20;

/// Bytes of a tensor that are put in order at a time: they stay in the first-level cache.
const CHUNK_BYTES: usize = 4096;

/// Why a request never reached the model, for the client to read.
#[derive(Debug)]
pub(crate) struct Unfit {
    pub(crate) status: Status,
    pub(crate) text: String,
}

impl Unfit {
    fn new(status: Status, text: impl Into<String>) -> Unfit {
        Unfit { status, text: text.into() }
    }

    pub(crate) fn memory(error: &MemoryError) -> Unfit {
        Unfit::new(Status::EngineFailed, error_text(error))
    }
}

/// Makes the input of one instance; owns the buffers that this takes, reused from request to
/// request.
#[derive(Debug)]
pub(crate) struct Preparation {
    pictures: Option<Pictures>,
    /// What makes memory known to the engine's device.
    placer: Option<Arc<dyn Placer>>,
}

#[derive(Debug)]
struct Pictures {
    picture: Picture,
    decoder: Decoder,
    preparer: Preparer,
    /// What the client sent: its own memory may change while it is read.
    copy: Vec<u8>,
    tensor: Vec<f32>,
    /// Regions that came back from the engine. All pictures of a model are equally long.
    free: Vec<Region>,
}

impl Preparation {
    /// For a model that takes `picture`, or none.
    pub(crate) fn new(picture: Option<Picture>) -> Result<Preparation, SpecError> {
        let pictures = picture.map(|picture| {
            let preparer = Preparer::new(picture.spec)?;
            let tensor = vec![0.0; preparer.output_len()];
            let (decoder, copy, free) = (Decoder::new(), Vec::new(), Vec::new());
            Ok(Pictures { picture, decoder, preparer, copy, tensor, free })
        });
        Ok(Preparation { pictures: pictures.transpose()?, placer: None })
    }

    /// From now on inputs are made in memory that `placer` knows.
    pub(crate) fn place_with(&mut self, placer: Option<Arc<dyn Placer>>) {
        self.placer = placer;
        if let Some(pictures) = &mut self.pictures {
            pictures.free.clear();
        }
    }

    /// As [`place_with`](Preparation::place_with) was told.
    pub(crate) fn placer(&self) -> Option<Arc<dyn Placer>> {
        self.placer.clone()
    }

    /// The model's input, where it is not the payload itself. `arrival` passed [`check()`].
    pub(crate) fn prepare(
        &mut self,
        arrival: &Arrival,
        binding: &BoundSignature,
        clock: &mut StageClock,
    ) -> Result<Option<Region>, Unfit> {
        let (RequestKind::Raw { .. } | RequestKind::Jpeg) = arrival.what.kind else {
            return Ok(None);
        };
        let placer = self.placer.clone();
        let (pictures, numbers) = self.pictures(binding)?;
        pictures.make_tensor(arrival, clock)?;
        let region = pictures.place_tensor(binding, numbers, placer.as_deref());
        clock.end(Stage::Preprocess);
        region.map(Some).map_err(|error| Unfit::memory(&error))
    }

    /// As [`prepare`](Preparation::prepare), for a picture, to `into`.
    pub(crate) fn prepare_into(
        &mut self,
        arrival: &Arrival,
        binding: &BoundSignature,
        clock: &mut StageClock,
        into: ViewMut<'_>,
    ) -> Result<(), Unfit> {
        let (pictures, numbers) = self.pictures(binding)?;
        pictures.make_tensor(arrival, clock)?;
        let filled = fill(into, &pictures.tensor, numbers);
        clock.end(Stage::Preprocess);
        filled.map_err(|error| Unfit::memory(&error))
    }

    fn pictures(&mut self, binding: &BoundSignature) -> Result<(&mut Pictures, Numbers), Unfit> {
        let numbers = picture_numbers(binding.inputs.iter().map(|input| input.dtype));
        let none = || Unfit::new(Status::Unsupported, "this instance takes no pictures");
        self.pictures.as_mut().zip(numbers).ok_or_else(none)
    }

    /// Takes back a region that the engine is done with.
    pub(crate) fn give_back(&mut self, region: Region) {
        if let Some(pictures) = &mut self.pictures {
            pictures.free.push(region);
        }
    }
}

impl Pictures {
    fn make_tensor(&mut self, arrival: &Arrival, clock: &mut StageClock) -> Result<(), Unfit> {
        let slot = &arrival.slot;
        let pixels = match arrival.what.kind {
            RequestKind::Raw { width, height, format } => {
                let bytes = private(slot, arrival.payload_bytes, &mut self.copy)?;
                Pixels::new(width, height, format, bytes)
                    .map_err(|error| Unfit::new(Status::BadRequest, error_text(&error)))?
            }
            _ => {
                let bytes = private(slot, arrival.payload_bytes, &mut self.copy)?;
                let decoded = self.decoder.decode(bytes, &self.picture.decode);
                clock.end(Stage::Decode);
                decoded.map_err(|error| Unfit::new(Status::BadPicture, error_text(&error)))?
            }
        };
        self.preparer
            .prepare(pixels, &mut self.tensor)
            .map_err(|error| Unfit::new(Status::EngineFailed, error_text(&error)))
    }

    /// Copies the tensor to a region, laid out as the binding's only input, which is of `numbers`:
    /// the same for all requests of a model.
    fn place_tensor(
        &mut self,
        binding: &BoundSignature,
        numbers: Numbers,
        placer: Option<&dyn Placer>,
    ) -> Result<Region, MemoryError> {
        let bytes = self.tensor.len() * numbers.bytes();
        let mut region = match self.free.pop() {
            Some(region) => region,
            None => {
                let plain = Region::whole(HeapBacking::new(bytes)?);
                match placer {
                    Some(placer) => placer.register(plain)?,
                    None => plain,
                }
            }
        };
        debug_assert_eq!(u64::try_from(bytes), Ok(binding.request_bytes()), "check compared them");
        fill(region.view_mut(), &self.tensor, numbers)?;
        Ok(region)
    }
}

/// The payload, where no peer can change it: in the slot, or else copied to `copy`.
fn private<'a>(slot: &'a Slot, bytes: usize, copy: &'a mut Vec<u8>) -> Result<&'a [u8], Unfit> {
    let short = || {
        let error = MemoryError::OutOfRange { at: 0, len: bytes, bytes: slot.request().bytes() };
        Unfit::memory(&error)
    };
    if let Some(all) = slot.request_bytes() {
        return all.get(..bytes).ok_or_else(short);
    }
    // Before memory is taken for it.
    if bytes > slot.request().bytes() {
        return Err(short());
    }
    let copy = scratch(copy, bytes);
    slot.request().copy_out(0, copy).map_err(|error| Unfit::memory(&error))?;
    Ok(copy)
}

/// The first `bytes` bytes of `buffer`, grown as needed.
fn scratch(buffer: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    let shrinks = buffer.len() > RETAINED_BYTES_MAX && bytes <= RETAINED_BYTES_MAX;
    if shrinks || buffer.len() < bytes {
        *buffer = vec![0; bytes];
    }
    &mut buffer[..bytes]
}

/// Writes `values` to `view` as these numbers lie in this machine's memory.
fn fill(mut view: ViewMut<'_>, values: &[f32], numbers: Numbers) -> Result<(), MemoryError> {
    let mut chunk = [0_u8; CHUNK_BYTES];
    for (i, values) in values.chunks(CHUNK_BYTES / numbers.bytes()).enumerate() {
        let bytes = &mut chunk[..values.len() * numbers.bytes()];
        numbers.store(values, bytes);
        view.copy_in(i * CHUNK_BYTES, bytes)?;
    }
    Ok(())
}
