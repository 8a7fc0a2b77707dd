//! What a file says about its graph, read where a library does not tell.

use ferry_onnx_file::{GraphProto, ModelProto};

/// Operators that give as many elements as their input's values say.
const DATA_DEPENDENT: [&str; 4] = ["NonZero", "NonMaxSuppression", "Unique", "Compress"];

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

/// Whether a file declares the shape of an input or output.
pub(crate) fn declares_shape(model: &ModelProto, name: &str) -> bool {
    let all = model.graph.iter().flat_map(|graph| graph.input.iter().chain(&graph.output));
    let mut named = all.filter(|value| value.name.as_deref() == Some(name));
    named.any(|value| {
        let of_type = value.r#type.as_ref().and_then(|it| it.tensor_type.as_ref());
        of_type.is_some_and(|it| it.shape.is_some())
    })
}
