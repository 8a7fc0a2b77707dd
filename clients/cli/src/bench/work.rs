//! What every request of a run sends.

use ferry_client::blocking::Client;
use ferry_client::{Error, SessionBuilder, Slot, v1};

use crate::args::{BenchArgs, RdmaArgs};
use crate::control;
use crate::failure::Failure;
use crate::picture::Picture;

/// The source of the bytes that each request copies into its slot.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) model: String,
    pub(crate) version: u64,
    pub(crate) shapes: Vec<(String, Vec<u64>)>,
    pub(crate) priority: u8,
    payload: Payload,
    rdma: RdmaArgs,
}

#[derive(Debug)]
enum Payload {
    Picture(Picture),
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
    /// Reads the picture, if one is sent, and finds the shapes.
    pub(crate) fn prepare(client: &Client, args: &BenchArgs) -> Result<Work, Failure> {
        let payload = match &args.image {
            Some(path) => {
                let model = (args.model.as_str(), args.version);
                Payload::Picture(Picture::read(path, args.kind, client, model)?)
            }
            None => Payload::Pattern,
        };
        // Fails here, before anything is measured, if there is no such model.
        let get = v1::GetModelRequest { name: args.model.clone(), version: args.version };
        client.run(control::models(client).get(get))?;
        Ok(Work {
            payload,
            rdma: args.rdma.clone(),
            ..Work::echo(&args.model, args.version, args.in_bytes, args.out_bytes, args.priority)
        })
    }

    /// Pattern bytes for a model; `in_bytes` and `out_bytes` count for `echo` alone.
    pub(crate) fn echo(
        model: &str,
        version: u64,
        in_bytes: u64,
        out_bytes: u64,
        priority: u8,
    ) -> Work {
        let shapes = match model {
            "echo" => {
                vec![("input".to_owned(), vec![in_bytes]), ("output".to_owned(), vec![out_bytes])]
            }
            _ => Vec::new(),
        };
        let model = model.to_owned();
        let rdma = RdmaArgs::default();
        Work { model, version, shapes, priority, payload: Payload::Pattern, rdma }
    }

    /// Asks for room and shapes.
    pub(crate) fn ask<'c, C>(&self, builder: SessionBuilder<'c, C>) -> SessionBuilder<'c, C> {
        let builder = self.rdma.apply(builder.version(self.version));
        let builder =
            self.shapes.iter().fold(builder, |builder, (name, shape)| builder.shape(name, shape));
        match &self.payload {
            Payload::Picture(picture) => builder.request_bytes(picture.bytes().len() as u64),
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
            Payload::Picture(picture) => picture.fill(slot)?,
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
            Payload::Picture(picture) => {
                request.info = Some(picture.info(self.priority));
                request.payload = picture.bytes().to_vec().into();
            }
        }
        request
    }
}
