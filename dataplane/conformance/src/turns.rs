//! A model that takes as long as it is told: for bounds on the time of a run.

use ferry_onnx_file::{
    AttributeProto, DimensionProto, GraphProto, INT64, ModelProto, NodeProto, OperatorSetIdProto,
    TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use prost::Message;

/// `AttributeProto.AttributeType` of a graph.
const GRAPH: i32 = 5;

/// `TensorProto.DataType` of a boolean.
const BOOL: i32 = 9;

/// Turns that no machine takes within hours.
pub const ENDLESS: i64 = 1 << 60;

/// The file of a model that adds the input `x` to itself in a loop of `n` turns and gives `n · x` in
/// `last`. All three are one 64-bit integer: `n` without a dimension, the others with one of 1. It
/// takes no more memory for more turns.
pub fn onnx() -> Vec<u8> {
    let body = GraphProto {
        node: vec![node("Identity", &["go"], "on"), node("Add", &["before", "x"], "after")],
        name: Some("turn".to_owned()),
        input: vec![
            value("turn", INT64, &[]),
            value("go", BOOL, &[]),
            value("before", INT64, &[1]),
        ],
        output: vec![value("on", BOOL, &[]), value("after", INT64, &[1])],
        ..GraphProto::default()
    };
    let attribute = AttributeProto {
        name: Some("body".to_owned()),
        g: Some(body.encode_to_vec().into()),
        r#type: Some(GRAPH),
        ..AttributeProto::default()
    };
    let mut turns = node("Loop", &["n", "", "nothing"], "last");
    turns.attribute.push(attribute);
    let graph = GraphProto {
        node: vec![node("Sub", &["x", "x"], "nothing"), turns],
        name: Some("turns".to_owned()),
        input: vec![value("n", INT64, &[]), value("x", INT64, &[1])],
        output: vec![value("last", INT64, &[1])],
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { version: Some(13), ..OperatorSetIdProto::default() };
    ModelProto {
        ir_version: Some(8),
        graph: Some(graph),
        opset_import: vec![opset],
        ..ModelProto::default()
    }
    .encode_to_vec()
}

/// The payload of a request: its inputs begin at multiples of 64 bytes.
pub fn request(turns: i64, x: i64) -> Vec<u8> {
    let mut payload = vec![0; 64];
    payload[..8].copy_from_slice(&turns.to_le_bytes());
    payload.extend(x.to_le_bytes());
    payload
}

fn node(operator: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        input: inputs.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        op_type: Some(operator.to_owned()),
        ..NodeProto::default()
    }
}

fn value(name: &str, elements: i32, shape: &[i64]) -> ValueInfoProto {
    let dim = |&size| DimensionProto { dim_value: Some(size), dim_param: None };
    let shape = TensorShapeProto { dim: shape.iter().map(dim).collect() };
    let tensor = TensorTypeProto { elem_type: Some(elements), shape: Some(shape) };
    let kind = TypeProto { tensor_type: Some(tensor), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(kind) }
}
