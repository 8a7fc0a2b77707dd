//! Models that do not keep to the shapes that their file declares.

use std::sync::atomic::{AtomicBool, Ordering};

use ferry_core::BoundSignature;
use ferry_engine::EngineError;

use super::native::given::Left;

/// Whether a model makes outputs of other shapes than it declares, as far as its runs have shown.
/// Shared by its instances.
#[derive(Debug, Default)]
pub(super) struct Declarations {
    wrong: AtomicBool,
}

impl Declarations {
    /// Whether no declaration of an output is to be relied upon.
    pub(super) fn are_wrong(&self) -> bool {
        self.wrong.load(Ordering::Relaxed)
    }

    /// Whether a run showed that the declarations are wrong, by which the outputs that `is_bound`
    /// names had a place before the run: then it is to be made once more, with no output bound.
    pub(super) fn learn(
        &self,
        ran: Result<&Left, &EngineError>,
        shapes: &BoundSignature,
        is_bound: impl Fn(usize) -> bool,
    ) -> bool {
        let why = match ran {
            Ok(left) => {
                let made = left.iter().map(|(index, given)| (index, given.shape.as_slice()));
                other_shape(made, shapes, is_bound)
            }
            Err(EngineError::Run(why)) if (0..shapes.outputs.len()).any(is_bound) => {
                is_another_shape(why).then(|| why.clone())
            }
            Err(_) => None,
        };
        let Some(why) = why else { return false };
        if !self.wrong.swap(true, Ordering::Relaxed) {
            tracing::warn!(why, "the model makes an output of another shape than it declares");
        }
        true
    }
}

/// The first of the bound outputs that was made with another shape than it was bound with.
pub(super) fn other_shape<'a>(
    mut made: impl Iterator<Item = (usize, &'a [u64])>,
    shapes: &BoundSignature,
    is_bound: impl Fn(usize) -> bool,
) -> Option<String> {
    let is_other = |&(index, shape): &(usize, &[u64])| {
        is_bound(index) && shapes.outputs.get(index).is_none_or(|tensor| tensor.shape != shape)
    };
    made.find(is_other).map(|(index, shape)| format!("output {index} has shape {shape:?}"))
}

/// What ONNX Runtime says of an output that was bound with another shape than it gets.
pub(super) fn is_another_shape(why: &str) -> bool {
    ["shape verification failed", "computed output shape", "Expected shape"]
        .iter()
        .any(|text| why.contains(text))
}

#[cfg(test)]
mod tests {
    use ferry_core::{DType, Dim, Signature, TensorSpec};

    use super::*;

    fn two_outputs() -> BoundSignature {
        let spec = |name: &str| TensorSpec {
            name: name.into(),
            dtype: DType::F32,
            shape: vec![Dim::Fixed(2)],
        };
        let outputs = vec![spec("y"), spec("z")];
        Signature { inputs: Vec::new(), outputs }.bind(&[]).unwrap()
    }

    #[test]
    fn only_another_shape_of_a_bound_output_tells_of_a_wrong_declaration() {
        let shapes = two_outputs();
        let other = |made: &[(usize, &[u64])], bound: usize| {
            other_shape(made.iter().copied(), &shapes, |index| index < bound)
        };
        assert_eq!(other(&[(0, &[2]), (1, &[2])], 2), None);
        assert_eq!(other(&[(1, &[3])], 1), None, "nobody said what it would be");
        assert_eq!(other(&[(0, &[2]), (1, &[3])], 2).unwrap(), "output 1 has shape [3]");
    }

    #[test]
    fn a_run_that_had_nothing_bound_is_not_made_again() {
        let shapes = two_outputs();
        let failed = EngineError::Run("y: shape verification failed".into());
        let declarations = Declarations::default();
        assert!(!declarations.learn(Err(&failed), &shapes, |_| false));
        assert!(!declarations.are_wrong());
        assert!(declarations.learn(Err(&failed), &shapes, |_| true));
        assert!(declarations.are_wrong());
        assert!(declarations.learn(Err(&failed), &shapes, |_| true), "begun before it was known");
        let other = EngineError::Run("an index out of bounds".into());
        assert!(!declarations.learn(Err(&other), &shapes, |_| true));
    }
}
