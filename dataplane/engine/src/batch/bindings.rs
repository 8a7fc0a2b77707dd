//! The shapes of batches, computed once for each size.

use std::collections::VecDeque;
use std::sync::Arc;

use ferry_core::{BoundSignature, Signature};

use super::{alike, rows_of};

/// Most bindings that are kept, of some kilobytes each. The oldest goes: making one takes some
/// microseconds.
const KEPT_MAX: usize = 64;

/// What the signature is when it is bound to batches.
#[derive(Debug, Default)]
pub(crate) struct Bindings {
    kept: VecDeque<Arc<BoundSignature>>,
}

impl Bindings {
    /// A binding as `like`, with `rows` rows; `None` if the model does not have one.
    pub(crate) fn of(
        &mut self,
        signature: &Signature,
        like: &BoundSignature,
        rows: u64,
    ) -> Option<Arc<BoundSignature>> {
        let fits = |kept: &&Arc<BoundSignature>| rows_of(kept) == Some(rows) && alike(kept, like);
        if let Some(known) = self.kept.iter().find(fits) {
            return Some(Arc::clone(known));
        }
        let shape = |tensor: &ferry_core::BoundTensor| {
            let behind = tensor.shape.iter().skip(1).copied();
            (tensor.name.clone(), std::iter::once(rows).chain(behind).collect())
        };
        let shapes: Vec<_> = like.inputs.iter().map(shape).collect();
        let bound = signature.bind(&shapes).ok()?;
        if rows_of(&bound) != Some(rows) || !alike(&bound, like) {
            return None;
        }
        if self.kept.len() >= KEPT_MAX {
            self.kept.pop_front();
        }
        let bound = Arc::new(bound);
        self.kept.push_back(Arc::clone(&bound));
        Some(bound)
    }
}

#[cfg(test)]
mod tests {
    use ferry_core::{DType, Dim, TensorSpec};

    use super::*;

    #[test]
    fn each_size_is_bound_once_and_few_are_kept() {
        let named = |name: &str| Dim::Named(name.to_owned());
        let spec = |name: &str, shape| TensorSpec { name: name.into(), dtype: DType::F32, shape };
        let signature = Signature {
            inputs: vec![spec("t", vec![named("n"), named("h")])],
            outputs: vec![spec("y", vec![named("n")])],
        };
        let like = |h| signature.bind(&[("t".to_owned(), vec![1, h])]).unwrap();
        let mut bindings = Bindings::default();
        for rows in 1..=200 {
            for h in [3, 4] {
                let bound = bindings.of(&signature, &like(h), rows).unwrap();
                assert_eq!(bound.inputs[0].shape, [rows, h]);
                let again = bindings.of(&signature, &like(h), rows).unwrap();
                assert!(Arc::ptr_eq(&bound, &again));
            }
            assert!(bindings.kept.len() <= KEPT_MAX);
        }
        let open = Signature { outputs: vec![spec("y", vec![named("m")])], ..signature.clone() };
        assert!(bindings.of(&open, &like(9), 7).is_none(), "outputs that do not follow");
    }
}
