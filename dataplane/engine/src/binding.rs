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
    let elements = bound.shape.iter().try_fold(1_u64, |all, &dim| all.checked_mul(dim));
    let bytes = elements.and_then(|elements| elements.checked_mul(spec.dtype.bytes()));
    let fixed = |(dim, size): (&Dim, &u64)| !matches!(dim, Dim::Fixed(fixed) if fixed != size);
    spec.name == bound.name
        && spec.dtype == bound.dtype
        && spec.shape.len() == bound.shape.len()
        && spec.shape.iter().zip(&bound.shape).all(fixed)
        && bytes == Some(bound.bytes)
}
