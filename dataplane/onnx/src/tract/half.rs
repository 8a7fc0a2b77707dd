//! What tract needs to be told to run a graph in half precision.

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, NodeProto};

/// What to do about a graph in half precision that tract refuses all the same.
pub(super) const TRY_ONNX: &str = "the file is in half precision, which tract does not have for \
     every operator: run dataplane/onnx/fetch-onnxruntime and use engine = \"onnx\", or export the \
     model in 32 bits";

/// Whether a graph has weights of 16 bits.
pub(super) fn has_halves(graph: &GraphProto) -> bool {
    graph.initializer.iter().any(|weight| weight.data_type == DataType::Float16 as i32)
}

/// Writes each `Gemm` with an addend as a `Gemm` without and an `Add`.
///
/// tract multiplies the addend by `beta`, which it keeps as a 32-bit float, so that the sum, too,
/// becomes one, and the graph is refused because its types do not fit. Where `beta` is not 1 the
/// node stays as it is.
pub(super) fn split_gemms(graph: &mut GraphProto) {
    let mut nodes = Vec::with_capacity(graph.node.len());
    for mut node in graph.node.drain(..) {
        let add = addition(&mut node);
        nodes.push(node);
        nodes.extend(add);
    }
    graph.node = nodes;
}

/// Takes the addend from a `Gemm`: the node that adds it.
fn addition(gemm: &mut NodeProto) -> Option<NodeProto> {
    let scaled = |it: &NodeProto| it.attribute.iter().any(|it| it.name == "beta" && it.f != 1.0);
    let is_plain = gemm.op_type == "Gemm" && gemm.input.len() == 3 && !gemm.input[2].is_empty();
    if !is_plain || scaled(gemm) || gemm.output.len() != 1 {
        return None;
    }
    let (addend, sum) = (gemm.input.pop()?, gemm.output.pop()?);
    let product = format!("{sum}/product");
    gemm.output.push(product.clone());
    let name = gemm.name.clone();
    gemm.name = format!("{name}/product");
    Some(NodeProto {
        input: vec![product, addend],
        output: vec![sum],
        name,
        op_type: "Add".to_owned(),
        ..NodeProto::default()
    })
}
