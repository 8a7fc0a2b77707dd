//! 32-bit floats made 16-bit ones.
//!
//! TensorRT computes in the types that the graph has: it has no flag for half precision any more.
//! So the graph is rewritten: weights and constants become `FLOAT16`, inputs and outputs get a
//! `Cast`, so that the signature stays as it is.

use std::collections::{HashMap, HashSet};

use ::half::f16;
use bytes::Bytes;
use prost::Message;

use ferry_onnx_file::{
    AttributeProto, FLOAT, FLOAT16, GraphProto, ModelProto, NodeProto, TensorProto,
};

/// `AttributeProto.AttributeType`.
const KIND_INT: i32 = 2;
const KIND_TENSOR: i32 = 4;

/// Inputs of operators that are 32-bit floats by definition: operator and position.
const STAY_FLOAT: [(&str, usize); 3] = [("Resize", 1), ("Resize", 2), ("Upsample", 1)];

/// What the rewritten graph calls the 16-bit form of an input or output.
const SUFFIX: &str = "/half";

/// The model in 16 bits, encoded.
///
/// # Errors
/// Why this graph cannot be rewritten.
pub(crate) fn convert(mut model: ModelProto) -> Result<Bytes, String> {
    if !model.functions.is_empty() {
        return Err("a model with functions cannot be made half precision".to_owned());
    }
    if let Some(graph) = model.graph.as_mut() {
        convert_graph(graph)?;
    }
    Ok(model.encode_to_vec().into())
}

fn convert_graph(graph: &mut GraphProto) -> Result<(), String> {
    if !graph.sparse_initializer.is_empty() {
        return Err("a model with sparse weights cannot be made half precision".to_owned());
    }
    let stay = stay_float(graph)?;
    for weight in &mut graph.initializer {
        if !stay.contains(weight.name.as_deref().unwrap_or_default()) {
            convert_tensor(weight)?;
        }
    }
    for node in graph.node.iter_mut().filter(|node| is_standard(node)) {
        convert_attributes(node, &stay)?;
    }
    cast_inputs_and_outputs(graph);
    Ok(())
}

fn is_standard(node: &NodeProto) -> bool {
    matches!(node.domain.as_deref(), None | Some("" | "ai.onnx"))
}

/// Names that must stay 32-bit floats.
fn stay_float(graph: &GraphProto) -> Result<HashSet<String>, String> {
    let (mut stay, mut change) = (HashSet::new(), HashSet::new());
    for node in &graph.node {
        let op = node.op_type.as_deref().unwrap_or_default();
        for (position, name) in node.input.iter().enumerate() {
            let set = if STAY_FLOAT.contains(&(op, position)) { &mut stay } else { &mut change };
            set.insert(name.clone());
        }
    }
    stay.remove("");
    match stay.intersection(&change).next() {
        Some(both) => Err(format!("{both:?} is used as a scale and as a number")),
        None => Ok(stay),
    }
}

fn convert_attributes(node: &mut NodeProto, stay: &HashSet<String>) -> Result<(), String> {
    let op = node.op_type.clone().unwrap_or_default();
    if node.output.iter().any(|output| stay.contains(output)) {
        return Ok(());
    }
    for attribute in &mut node.attribute {
        if attribute.g.is_some() || !attribute.graphs.is_empty() {
            return Err(format!(
                "operator {op} has a subgraph, which cannot be made half precision"
            ));
        }
        if let Some(tensor) = &mut attribute.t {
            convert_tensor(tensor)?;
        }
        let name = attribute.name.as_deref().unwrap_or_default();
        if matches!(name, "to" | "dtype") && attribute.i == Some(i64::from(FLOAT)) {
            attribute.i = Some(i64::from(FLOAT16));
        }
        if op == "Constant" && matches!(name, "value_float" | "value_floats") {
            *attribute = constant(attribute);
        }
    }
    Ok(())
}

/// `value_float` or `value_floats` as `value`, which has a type of its own.
fn constant(attribute: &AttributeProto) -> AttributeProto {
    let one = attribute.f.filter(|_| attribute.name.as_deref() == Some("value_float"));
    let (dims, floats) = match one {
        Some(number) => (Vec::new(), vec![number]),
        None => {
            (vec![i64::try_from(attribute.floats.len()).unwrap_or(0)], attribute.floats.clone())
        }
    };
    let tensor = TensorProto {
        dims,
        data_type: Some(FLOAT16),
        raw_data: Some(floats.into_iter().flat_map(|it| half(it).to_le_bytes()).collect()),
        ..TensorProto::default()
    };
    AttributeProto {
        name: Some("value".to_owned()),
        t: Some(tensor),
        r#type: Some(KIND_TENSOR),
        ..AttributeProto::default()
    }
}

fn convert_tensor(tensor: &mut TensorProto) -> Result<(), String> {
    if tensor.data_type != Some(FLOAT) {
        return Ok(());
    }
    let halves: Bytes = match tensor.raw_data.take() {
        Some(raw) => {
            let (numbers, rest) = raw.as_chunks::<4>();
            if !rest.is_empty() {
                let name = tensor.name.as_deref().unwrap_or_default();
                return Err(format!("{name:?} has {} bytes of 32-bit floats", raw.len()));
            }
            numbers.iter().flat_map(|it| half(f32::from_le_bytes(*it)).to_le_bytes()).collect()
        }
        None => tensor.float_data.drain(..).flat_map(|it| half(it).to_le_bytes()).collect(),
    };
    tensor.raw_data = Some(halves);
    tensor.data_type = Some(FLOAT16);
    Ok(())
}

fn cast_inputs_and_outputs(graph: &mut GraphProto) {
    let weights: HashSet<&str> =
        graph.initializer.iter().filter_map(|weight| weight.name.as_deref()).collect();
    let made: HashSet<&str> =
        graph.node.iter().flat_map(|node| &node.output).map(String::as_str).collect();
    let floats = |values: &[ferry_onnx_file::ValueInfoProto]| -> Vec<String> {
        let float = values.iter().filter(|value| {
            let tensor = value.r#type.as_ref().and_then(|it| it.tensor_type.as_ref());
            tensor.is_some_and(|it| it.elem_type == Some(FLOAT))
        });
        float.filter_map(|value| value.name.clone()).collect()
    };
    let mut inputs = floats(&graph.input);
    inputs.retain(|name| !weights.contains(name.as_str()));
    let mut outputs = floats(&graph.output);
    outputs.retain(|name| made.contains(name.as_str()));

    let renamed: HashMap<String, String> =
        inputs.iter().chain(&outputs).map(|it| (it.clone(), format!("{it}{SUFFIX}"))).collect();
    for node in &mut graph.node {
        let op = node.op_type.clone().unwrap_or_default();
        for (position, name) in node.input.iter_mut().enumerate() {
            if !STAY_FLOAT.contains(&(op.as_str(), position))
                && let Some(half) = renamed.get(name)
            {
                name.clone_from(half);
            }
        }
        for name in &mut node.output {
            if let Some(half) = renamed.get(name) {
                name.clone_from(half);
            }
        }
    }
    let before = inputs.iter().map(|it| cast(it, &renamed[it], FLOAT16)).collect::<Vec<_>>();
    graph.node.splice(0..0, before);
    graph.node.extend(outputs.iter().map(|it| cast(&renamed[it], it, FLOAT)));
}

fn cast(from: &str, to: &str, data_type: i32) -> NodeProto {
    let attribute = AttributeProto {
        name: Some("to".to_owned()),
        i: Some(i64::from(data_type)),
        r#type: Some(KIND_INT),
        ..AttributeProto::default()
    };
    NodeProto {
        input: vec![from.to_owned()],
        output: vec![to.to_owned()],
        name: Some(format!("{to}{SUFFIX}/cast")),
        op_type: Some("Cast".to_owned()),
        attribute: vec![attribute],
        domain: None,
    }
}

/// The nearest 16-bit float, ties to even. What is finite stays so: numbers that are out of range,
/// as masks have them, become the largest there is.
fn half(number: f32) -> f16 {
    let nearest = f16::from_f32(number);
    if nearest.is_infinite() && number.is_finite() { f16::MAX.copysign(nearest) } else { nearest }
}

#[cfg(test)]
mod tests;
