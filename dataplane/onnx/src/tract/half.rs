//! Models in half precision.
//!
//! tract computes 16-bit floats one by one where the processor has no instructions for them: one
//! answer of ResNet50 took ten minutes. So such a graph is widened: its weights are the numbers of
//! the file, and all is computed in 32 bits. Inputs and outputs are those of the file. ONNX Runtime
//! does the same for operators that it has no 16-bit kernel of.

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, NodeProto};
use tract_onnx::prelude::{DatumType, IntoTValue, TValue, TVec, TractResult, TypedModel};
use tract_onnx::tract_core::floats::FloatPrecisionTranslator;
use tract_onnx::tract_core::transform::ModelTransform;

/// What to do about a graph in half precision that tract refuses.
pub(super) const TRY_ONNX: &str = "the file is in half precision, which tract does not take for \
     every operator: run dataplane/onnx/fetch-onnxruntime and use engine = \"onnx\", or export the \
     model in 32 bits";

/// Whether a graph has weights of 16 bits.
pub(super) fn has_halves(graph: &GraphProto) -> bool {
    graph.initializer.iter().any(|weight| weight.data_type == DataType::Float16 as i32)
}

/// What the outputs of a graph are.
pub(super) fn output_types(model: &TypedModel) -> TractResult<Vec<DatumType>> {
    model.outputs.iter().map(|&outlet| Ok(model.outlet_fact(outlet)?.datum_type)).collect()
}

/// The same graph, computed in 32-bit floats; its 16-bit inputs and outputs become 32-bit ones.
pub(super) fn widened(mut model: TypedModel) -> TractResult<TypedModel> {
    let facts = model.nodes.iter().flat_map(|node| &node.outputs).map(|outlet| &outlet.fact);
    if facts.into_iter().any(|fact| fact.datum_type == DatumType::F16) {
        FloatPrecisionTranslator::new(DatumType::F16, DatumType::F32).transform(&mut model)?;
    }
    Ok(model)
}

/// What a widened graph takes.
pub(super) fn wide(inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
    let wide = |value: TValue| match value.datum_type() {
        DatumType::F16 => Ok(value.cast_to_dt(DatumType::F32)?.into_owned().into_tvalue()),
        _ => Ok(value),
    };
    inputs.into_iter().map(wide).collect()
}

/// An output of a widened graph as the file declares it: rounded to the nearest, ties to even.
pub(super) fn round(value: &mut TValue) -> TractResult<()> {
    if value.datum_type() == DatumType::F32 {
        *value = value.cast_to_dt(DatumType::F16)?.into_owned().into_tvalue();
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use tract_onnx::pb::AttributeProto;

    use super::*;

    fn gemm(inputs: &[&str], beta: Option<f32>) -> NodeProto {
        let beta =
            beta.map(|f| AttributeProto { name: "beta".to_owned(), f, ..Default::default() });
        NodeProto {
            input: inputs.iter().map(|&it| it.to_owned()).collect(),
            output: vec!["y".to_owned()],
            name: "fc".to_owned(),
            op_type: "Gemm".to_owned(),
            attribute: beta.into_iter().collect(),
            ..NodeProto::default()
        }
    }

    fn split(node: NodeProto) -> Vec<NodeProto> {
        let mut graph = GraphProto { node: vec![node], ..GraphProto::default() };
        split_gemms(&mut graph);
        graph.node
    }

    #[test]
    fn the_addend_of_a_gemm_is_added_by_a_node_of_its_own() {
        for beta in [None, Some(1.0)] {
            let [product, sum] = split(gemm(&["x", "w", "b"], beta)).try_into().unwrap();
            assert_eq!((product.op_type.as_str(), sum.op_type.as_str()), ("Gemm", "Add"));
            assert_eq!(product.input, ["x", "w"]);
            assert_eq!(sum.input, [product.output[0].as_str(), "b"]);
            assert_eq!(sum.output, ["y"]);
        }
    }

    #[test]
    fn other_nodes_stay_as_they_are() {
        let relu = NodeProto { op_type: "Relu".to_owned(), ..gemm(&["x", "w", "b"], None) };
        let without = [gemm(&["x", "w"], None), gemm(&["x", "w", ""], None)];
        let scaled = gemm(&["x", "w", "b"], Some(2.0));
        for node in without.into_iter().chain([scaled, relu]) {
            assert_eq!(split(node.clone()), [node]);
        }
    }
}
