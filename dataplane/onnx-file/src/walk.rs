//! A file walked field by field: what is looked for is found without decoding the rest, weights of
//! gigabytes among it, and what is not known here can be passed on as it is.

use crate::DEPTH_MAX;

/// Protobuf's wire type of a number.
pub const VARINT: u64 = 0;
/// Protobuf's wire type of bytes, texts and messages.
pub const BYTES: u64 = 2;

/// The messages of an ONNX file in which tensors occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// The file itself.
    Model,
    /// The model's graph.
    MainGraph,
    /// A graph within another one.
    Graph,
    /// An operator.
    Node,
    /// A setting of an operator.
    Attribute,
    /// An operator that the file defines by others.
    Function,
    /// A sparse tensor.
    Sparse,
    /// A weight of the main graph.
    Weight,
    /// Any other tensor.
    Tensor,
}

impl Message {
    /// The message in a field.
    fn inner(self, field: u64) -> Option<Message> {
        Some(match (self, field) {
            (Message::Model, 7) => Message::MainGraph,
            (Message::Model, 25) => Message::Function,
            (Message::MainGraph | Message::Graph, 1) | (Message::Function, 7) => Message::Node,
            (Message::MainGraph, 5) => Message::Weight,
            (Message::Graph, 5) | (Message::Sparse, 1 | 2) => Message::Tensor,
            (Message::MainGraph | Message::Graph, 15) => Message::Sparse,
            (Message::Node, 5) | (Message::Function, 11) => Message::Attribute,
            (Message::Attribute, 5 | 10) => Message::Tensor,
            (Message::Attribute, 6 | 11) => Message::Graph,
            (Message::Attribute, 22 | 23) => Message::Sparse,
            _ => return None,
        })
    }

    /// Whether it is a tensor, and so has no message of these in it.
    pub fn is_tensor(self) -> bool {
        matches!(self, Message::Weight | Message::Tensor)
    }
}

/// One field of a message.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// Which field.
    pub number: u64,
    /// [`VARINT`], [`BYTES`] or another of protobuf's wire types.
    pub wire: u64,
    /// With its tag and its length.
    pub whole: &'a [u8],
    /// Of a field of [`BYTES`]; else empty.
    pub payload: &'a [u8],
    /// Of a field of [`VARINT`]; else 0.
    pub value: u64,
}

impl Field<'_> {
    /// The message that it holds, in one that is `outer`.
    pub fn message_in(&self, outer: Message) -> Option<Message> {
        outer.inner(self.number).filter(|_| self.wire == BYTES)
    }
}

/// The fields of a message that lies `depth` deep.
///
/// # Errors
/// A text: that this is too deep, or, for a field, that it is no protobuf. Nothing comes after it.
pub fn fields(
    mut bytes: &[u8],
    depth: usize,
) -> Result<impl Iterator<Item = Result<Field<'_>, String>>, String> {
    if depth > DEPTH_MAX {
        return Err(format!("graphs within graphs, more than {DEPTH_MAX} deep"));
    }
    Ok(std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let field = field(&mut bytes).ok_or_else(|| {
            bytes = &[];
            "not the format of an ONNX file".to_owned()
        });
        Some(field)
    }))
}

fn field<'a>(bytes: &mut &'a [u8]) -> Option<Field<'a>> {
    let all = *bytes;
    let tag = varint(bytes).filter(|&tag| tag >> 3 != 0)?;
    let (mut payload, mut value) = (&all[..0], 0);
    match tag & 7 {
        VARINT => value = varint(bytes)?,
        1 => take(bytes, 8).map(drop)?,
        BYTES => {
            let long = varint(bytes)?;
            payload = take(bytes, usize::try_from(long).ok()?)?;
        }
        5 => take(bytes, 4).map(drop)?,
        _ => return None,
    }
    let whole = all.get(..all.len() - bytes.len())?;
    Some(Field { number: tag >> 3, wire: tag & 7, whole, payload, value })
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
