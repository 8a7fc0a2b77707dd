//! Weights that lie in files beside the model's: which they are, and how a model is made to find
//! them in memory.
//!
//! The file is walked as protobuf, field by field, and only tensors with external data are
//! written anew: whatever else is in it, known here or not, stays byte for byte what it was.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use ferry_onnx_file::walk::{BYTES, Message, VARINT, fields};

/// `TensorProto.DataLocation.EXTERNAL`.
const EXTERNAL: u64 = 1;

/// Fields of `TensorProto`.
const RAW_DATA: u64 = 9;
const EXTERNAL_DATA: u64 = 13;
const DATA_LOCATION: u64 = 14;

/// Files by the name that the model gives them, `./` left out.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Where the weights go that a model keeps in other files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weights {
    /// Those of the main graph stay beside the model, under the name that [`Files`] has.
    Beside,
    /// All become part of the model.
    Inside,
}

/// The files that a model's weights lie in.
///
/// # Errors
/// A text that says what is wrong: no protobuf, or a name that leads out of the model's folder.
pub(crate) fn names(model: &[u8]) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    find(Message::Model, model, 0, &mut names)?;
    names.sort();
    names.dedup();
    Ok(names)
}

fn find(
    message: Message,
    bytes: &[u8],
    depth: usize,
    names: &mut Vec<String>,
) -> Result<(), String> {
    if message.is_tensor() {
        names.extend(external(bytes)?.map(|external| external.file));
        return Ok(());
    }
    for field in fields(bytes, depth)? {
        let field = field?;
        if let Some(inner) = field.message_in(message) {
            find(inner, field.payload, depth + 1, names)?;
        }
    }
    Ok(())
}

/// The model with its weights where `weights` says.
///
/// # Errors
/// A text that names the weight whose data is not in its file.
pub(crate) fn resolved(model: &[u8], files: &Files, weights: Weights) -> Result<Vec<u8>, String> {
    rewrite(Message::Model, model, 0, files, weights)
}

fn rewrite(
    message: Message,
    bytes: &[u8],
    depth: usize,
    files: &Files,
    weights: Weights,
) -> Result<Vec<u8>, String> {
    if message.is_tensor() {
        let beside = weights == Weights::Beside && message == Message::Weight;
        return tensor(bytes, files, beside);
    }
    let mut out = Vec::with_capacity(bytes.len());
    for field in fields(bytes, depth)? {
        let field = field?;
        match field.message_in(message) {
            None => out.extend_from_slice(field.whole),
            Some(inner) => {
                put(
                    &mut out,
                    field.number,
                    &rewrite(inner, field.payload, depth + 1, files, weights)?,
                );
            }
        }
    }
    Ok(out)
}

/// A tensor with its data inside, or `beside` under the name that the file has here.
fn tensor(bytes: &[u8], files: &Files, beside: bool) -> Result<Vec<u8>, String> {
    let Some(external) = external(bytes)? else { return Ok(bytes.to_vec()) };
    let file =
        files.get(&external.file).ok_or_else(|| format!("{:?} was not read", external.file))?;
    let data = external.of(file)?;
    let mut out = Vec::new();
    for field in fields(bytes, 0)? {
        let field = field?;
        if ![EXTERNAL_DATA, DATA_LOCATION, RAW_DATA].contains(&field.number) {
            out.extend_from_slice(field.whole);
        }
    }
    if beside {
        let (offset, length) = (external.offset.to_string(), data.len().to_string());
        for (key, value) in [("location", &external.file), ("offset", &offset), ("length", &length)]
        {
            let mut entry = Vec::new();
            put(&mut entry, 1, key.as_bytes());
            put(&mut entry, 2, value.as_bytes());
            put(&mut out, EXTERNAL_DATA, &entry);
        }
        put_varint(&mut out, DATA_LOCATION << 3 | VARINT);
        put_varint(&mut out, EXTERNAL);
    } else {
        put(&mut out, RAW_DATA, data);
    }
    Ok(out)
}

/// Where a tensor's data lies.
struct External {
    tensor: String,
    file: String,
    offset: u64,
    length: Option<u64>,
}

impl External {
    fn of<'a>(&self, file: &'a [u8]) -> Result<&'a [u8], String> {
        let External { tensor, file: name, offset, length } = self;
        let from = usize::try_from(*offset).ok().and_then(|from| file.get(from..));
        let data = match (from, length) {
            (Some(from), Some(length)) => {
                usize::try_from(*length).ok().and_then(|to| from.get(..to))
            }
            (from, None) => from,
            (None, Some(_)) => None,
        };
        data.ok_or_else(|| {
            let (all, length) = (file.len(), length.unwrap_or(0));
            format!("weight {tensor:?} is {length} bytes at {offset} of {name:?}, which has {all}")
        })
    }
}

/// Reads of a tensor what matters here; `None` if its data is inside.
fn external(bytes: &[u8]) -> Result<Option<External>, String> {
    let (mut is_external, mut tensor, mut entries) = (false, String::new(), Vec::new());
    for field in fields(bytes, 0)? {
        let field = field?;
        match (field.number, field.wire) {
            (8, BYTES) => tensor = text(field.payload),
            (EXTERNAL_DATA, BYTES) => entries.push(entry(field.payload)?),
            (DATA_LOCATION, VARINT) => is_external = field.value == EXTERNAL,
            _ => {}
        }
    }
    if !is_external {
        return Ok(None);
    }
    let value =
        |key: &str| entries.iter().rev().find(|entry| entry.0 == key).map(|it| it.1.as_str());
    let number = |key: &str| match value(key) {
        None => Ok(None),
        Some(number) => number
            .parse()
            .map(Some)
            .map_err(|_no_number| format!("weight {tensor:?} has the {key} {number:?}")),
    };
    let location = value("location").unwrap_or_default();
    let file = plain(location).ok_or_else(|| {
        format!("weight {tensor:?} lies in {location:?}, which is no file in the model's folder")
    })?;
    let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
    Ok(Some(External { tensor, file, offset, length }))
}

/// A name that leads to nothing outside of the model's folder, without `./`.
fn plain(location: &str) -> Option<String> {
    let mut parts = Vec::new();
    for component in Path::new(location).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            _ => return None,
        }
    }
    (!parts.is_empty() && !location.contains('\0')).then(|| parts.join("/"))
}

fn entry(bytes: &[u8]) -> Result<(String, String), String> {
    let mut entry = (String::new(), String::new());
    for field in fields(bytes, 0)? {
        let field = field?;
        match (field.number, field.wire) {
            (1, BYTES) => entry.0 = text(field.payload),
            (2, BYTES) => entry.1 = text(field.payload),
            _ => {}
        }
    }
    Ok(entry)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7F).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}

fn put(out: &mut Vec<u8>, field: u64, payload: &[u8]) {
    put_varint(out, field << 3 | BYTES);
    put_varint(out, payload.len() as u64);
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests;
