//! Where the outputs of one reply lie in its payload.

use crate::shapes::OutputShapes;
use crate::signature::{BoundSignature, TENSOR_ALIGN_BYTES};

/// One tensor's place in a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it starts, in bytes; a multiple of [`TENSOR_ALIGN_BYTES`].
    pub offset: u64,
    /// How long it is, in bytes, without padding.
    pub bytes: u64,
}

impl Part {
    /// Where it ends, in bytes.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.bytes)
    }
}

impl BoundSignature {
    /// Where the outputs of a reply with these shapes lie: one after the other, in the model's
    /// order, as [`bind`](crate::Signature::bind) places those that it knows. Both ends compute it.
    /// Sizes saturate: what is too long fits nowhere. `None` if there are not as many shapes as the
    /// model has outputs.
    pub fn parts(&self, shapes: &OutputShapes) -> Option<Vec<Part>> {
        if shapes.len() != self.outputs.len() {
            return None;
        }
        let mut at = 0_u64;
        let place = |(tensor, shape): (&crate::BoundTensor, &[u64])| {
            let offset = at.checked_next_multiple_of(TENSOR_ALIGN_BYTES).unwrap_or(u64::MAX);
            let part = Part { offset, bytes: tensor.dtype.bytes_of(shape) };
            at = part.end();
            part
        };
        Some(self.outputs.iter().zip(shapes.iter()).map(place).collect())
    }
}

/// How long a payload with these parts is, in bytes.
pub fn payload_bytes(parts: &[Part]) -> u64 {
    parts.last().map_or(0, Part::end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Dim, Signature, TensorSpec};

    fn two() -> BoundSignature {
        let spec = |name: &str| TensorSpec {
            name: name.to_owned(),
            dtype: DType::I64,
            shape: vec![Dim::Named(format!("{name}.0"))],
        };
        let outputs = vec![spec("y"), spec("z")];
        Signature { inputs: Vec::new(), outputs }.bind(&[]).expect("binds")
    }

    #[test]
    fn outputs_are_packed_by_the_shapes_that_they_have() {
        let parts = two().parts(&OutputShapes::of([[9], [2]]).unwrap()).unwrap();
        assert_eq!(parts, [Part { offset: 0, bytes: 72 }, Part { offset: 128, bytes: 16 }]);
        assert_eq!(payload_bytes(&parts), 144);
        let empty = two().parts(&OutputShapes::of([[0], [0]]).unwrap()).unwrap();
        assert_eq!(payload_bytes(&empty), 0);
    }

    #[test]
    fn what_is_too_long_fits_nowhere_and_another_number_of_outputs_has_no_parts() {
        let long = two().parts(&OutputShapes::of([[u64::MAX], [1]]).unwrap()).unwrap();
        assert_eq!(payload_bytes(&long), u64::MAX);
        assert_eq!(two().parts(&OutputShapes::of([[1]]).unwrap()), None);
    }
}
