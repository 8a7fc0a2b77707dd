//! What every request of a run sends.

use std::path::{Path, PathBuf};

use ferry_client::{Error, SessionBuilder, Slot, v1};

use crate::picture::Picture;
use crate::rdma::RdmaDevice;

/// Shapes of tensors, by name.
pub type Shapes = Vec<(String, Vec<u64>)>;

/// What sessions with the model `echo` ask for.
#[must_use]
pub fn echo_shapes(in_bytes: u64, out_bytes: u64) -> Shapes {
    vec![("input".to_owned(), vec![in_bytes]), ("output".to_owned(), vec![out_bytes])]
}

/// The source of the bytes that each request copies into its slot.
#[derive(Debug)]
pub struct Work {
    /// Name of the model.
    pub model: String,
    /// Its version; 0 is the latest.
    pub version: u64,
    /// What a session is asked for.
    pub shapes: Shapes,
    /// What the inputs become with these, for `local`, where no session tells.
    pub inputs: Shapes,
    /// Larger is more urgent.
    pub priority: u8,
    /// The device for the transport rdma.
    pub rdma: RdmaDevice,
    payload: Payload,
}

#[derive(Debug)]
enum Payload {
    /// The file, and what it holds.
    Picture(PathBuf, Picture),
    /// One per input of the session: as long as it, in a pattern that is the same on every run.
    Pattern,
}

/// Last byte of the pattern: its 251 bytes are a prime number, so that it never lines up with rows,
/// pages or cache lines.
const PATTERN_LAST: u8 = 250;

/// `len` bytes that are the same on every run.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..=PATTERN_LAST).cycle().take(len).collect()
}

impl Work {
    /// Pattern bytes for a model, in sessions with these shapes.
    pub fn new(model: &str, version: u64, shapes: Shapes) -> Work {
        Work {
            model: model.to_owned(),
            version,
            shapes,
            inputs: Vec::new(),
            priority: 0,
            rdma: RdmaDevice::default(),
            payload: Payload::Pattern,
        }
    }

    /// Pattern bytes for the model `echo`.
    pub fn echo(in_bytes: u64, out_bytes: u64) -> Work {
        Work::new("echo", 0, echo_shapes(in_bytes, out_bytes))
    }

    /// Sends a picture instead.
    #[must_use]
    pub fn with_picture(self, path: PathBuf, picture: Picture) -> Work {
        Work { payload: Payload::Picture(path, picture), ..self }
    }

    /// The file of the picture, if one is sent.
    pub(crate) fn image(&self) -> Option<&Path> {
        match &self.payload {
            Payload::Picture(path, _) => Some(path),
            Payload::Pattern => None,
        }
    }

    /// Asks for room and shapes.
    pub fn ask<'c, C>(&self, builder: SessionBuilder<'c, C>) -> SessionBuilder<'c, C> {
        let builder = self.rdma.apply(builder.version(self.version));
        let builder =
            self.shapes.iter().fold(builder, |builder, (name, shape)| builder.shape(name, shape));
        match &self.payload {
            Payload::Picture(_, picture) => builder.request_bytes(picture.bytes().len() as u64),
            Payload::Pattern => builder,
        }
    }

    /// The bytes of a session's inputs, made once and copied for each request.
    pub(crate) fn source(&self, slot: &mut Slot, inputs: usize) -> Result<Vec<Vec<u8>>, Error> {
        let lengths = (0..inputs).map(|index| slot.input_bytes(index));
        lengths.map(|len| len.map(pattern)).collect()
    }

    /// Fills a slot: this copy is part of what a user pays.
    pub(crate) fn fill(&self, slot: &mut Slot, source: &[Vec<u8>]) -> Result<(), Error> {
        match &self.payload {
            Payload::Picture(_, picture) => picture.fill(slot)?,
            Payload::Pattern => {
                for (index, bytes) in source.iter().enumerate() {
                    slot.set_input(index, bytes)?;
                }
            }
        }
        slot.set_priority(self.priority);
        Ok(())
    }

    /// The same for `Local.Drive`: its clients fill their slots in the server.
    pub(crate) fn drive(&self) -> v1::DriveRequest {
        let mut request = v1::DriveRequest {
            model: self.model.clone(),
            version: self.version,
            shapes: self
                .shapes
                .iter()
                .map(|(name, shape)| v1::TensorShape { name: name.clone(), shape: shape.clone() })
                .collect(),
            ..Default::default()
        };
        match &self.payload {
            Payload::Pattern => {
                request.info = Some(v1::RequestInfo {
                    priority: u32::from(self.priority),
                    ..Default::default()
                });
            }
            Payload::Picture(_, picture) => {
                request.info = Some(picture.info(self.priority));
                request.payload = picture.bytes().to_vec().into();
            }
        }
        request
    }
}
