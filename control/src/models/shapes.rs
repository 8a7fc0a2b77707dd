//! How large a session may make the open dimensions of a model.

use std::collections::BTreeMap;

use ferry_core::{BoundSignature, BoundTensor, Dim, Signature, TensorSpec};
use ferry_engine::why_not_batched;

use super::{DimSizes, ModelError};

/// Bounds of tensors with open dimensions. Slots are bounded by quotas; this bounds what the
/// engine allocates between input and output, which is a multiple of what its inputs hold and
/// nothing that this server sees. What the model's file fixes is the operator's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShapeLimits {
    /// Largest first dimension of an input that has more than one: the batch.
    pub batch_max: u64,
    /// Most elements of one tensor.
    pub elements_max: u64,
}

impl Default for ShapeLimits {
    /// A batch of 256: larger ones bring a CPU no more throughput. 64 Mi elements: a batch of 64
    /// pictures of 520 x 520 x 3, the largest of the reference's models, or 256 MiB as FP32.
    fn default() -> ShapeLimits {
        ShapeLimits { batch_max: 256, elements_max: 64 << 20 }
    }
}

impl ShapeLimits {
    /// For engines that need no memory beside the slots.
    pub const NONE: ShapeLimits = ShapeLimits { batch_max: u64::MAX, elements_max: u64::MAX };

    /// Checks the shapes that a session chose.
    ///
    /// # Errors
    /// [`ModelError::Field`] with what was asked for, the bound, and where it is raised.
    pub fn check(&self, signature: &Signature, bound: &BoundSignature) -> Result<(), ModelError> {
        for (spec, tensor) in signature.inputs.iter().zip(&bound.inputs) {
            if let ([Dim::Named(_), _, ..], Some(&batch)) = (&*spec.shape, tensor.shape.first())
                && batch > self.batch_max
            {
                return Err(refused(tensor, "a batch of", batch, "max_batch", self.batch_max));
            }
        }
        let inputs = signature.inputs.iter().zip(&bound.inputs);
        for (spec, tensor) in inputs.chain(signature.outputs.iter().zip(&bound.outputs)) {
            // A dimension of 0 makes the others no smaller: an engine may count to each.
            let sizes = tensor.shape.iter().map(|&dim| dim.max(1));
            let elements = sizes.fold(1_u64, u64::saturating_mul);
            if is_open(spec) && elements > self.elements_max {
                let max = self.elements_max;
                return Err(refused(tensor, "elements:", elements, "max_elements", max));
            }
        }
        Ok(())
    }
}

/// Checks the shapes that a session chose against what the engine was built for.
///
/// # Errors
/// [`ModelError::Field`] with the dimension, its size and those there are.
pub(super) fn check_dims(
    dims: &BTreeMap<String, DimSizes>,
    signature: &Signature,
    bound: &BoundSignature,
) -> Result<(), ModelError> {
    for (spec, tensor) in signature.inputs.iter().zip(&bound.inputs) {
        for (dim, &size) in spec.shape.iter().zip(&tensor.shape) {
            let Dim::Named(dim) = dim else { continue };
            let Some(&DimSizes { min, max, .. }) = dims.get(dim) else { continue };
            if !(min..=max).contains(&size) {
                let why = format!(
                    "tensor {:?} has dimension {dim:?} of {size}, and the model's engine was built \
                     for {min} to {max}: ask for that, or have the operator set dims.{dim} in the \
                     model's TOML and load it again",
                    tensor.name
                );
                return Err(ModelError::field("shapes", why));
            }
        }
    }
    Ok(())
}

/// Whether the first dimension is a batch: requests could run as one, and no input has that
/// dimension alone, which may be the length of a vector.
pub(super) fn has_batch(signature: &Signature) -> bool {
    why_not_batched(signature).is_none()
        && signature.inputs.iter().all(|input| input.shape.len() > 1)
}

fn is_open(spec: &TensorSpec) -> bool {
    !spec.is_fixed()
}

fn refused(tensor: &BoundTensor, what: &str, asked: u64, key: &str, allowed: u64) -> ModelError {
    let BoundTensor { name, shape, .. } = tensor;
    let why = format!(
        "tensor {name:?} with shape {shape:?} has {what} {asked}; the model allows {allowed}: ask \
         for less, or have the operator raise {key} in the model's TOML"
    );
    ModelError::field("shapes", why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_core::DType;

    fn tensor(name: &str, shape: &[Option<u64>]) -> TensorSpec {
        let dim = |(at, size): (usize, &Option<u64>)| match size {
            Some(size) => Dim::Fixed(*size),
            None => Dim::Named(format!("{name}{at}")),
        };
        let shape = shape.iter().enumerate().map(dim).collect();
        TensorSpec { name: name.into(), dtype: DType::F32, shape }
    }

    fn check(inputs: Vec<TensorSpec>, shapes: &[(&str, &[u64])]) -> Result<(), String> {
        let outputs = vec![tensor("out", &[None, Some(4)])];
        let signature = Signature { inputs, outputs };
        let shapes: Vec<_> =
            shapes.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect();
        let bound = signature.bind(&shapes).unwrap();
        let limits = ShapeLimits { batch_max: 8, elements_max: 1000 };
        limits.check(&signature, &bound).map_err(|error| error.to_string())
    }

    #[test]
    fn a_batch_is_the_open_first_dimension_of_an_input_with_more_than_one() {
        let open = || vec![tensor("x", &[None, Some(3)])];
        check(open(), &[("x", &[8, 3])]).unwrap();
        let told = check(open(), &[("x", &[9, 3])]).unwrap_err();
        assert!(told.contains('9') && told.contains('8') && told.contains("max_batch"), "{told}");
        check(vec![tensor("x", &[None])], &[("x", &[900])]).unwrap();
        check(vec![tensor("x", &[Some(9), None])], &[("x", &[9, 3])]).unwrap();
    }

    #[test]
    fn a_batch_is_one_open_dimension_in_front_of_all() {
        let spec = |dims: &[Option<&str>]| {
            let dim = |name: &Option<&str>| name.map_or(Dim::Fixed(3), |it| Dim::Named(it.into()));
            let shape = dims.iter().map(dim).collect();
            TensorSpec { name: "t".into(), dtype: DType::F32, shape }
        };
        let has = |inputs: &[&[Option<&str>]], output: &[Option<&str>]| {
            let inputs = inputs.iter().map(|it| spec(it)).collect();
            has_batch(&Signature { inputs, outputs: vec![spec(output)] })
        };
        let (n, m) = (Some("n"), Some("m"));
        assert!(has(&[&[n, None], &[n, m]], &[n]));
        assert!(!has(&[&[n, None], &[m, None]], &[n]));
        assert!(!has(&[&[n, None]], &[m, None]) && !has(&[&[n]], &[n]) && !has(&[], &[n]));
        assert!(!has(&[&[None, n]], &[None, n]));
        assert!(!has(&[&[n, None]], &[n, m]), "an output whose size only a run shows");
    }

    #[test]
    fn an_engine_that_was_built_for_some_sizes_gets_no_others() {
        let signature = Signature {
            inputs: vec![tensor("x", &[None, None])],
            outputs: vec![tensor("y", &[Some(1)])],
        };
        let dims = [("x0".to_owned(), DimSizes { min: 2, typical: 2, max: 4 })].into();
        let told = |shape: [u64; 2]| {
            let bound = signature.bind(&[("x".to_owned(), shape.to_vec())]).unwrap();
            check_dims(&dims, &signature, &bound).map_err(|error| error.to_string())
        };
        for first in [2, 4] {
            told([first, 900]).unwrap();
        }
        for first in [1, 5] {
            let told = told([first, 1]).unwrap_err();
            assert!(told.contains("2 to 4") && told.contains("dims.x0"), "{told}");
        }
    }

    #[test]
    fn elements_are_bounded_in_and_out_where_a_dimension_is_open() {
        let told = check(vec![tensor("x", &[Some(2), None])], &[("x", &[2, 501])]).unwrap_err();
        assert!(told.contains("1002") && told.contains("1000"), "{told}");
        assert!(told.contains("max_elements"), "{told}");
        let told = check(vec![tensor("x", &[Some(1)])], &[("out", &[251, 4])]).unwrap_err();
        assert!(told.contains("1004") && told.contains("out"), "{told}");
        check(vec![tensor("x", &[Some(5000)])], &[]).unwrap();
    }
}
