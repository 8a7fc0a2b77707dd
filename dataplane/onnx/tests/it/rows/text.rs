//! Small models, written as text: a line for each tensor or operator.
//!
//! ```text
//! opset 13                        an older set of operators
//! in x f32 n 3 8                  an input: its type and its dimensions
//! w 4 3                           a weight of noise: w0, the next w1
//! floats s 1,1,2                  weights of these numbers
//! ints axes 0,-1
//! int k 2                         a scalar
//! y z = Split x axis:1 pads:0,1   an operator: its inputs, `_` for one that is left out, attributes
//! out y
//! ```

use ferry_onnx_file::{
    AttributeProto, DimensionProto, FLOAT, GraphProto, INT64, ModelProto, NodeProto,
    OperatorSetIdProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use prost::Message;

use crate::common::{bytes_of, noise};

/// The file of a model.
pub(super) fn onnx(text: &str) -> Vec<u8> {
    let mut version = 17;
    let mut graph = GraphProto { name: Some("text".into()), ..GraphProto::default() };
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match &*words {
            ["opset", number] => version = number.parse().unwrap(),
            ["in", name, kind, dims @ ..] => graph.input.push(value(name, kind, Some(dims))),
            ["out", names @ ..] => {
                graph.output.extend(names.iter().map(|name| value(name, "f32", None)));
            }
            ["w", dims @ ..] => {
                let is_noise = |it: &&TensorProto| it.name().starts_with('w');
                let name = format!("w{}", graph.initializer.iter().filter(is_noise).count());
                graph.initializer.push(noisy(&name, dims));
            }
            ["floats", name, all] => {
                let raw = bytes_of(&numbers::<f32>(all));
                graph.initializer.push(tensor(name, FLOAT, &[all.split(',').count()], raw));
            }
            ["ints", name, all] => {
                let all = numbers::<i64>(all);
                graph.initializer.push(tensor(name, INT64, &[all.len()], integers(&all)));
            }
            ["int", name, one] => {
                graph.initializer.push(tensor(name, INT64, &[], integers(&numbers(one))));
            }
            _ => graph.node.push(node(line)),
        }
    }
    let set = |domain: &str, version| OperatorSetIdProto {
        domain: Some(domain.to_owned()),
        version: Some(version),
    };
    ModelProto {
        ir_version: Some(8),
        graph: Some(graph),
        opset_import: vec![set("", version), set("ai.onnx.ml", 3), set("com.microsoft", 1)],
        ..ModelProto::default()
    }
    .encode_to_vec()
}

fn numbers<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> Vec<T> {
    text.split(',').map(|it| it.parse().unwrap()).collect()
}

fn integers(all: &[i64]) -> Vec<u8> {
    all.iter().flat_map(|it| it.to_le_bytes()).collect()
}

fn tensor(name: &str, kind: i32, dims: &[usize], raw: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(kind),
        dims: dims.iter().map(|&it| i64::try_from(it).unwrap()).collect(),
        raw_data: Some(raw.into()),
        ..TensorProto::default()
    }
}

fn noisy(name: &str, dims: &[&str]) -> TensorProto {
    let dims: Vec<usize> = dims.iter().map(|it| it.parse().unwrap()).collect();
    tensor(name, FLOAT, &dims, bytes_of(&noise(dims.iter().product())))
}

fn value(name: &str, kind: &str, dims: Option<&[&str]>) -> ValueInfoProto {
    let dim = |dim: &&str| match dim.parse() {
        Ok(size) => DimensionProto { dim_value: Some(size), dim_param: None },
        Err(_) => DimensionProto { dim_value: None, dim_param: Some((*dim).to_owned()) },
    };
    let shape = dims.map(|dims| TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let elem_type = Some(if kind == "i64" { INT64 } else { FLOAT });
    let tensor_type = Some(TensorTypeProto { elem_type, shape });
    let r#type = Some(TypeProto { tensor_type, ..TypeProto::default() });
    ValueInfoProto { name: Some(name.to_owned()), r#type }
}

fn node(line: &str) -> NodeProto {
    let (outputs, call) = line.split_once(" = ").unwrap_or_else(|| panic!("no operator: {line}"));
    let mut words = call.split_whitespace();
    let name = words.next().unwrap();
    let (domain, operator) = name.rsplit_once("::").unwrap_or(("", name));
    let (attributes, inputs): (Vec<_>, Vec<_>) = words.partition(|it| it.contains(':'));
    let named = |it: &str| if it == "_" { String::new() } else { it.to_owned() };
    NodeProto {
        op_type: Some(operator.to_owned()),
        domain: Some(domain.to_owned()),
        input: inputs.into_iter().map(named).collect(),
        output: outputs.split_whitespace().map(named).collect(),
        attribute: attributes.into_iter().map(attribute).collect(),
        ..NodeProto::default()
    }
}

fn attribute(text: &str) -> AttributeProto {
    let (name, value) = text.split_once(':').unwrap();
    if value.contains(',') && !value.contains('>') {
        let ints: Vec<i64> = numbers(value.trim_end_matches(','));
        return AttributeProto::ints(name, &ints);
    }
    match (value.parse(), value.parse()) {
        (Ok(int), _) => AttributeProto::int(name, int),
        (_, Ok(float)) => AttributeProto::float(name, float),
        _ => AttributeProto::string(name, value),
    }
}
