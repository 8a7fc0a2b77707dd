//! Models that take any number of inputs at once.

use ferry_onnx_file::{DimensionProto, ValueInfoProto};
use prost::Message;

/// The name of the open dimension.
const BATCH: &str = "N";

/// The same model with an open first dimension in all its inputs and outputs, where it was written
/// with 1. Whether it can take more than one, its graph says: see
/// [`doubt`](ferry_onnx_file::rows::doubt).
///
/// # Errors
/// Where `model` is no ONNX file.
pub fn with_open_batch(model: &[u8]) -> Result<Vec<u8>, String> {
    let mut file = ferry_onnx_file::read(model)?;
    if let Some(graph) = &mut file.graph {
        graph.input.iter_mut().chain(&mut graph.output).for_each(open_first);
    }
    Ok(file.encode_to_vec())
}

fn open_first(tensor: &mut ValueInfoProto) {
    let tensor = tensor.r#type.as_mut().and_then(|it| it.tensor_type.as_mut());
    let first = tensor.and_then(|it| it.shape.as_mut()).and_then(|it| it.dim.first_mut());
    if let Some(first) = first {
        *first = DimensionProto { dim_value: None, dim_param: Some(BATCH.to_owned()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_and_outputs_begin_with_one_open_dimension_and_the_rest_stays() {
        let before = ferry_onnx_file::read(crate::digits::onnx()).unwrap();
        let after = with_open_batch(crate::digits::onnx()).unwrap();
        let after = ferry_onnx_file::read(&after[..]).unwrap();
        let shape = |tensor: &ValueInfoProto| {
            let tensor = tensor.r#type.clone().and_then(|it| it.tensor_type).unwrap();
            tensor.shape.unwrap().dim
        };
        let (before, mut after) = (before.graph.unwrap(), after.graph.unwrap());
        for tensor in after.input.iter().chain(&after.output) {
            assert_eq!(shape(tensor)[0].dim_param.as_deref(), Some("N"));
        }
        for (is, was) in after.input.iter().zip(&before.input) {
            assert_eq!(shape(is)[1..], shape(was)[1..]);
        }
        (after.input, after.output) = (before.input.clone(), before.output.clone());
        assert_eq!(after, before);
        assert!(with_open_batch(b"no model").is_err());
    }
}
