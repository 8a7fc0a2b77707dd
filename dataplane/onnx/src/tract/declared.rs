//! What a file declares of its inputs and outputs, as tract reads it.

use std::collections::HashSet;

use ferry_core::DType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as DimValue;
use tract_onnx::pb::type_proto::Value as TypeValue;
use tract_onnx::pb::{GraphProto, ModelProto, ValueInfoProto};
use tract_onnx::prelude::Framework;

use crate::signature::{Declared, DeclaredDim, Refused};

/// Decodes a file.
pub(super) fn read(mut model: &[u8]) -> Result<ModelProto, String> {
    tract_onnx::onnx().proto_model_for_read(&mut model).map_err(|error| format!("{error:#}"))
}

/// The inputs that a request must bring, as declared. Old files list weights among the inputs.
pub(super) fn inputs(graph: &GraphProto) -> Result<Vec<Declared>, Refused> {
    let weights: HashSet<&str> = graph.initializer.iter().map(|it| it.name.as_str()).collect();
    let inputs = graph.input.iter().filter(|input| !weights.contains(input.name.as_str()));
    inputs
        .map(|input| {
            let (name, dtype) = (input.name.clone(), dtype("input", input)?);
            Ok(Declared { name, dtype, dims: dims(input) })
        })
        .collect()
}

/// The element type of an input or output.
pub(super) fn dtype(what: &'static str, value: &ValueInfoProto) -> Result<DType, Refused> {
    let refused = |is: &str| Refused { what, name: value.name.clone(), is: is.to_owned() };
    let Some(TypeValue::TensorType(tensor)) = value.r#type.as_ref().and_then(|t| t.value.as_ref())
    else {
        return Err(refused("a sequence, a map or an optional"));
    };
    let dtype = match DataType::try_from(tensor.elem_type) {
        Ok(DataType::Bool) => DType::Bool,
        Ok(DataType::Uint8) => DType::U8,
        Ok(DataType::Int8) => DType::I8,
        Ok(DataType::Uint16) => DType::U16,
        Ok(DataType::Int16) => DType::I16,
        Ok(DataType::Uint32) => DType::U32,
        Ok(DataType::Int32) => DType::I32,
        Ok(DataType::Uint64) => DType::U64,
        Ok(DataType::Int64) => DType::I64,
        Ok(DataType::Float16) => DType::F16,
        Ok(DataType::Bfloat16) => DType::Bf16,
        Ok(DataType::Float) => DType::F32,
        Ok(DataType::Double) => DType::F64,
        Ok(other) => return Err(refused(&format!("a tensor of {other:?}"))),
        Err(_unknown) => return Err(refused(&format!("a tensor of type {}", tensor.elem_type))),
    };
    Ok(dtype)
}

/// The declared shape of an input or output; `None` if the file declares none.
pub(super) fn dims(value: &ValueInfoProto) -> Option<Vec<DeclaredDim>> {
    let TypeValue::TensorType(tensor) = value.r#type.as_ref()?.value.as_ref()?;
    let dims = tensor.shape.as_ref()?.dim.iter().map(|dim| match &dim.value {
        Some(DimValue::DimValue(size)) => {
            u64::try_from(*size).map_or(DeclaredDim::Unnamed, DeclaredDim::Fixed)
        }
        Some(DimValue::DimParam(name)) => DeclaredDim::open(name),
        None => DeclaredDim::Unnamed,
    });
    Some(dims.collect())
}
