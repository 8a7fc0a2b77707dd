//! Tiny ONNX files, written by hand: protobuf is a sequence of numbered fields.

use std::path::{Path, PathBuf};

/// Element types by their number in ONNX.
pub(crate) const FLOAT: u64 = 1;
pub(crate) const INT64: u64 = 7;
pub(crate) const STRING: u64 = 8;
pub(crate) const BOOL: u64 = 9;

/// A dimension of an input or output.
#[derive(Clone, Copy)]
pub(crate) enum D {
    Of(u64),
    Named(&'static str),
    Open,
}

/// An operator: type, inputs, outputs.
pub(crate) type Node = (&'static str, &'static [&'static str], &'static [&'static str]);

/// An input or output: name, element type, shape.
pub(crate) type Value = (&'static str, u64, &'static [D]);

/// A stored tensor of floats: name, shape, elements.
pub(crate) type Weights = (&'static str, &'static [u64], &'static [f32]);

/// A whole model, as the bytes of its file.
pub(crate) fn onnx(
    nodes: &[Node],
    weights: &[Weights],
    inputs: &[Value],
    outputs: &[Value],
) -> Vec<u8> {
    let mut graph = Vec::new();
    for (op, inputs, outputs) in nodes {
        let mut node = Vec::new();
        inputs.iter().for_each(|name| bytes(&mut node, 1, name.as_bytes()));
        outputs.iter().for_each(|name| bytes(&mut node, 2, name.as_bytes()));
        bytes(&mut node, 4, op.as_bytes());
        bytes(&mut graph, 1, &node);
    }
    bytes(&mut graph, 2, b"tiny");
    for (name, dims, elements) in weights {
        let mut tensor = Vec::new();
        dims.iter().for_each(|&dim| number(&mut tensor, 1, dim));
        number(&mut tensor, 2, FLOAT);
        bytes(&mut tensor, 8, name.as_bytes());
        bytes(&mut tensor, 9, &crate::common::bytes_of(elements));
        bytes(&mut graph, 5, &tensor);
    }
    inputs.iter().for_each(|input| bytes(&mut graph, 11, &value(input)));
    outputs.iter().for_each(|output| bytes(&mut graph, 12, &value(output)));

    let mut opset = Vec::new();
    number(&mut opset, 2, 13);
    let mut model = Vec::new();
    number(&mut model, 1, 8);
    bytes(&mut model, 7, &graph);
    bytes(&mut model, 8, &opset);
    model
}

/// Writes a model's bytes into a file.
pub(crate) fn file(directory: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

fn value((name, element, dims): &Value) -> Vec<u8> {
    let mut shape = Vec::new();
    for dim in *dims {
        let mut one = Vec::new();
        match dim {
            D::Of(size) => number(&mut one, 1, *size),
            D::Named(name) => bytes(&mut one, 2, name.as_bytes()),
            D::Open => {}
        }
        bytes(&mut shape, 1, &one);
    }
    let mut tensor = Vec::new();
    number(&mut tensor, 1, *element);
    bytes(&mut tensor, 2, &shape);
    let mut kind = Vec::new();
    bytes(&mut kind, 1, &tensor);
    let mut value = Vec::new();
    bytes(&mut value, 1, name.as_bytes());
    bytes(&mut value, 2, &kind);
    value
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(u8::try_from(number & 0x7F).unwrap() | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).unwrap());
}

pub(crate) fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

pub(crate) fn bytes(out: &mut Vec<u8>, field: u64, content: &[u8]) {
    varint(out, (field << 3) | 2);
    varint(out, content.len() as u64);
    out.extend(content);
}
