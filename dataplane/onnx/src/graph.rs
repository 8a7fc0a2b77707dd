//! What a file says about its graph, read where a library does not tell.

use std::collections::HashSet;

use ferry_onnx_file::{GraphProto, ModelProto};

/// Operators that give as many elements as their input's values say.
const DATA_DEPENDENT: [&str; 4] = ["NonZero", "NonMaxSuppression", "Unique", "Compress"];

/// Operators whose result tells of their input's shape alone.
const OF_SHAPES: [&str; 2] = ["Shape", "Size"];

/// Decodes a file.
pub(crate) fn read(model: &[u8]) -> Result<ModelProto, String> {
    ferry_onnx_file::read(model)
}

/// An operator whose result's size depends on values, if the file has one: whoever runs it waits
/// for the device on the way.
pub(crate) fn waits_for_values(graph: &GraphProto) -> Option<&'static str> {
    let mut used = graph.node.iter().filter_map(|node| node.op_type.as_deref());
    used.find_map(|used| DATA_DEPENDENT.into_iter().find(|&op| op == used))
}

/// An output that no value of an input reaches: a weight, a constant, or what is made of shapes.
/// Also one that is reached through a graph within the graph alone: an operator that chooses by a
/// constant is a constant, whatever its graphs have.
pub(crate) fn of_no_value(graph: &GraphProto) -> Option<&str> {
    let weights: HashSet<_> =
        graph.initializer.iter().filter_map(|it| it.name.as_deref()).collect();
    let inputs = graph.input.iter().filter_map(|it| it.name.as_deref());
    // Old files list weights among the inputs.
    let mut reached: HashSet<_> = inputs.filter(|name| !weights.contains(name)).collect();
    for node in &graph.node {
        let tells_shapes = node.op_type.as_deref().is_some_and(|op| OF_SHAPES.contains(&op));
        if !tells_shapes && node.input.iter().any(|it| reached.contains(it.as_str())) {
            // One that is left out has an empty name.
            let named = node.output.iter().filter(|it| !it.is_empty());
            reached.extend(named.map(String::as_str));
        }
    }
    let mut outputs = graph.output.iter().filter_map(|it| it.name.as_deref());
    outputs.find(|name| !reached.contains(name))
}

/// Whether a file declares the shape of an input or output.
pub(crate) fn declares_shape(model: &ModelProto, name: &str) -> bool {
    let all = model.graph.iter().flat_map(|graph| graph.input.iter().chain(&graph.output));
    let mut named = all.filter(|value| value.name.as_deref() == Some(name));
    named.any(|value| {
        let of_type = value.r#type.as_ref().and_then(|it| it.tensor_type.as_ref());
        of_type.is_some_and(|it| it.shape.is_some())
    })
}

#[cfg(test)]
mod tests {
    use ferry_onnx_file::{NodeProto, TensorProto, ValueInfoProto};

    use super::*;

    fn value(name: &str) -> ValueInfoProto {
        ValueInfoProto { name: Some(name.into()), ..Default::default() }
    }

    fn graph(nodes: &[(&str, &[&str], &str)], output: &str) -> GraphProto {
        let node = |&(op, inputs, output): &(&str, &[&str], &str)| NodeProto {
            op_type: Some(op.into()),
            input: inputs.iter().map(|&it| it.into()).collect(),
            output: vec![output.into()],
            ..Default::default()
        };
        GraphProto {
            node: nodes.iter().map(node).collect(),
            initializer: vec![TensorProto { name: Some("w".into()), ..Default::default() }],
            // As old files have it.
            input: vec![value("x"), value("w")],
            output: vec![value(output)],
            ..Default::default()
        }
    }

    #[test]
    fn outputs_that_no_value_reaches_are_found() {
        for (nodes, output) in [
            (&[][..], "w"),
            (&[("Identity", &["w"][..], "same")][..], "same"),
            (&[("Constant", &[], "c")], "c"),
            (&[("Shape", &["x"], "s"), ("Add", &["s", "w"], "t")], "t"),
            (&[("If", &["w"], "y")], "y"),
        ] {
            assert_eq!(of_no_value(&graph(nodes, output)), Some(output));
        }
    }

    #[test]
    fn tensors_that_are_left_out_are_not_one_tensor() {
        let mut graph = graph(&[("Split", &["x"], "a"), ("Clip", &["w", "", "w"], "y")], "y");
        graph.node[0].output.push(String::new());
        assert_eq!(of_no_value(&graph), Some("y"));
    }

    #[test]
    fn outputs_that_are_computed_from_an_input_are_not() {
        for (nodes, output) in [
            (&[("Add", &["x", "w"][..], "y")][..], "y"),
            (&[("Shape", &["x"], "s"), ("Reshape", &["x", "s"], "y")], "y"),
            (&[("If", &["x"], "y")], "y"),
        ] {
            assert_eq!(of_no_value(&graph(nodes, output)), None);
        }
    }
}
