//! What a message takes in memory once it is decoded, told from its bytes alone.
//!
//! Two bytes on the wire can become a hundred in memory: an empty message in a list is an element
//! of a vector. The sum is taken before anything is allocated, from the compiled descriptors, so
//! that no message and no field can be forgotten.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::Message as _;
use prost::encoding::decode_varint;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorSet};

use crate::DESCRIPTORS;

/// A vector that grows takes up to twice what it holds.
const GROWTH: usize = 2;

/// The packages whose messages are counted. No two have a message of one name, which a test holds.
const PACKAGES: [&str; 2] = [".ferry.v1.", ".inference."];

/// Messages within messages: ours nest three deep.
const DEPTH_MAX: usize = 8;

/// Longest texts of a message together, in bytes: names, and the options of a run. Errors repeat
/// some of them.
const TEXTS_MAX: usize = 256 << 10;

static SCHEMA: LazyLock<Schema> = LazyLock::new(Schema::new);

/// Why a message is not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooCostly {
    /// Too many elements in its lists.
    #[error("{message} would take more than {limit} bytes of memory: its lists are too long")]
    Memory {
        /// The message.
        message: &'static str,
        /// What it may take.
        limit: usize,
    },
    /// Too long texts.
    #[error("{message} has more than {TEXTS_MAX} bytes of text")]
    Texts {
        /// The message.
        message: &'static str,
    },
    /// A group, which proto3 does not have.
    #[error("{message} has a group, which proto3 does not have")]
    Group {
        /// The message.
        message: &'static str,
    },
}

/// What a message of so many bytes may take in memory beside its payload, which is not copied;
/// `None` where nobody has to be afraid of it: answers, which come from the server that the client
/// chose.
pub fn decoded_max(message: &str, wire_bytes: usize) -> Option<usize> {
    match message {
        // Numbers in lists instead of bytes are twice as long while the list grows. Small integers
        // are one byte on the wire and sixteen then: 100,000 tokens have room, and no message
        // becomes much more than four times what it was counted as.
        "ModelInferRequest" => Some(wire_bytes.saturating_mul(4).saturating_add(1 << 20)),
        // The largest batch that is taken, with room for stages to come.
        "TimingBatch" => Some(16 << 20),
        // 4,096 sessions.
        "HeartbeatRequest" => Some(1 << 20),
        // Hundreds of tensors, or the longest texts.
        name if name.ends_with("Request") => Some(256 << 10),
        _ => None,
    }
}

/// Checks what `wire` would take in memory as a `message` of one of the packages.
///
/// Bytes that are no message pass: decoding them stops where this sum did, with an error.
///
/// # Errors
/// [`TooCostly`], before anything was allocated.
pub fn check(message: &'static str, wire: &[u8]) -> Result<(), TooCostly> {
    let Some(limit) = decoded_max(message, wire.len()) else { return Ok(()) };
    let Some(&shape) = SCHEMA.by_name.get(message) else { return Ok(()) };
    let mut left = Left { bytes: limit, texts: TEXTS_MAX };
    SCHEMA.walk(shape, wire, &mut left).map_err(|stop| match stop {
        Stop::Memory => TooCostly::Memory { message, limit },
        Stop::Texts => TooCostly::Texts { message },
        Stop::Group => TooCostly::Group { message },
    })
}

/// Why the sum ended early.
enum Stop {
    Memory,
    Texts,
    Group,
}

/// What may still be spent.
struct Left {
    bytes: usize,
    texts: usize,
}

/// Every message of the packages.
#[derive(Debug)]
struct Schema {
    by_name: HashMap<String, usize>,
    shapes: Vec<Shape>,
}

#[derive(Debug, Default)]
struct Shape {
    /// Of one value, without what it points to.
    bytes: usize,
    /// By number.
    fields: Vec<Option<Field>>,
}

#[derive(Clone, Copy, Debug)]
struct Field {
    kind: Kind,
    repeated: bool,
    /// It is a hash map, whose value without elements is larger than a list's.
    is_map: bool,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Elements of so many bytes; on the wire a varint, or as many bytes.
    Number {
        bytes: usize,
        is_varint: bool,
    },
    Text,
    Bytes,
    Message(usize),
}

impl Schema {
    fn new() -> Schema {
        // Made by this crate's build: they decode, or no test passes.
        let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default();
        let mut all = Vec::new();
        for file in &files.file {
            let package = format!(".{}", file.package());
            for message in &file.message_type {
                collect(&package, message, &mut all);
            }
        }
        let by_path: HashMap<&str, usize> =
            all.iter().enumerate().map(|(at, (path, _))| (path.as_str(), at)).collect();
        let mut shapes: Vec<Shape> = all
            .iter()
            .map(|(_, message)| Shape { bytes: 0, fields: fields(message, &by_path) })
            .collect();
        for at in 0..shapes.len() {
            shapes[at].bytes = size(&shapes, at, DEPTH_MAX);
        }
        let ours = |(at, (path, _)): (usize, &(String, &DescriptorProto))| {
            let name = PACKAGES.iter().find_map(|package| path.strip_prefix(package))?;
            Some((name.to_owned(), at))
        };
        let by_name = all.iter().enumerate().filter_map(ours).collect();
        Schema { by_name, shapes }
    }

    fn walk(&self, shape: usize, mut wire: &[u8], left: &mut Left) -> Result<(), Stop> {
        let fields = &self.shapes[shape].fields;
        while !wire.is_empty() {
            // Whatever ends the walk early ends decoding at the same byte.
            let Ok(key) = decode_varint(&mut wire) else { return Ok(()) };
            let number = usize::try_from(key >> 3).unwrap_or(usize::MAX);
            let field = fields.get(number).copied().flatten();
            // A map's entries are decoded as such whatever the key says of them.
            let is_entry = field.is_some_and(|it| it.is_map) && key & 7 <= 5;
            let fixed = match if is_entry { 2 } else { key & 7 } {
                0 => {
                    let Ok(_) = decode_varint(&mut wire) else { return Ok(()) };
                    0
                }
                1 => 8,
                5 => 4,
                2 => {
                    let Ok(bytes) = decode_varint(&mut wire) else { return Ok(()) };
                    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                    let Some((inside, rest)) = wire.split_at_checked(bytes) else { return Ok(()) };
                    wire = rest;
                    if let Some(field) = field {
                        self.lengthy(field, inside, left)?;
                    }
                    continue;
                }
                _ => return Err(Stop::Group),
            };
            let Some(rest) = wire.get(fixed..) else { return Ok(()) };
            wire = rest;
            if let Some(Field { kind: Kind::Number { bytes, .. }, repeated: true, .. }) = field {
                spend(left, bytes * GROWTH)?;
            }
        }
        Ok(())
    }

    /// A field that says its length.
    fn lengthy(&self, field: Field, inside: &[u8], left: &mut Left) -> Result<(), Stop> {
        let element = |bytes: usize| if field.repeated { bytes * GROWTH } else { 0 };
        match field.kind {
            Kind::Number { bytes, is_varint } => {
                let elements = if is_varint {
                    inside.iter().filter(|&&byte| byte < 0x80).count()
                } else {
                    inside.len() / bytes
                };
                spend(left, elements.saturating_mul(bytes * GROWTH))
            }
            Kind::Text => {
                left.texts = left.texts.checked_sub(inside.len()).ok_or(Stop::Texts)?;
                spend(left, inside.len().saturating_add(element(size_of::<String>())))
            }
            // Shared with the message that came.
            Kind::Bytes => spend(left, element(size_of::<bytes::Bytes>())),
            Kind::Message(shape) => {
                spend(left, element(self.shapes[shape].bytes))?;
                self.walk(shape, inside, left)
            }
        }
    }
}

fn spend(left: &mut Left, bytes: usize) -> Result<(), Stop> {
    left.bytes = left.bytes.checked_sub(bytes).ok_or(Stop::Memory)?;
    Ok(())
}

/// A message and those declared inside it, each with its path.
fn collect<'m>(
    within: &str,
    message: &'m DescriptorProto,
    all: &mut Vec<(String, &'m DescriptorProto)>,
) {
    let path = format!("{within}.{}", message.name());
    for nested in &message.nested_type {
        collect(&path, nested, all);
    }
    all.push((path, message));
}

fn fields(message: &DescriptorProto, by_path: &HashMap<&str, usize>) -> Vec<Option<Field>> {
    let mut fields = Vec::new();
    let is_entry = |it: &&DescriptorProto| it.options.as_ref().is_some_and(|of| of.map_entry());
    let entries: Vec<&str> =
        message.nested_type.iter().filter(is_entry).map(|it| it.name()).collect();
    for field in &message.field {
        let path = field.type_name();
        let is_map = entries.iter().any(|name| path.rsplit('.').next() == Some(name));
        let kind = match field.r#type() {
            Type::String => Kind::Text,
            Type::Bytes => Kind::Bytes,
            Type::Message | Type::Group => match by_path.get(path) {
                Some(&shape) => Kind::Message(shape),
                None => continue,
            },
            Type::Fixed64 | Type::Sfixed64 | Type::Double => {
                Kind::Number { bytes: 8, is_varint: false }
            }
            Type::Fixed32 | Type::Sfixed32 | Type::Float => {
                Kind::Number { bytes: 4, is_varint: false }
            }
            Type::Bool => Kind::Number { bytes: 1, is_varint: true },
            Type::Int32 | Type::Uint32 | Type::Sint32 | Type::Enum => {
                Kind::Number { bytes: 4, is_varint: true }
            }
            Type::Int64 | Type::Uint64 | Type::Sint64 => Kind::Number { bytes: 8, is_varint: true },
        };
        let number = usize::try_from(field.number()).unwrap_or_default();
        if fields.len() <= number {
            fields.resize(number + 1, None);
        }
        fields[number] = Some(Field { kind, repeated: field.label() == Label::Repeated, is_map });
    }
    fields
}

/// One value of a message, generously.
fn size(shapes: &[Shape], at: usize, depth: usize) -> usize {
    let one = |field: &Field| match field.kind {
        _ if field.is_map => size_of::<HashMap<u8, u8>>(),
        _ if field.repeated => size_of::<Vec<u8>>(),
        // An optional one has a mark.
        Kind::Number { .. } => 2 * size_of::<u64>(),
        Kind::Text => size_of::<String>(),
        Kind::Bytes => size_of::<bytes::Bytes>(),
        Kind::Message(_) if depth == 0 => size_of::<usize>(),
        Kind::Message(inner) => size(shapes, inner, depth - 1) + size_of::<u64>(),
    };
    shapes[at].fields.iter().flatten().map(one).sum()
}

#[cfg(test)]
mod tests;
