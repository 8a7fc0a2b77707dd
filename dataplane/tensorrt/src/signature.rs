//! The signature of a parsed network.

use std::collections::HashSet;

use ferry_core::{DType, Dim, Signature, TensorSpec};
use ferry_engine::EngineError;
use trtx::{DataType, NetworkDefinition, Tensor};

use crate::source::{EXPORT_AGAIN, Source};
use ferry_onnx_file::GraphProto;

/// What the network takes and gives. The parser tells which dimensions are open, the file how
/// they are called; one without a name gets `TENSOR.POSITION`.
pub(crate) fn signature(
    source: &Source,
    graph: &GraphProto,
    network: &NetworkDefinition<'_>,
) -> Result<Signature, EngineError> {
    let mut taken: HashSet<String> = graph
        .input
        .iter()
        .chain(&graph.output)
        .filter_map(|value| value.name.as_deref())
        .flat_map(|name| graph.dim_names(name))
        .flatten()
        .map(str::to_owned)
        .collect();
    let mut inputs = Vec::new();
    for tensor in network.inputs() {
        if tensor.is_shape_tensor(network) {
            let name = tensor.name(network).unwrap_or_default();
            let why = format!("the values of input {name:?} are the shape of another tensor");
            return Err(source.unusable(why, "export the model without that input"));
        }
        inputs.push(spec(source, graph, network, &tensor, &mut taken)?);
    }
    let mut outputs = Vec::new();
    for tensor in network.outputs() {
        outputs.push(spec(source, graph, network, &tensor, &mut taken)?);
    }
    let signature = Signature { inputs, outputs };
    if signature.outputs.is_empty() {
        return Err(source.unusable("the model has no outputs", EXPORT_AGAIN));
    }
    match signature.open_output() {
        None => Ok(signature),
        Some(output) => {
            let why = format!("the shapes of the inputs do not tell the size of output {output}");
            let fix = "use engine = \"onnx\", which serves it, or export the model with an output \
                       of fixed size, or whose open dimensions have the names of the inputs'";
            Err(source.unusable(why, fix))
        }
    }
}

fn spec(
    source: &Source,
    graph: &GraphProto,
    network: &NetworkDefinition<'_>,
    tensor: &Tensor<'_>,
    taken: &mut HashSet<String>,
) -> Result<TensorSpec, EngineError> {
    let broken = |error: trtx::Error| source.unusable(error, EXPORT_AGAIN);
    let name = tensor.name(network).map_err(broken)?;
    let data_type = tensor.data_type(network);
    let dtype = dtype(data_type).ok_or_else(|| {
        let why = format!("{name:?} has elements of type {data_type:?}");
        source.unusable(why, "export the model with plain numeric tensors")
    })?;
    let names = graph.dim_names(&name);
    let mut dim = |(position, size): (usize, i64)| match u64::try_from(size) {
        Ok(size) => Dim::Fixed(size),
        Err(_open) => match names.get(position).copied().flatten() {
            Some(name) => Dim::Named(name.to_owned()),
            None => Dim::Named(own_name(&name, position, taken)),
        },
    };
    let dims = tensor.dimensions(network).map_err(broken)?;
    let shape = dims.into_iter().enumerate().map(&mut dim).collect();
    Ok(TensorSpec { name, dtype, shape })
}

fn own_name(tensor: &str, position: usize, taken: &mut HashSet<String>) -> String {
    let mut name = format!("{tensor}.{position}");
    while !taken.insert(name.clone()) {
        name.push('\'');
    }
    name
}

fn dtype(data_type: DataType) -> Option<DType> {
    Some(match data_type {
        DataType::kFLOAT => DType::F32,
        DataType::kHALF => DType::F16,
        DataType::kBF16 => DType::Bf16,
        DataType::kINT8 => DType::I8,
        DataType::kINT32 => DType::I32,
        DataType::kINT64 => DType::I64,
        DataType::kUINT8 => DType::U8,
        DataType::kBOOL => DType::Bool,
        _ => return None,
    })
}
