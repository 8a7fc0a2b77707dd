//! Whether shapes are those of a model.

use ferry_core::{BoundSignature, BoundTensor, Dim, Signature, TensorSpec};

use crate::engine::EngineError;

/// Checks that `binding` is one of `signature`, as far as memory depends on it.
///
/// # Errors
/// [`EngineError::Shapes`] names the first difference.
pub fn check_binding(signature: &Signature, binding: &BoundSignature) -> Result<(), EngineError> {
    let pairs = [(&signature.inputs, &binding.inputs), (&signature.outputs, &binding.outputs)];
    for (specs, bound) in pairs {
        if specs.len() != bound.len() {
            let what = format!("{} tensors, the model has {}", bound.len(), specs.len());
            return Err(EngineError::Shapes(what));
        }
        for (spec, bound) in specs.iter().zip(bound) {
            if !fits(spec, bound) {
                let what = format!(
                    "{} {} {:?} of {} bytes, the model has {spec}",
                    bound.name, bound.dtype, bound.shape, bound.bytes
                );
                return Err(EngineError::Shapes(what));
            }
        }
    }
    Ok(())
}

fn fits(spec: &TensorSpec, bound: &BoundTensor) -> bool {
    let fixed = |(dim, size): (&Dim, &u64)| !matches!(dim, Dim::Fixed(fixed) if fixed != size);
    let shaped =
        spec.shape.len() == bound.shape.len() && spec.shape.iter().zip(&bound.shape).all(fixed);
    spec.name == bound.name
        && spec.dtype == bound.dtype
        && (shaped || spec.is_any())
        && spec.dtype.bytes_of(&bound.shape) == bound.bytes
        && bound.bytes < u64::MAX
}
