//! What a model takes and gives, and what a session made of it.

use serde::{Deserialize, Serialize};

use crate::tensor::{DType, Dim, TensorSpec};

/// Tensors inside one payload start at multiples of this many bytes: a cache line, and what
/// vector instructions like best.
pub const TENSOR_ALIGN_BYTES: u64 = 64;

/// The largest payload that a session can agree on, in bytes. Above it the arithmetic of offsets
/// on 32-bit peers would have to be looked at again; 4 GiB is also protobuf's own bound, doubled.
pub const PAYLOAD_BYTES_MAX: u64 = 4 << 30;

/// Inputs and outputs of a model as its file declares them; some dimensions may still be open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// In the model's order.
    pub inputs: Vec<TensorSpec>,
    /// In the model's order.
    pub outputs: Vec<TensorSpec>,
}

/// One tensor of a session: every dimension known, and its place in the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundTensor {
    /// The model's own name for it.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Outermost dimension first.
    pub shape: Vec<u64>,
    /// Where it starts in the payload, in bytes; a multiple of [`TENSOR_ALIGN_BYTES`].
    pub offset: u64,
    /// How long it is, in bytes, without padding.
    pub bytes: u64,
}

/// A signature with every dimension chosen: what one session sends and receives.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct BoundSignature {
    /// In the model's order.
    pub inputs: Vec<BoundTensor>,
    /// In the model's order.
    pub outputs: Vec<BoundTensor>,
}

/// Why shapes do not fit a signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// A shape was given for a tensor that the model does not have.
    #[error("the model has no tensor {name:?}; it has {known}")]
    UnknownTensor {
        /// The name given.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A shape was given with the wrong number of dimensions, or another fixed size.
    #[error("tensor {name:?} has shape {given:?} but the model wants [{wanted}]")]
    WrongShape {
        /// The tensor.
        name: String,
        /// The shape given.
        given: Vec<u64>,
        /// The shape of the model, open dimensions by name.
        wanted: String,
    },
    /// The same named dimension was given two sizes.
    #[error("dimension {dim:?} is {first} in one tensor and {second} in {name:?}; use one size")]
    Conflict {
        /// The dimension's name.
        dim: String,
        /// The size that it had.
        first: u64,
        /// The size that it would get.
        second: u64,
        /// The tensor that brings the second.
        name: String,
    },
    /// The payload would be empty, too large, or its size does not fit 64 bits.
    #[error("{what} would have {bytes} bytes; allowed are 1 to {PAYLOAD_BYTES_MAX}")]
    Bytes {
        /// `request` or `reply`, or a tensor's name.
        what: String,
        /// The size, saturated.
        bytes: u64,
    },
}

impl Signature {
    /// Chooses every open dimension: those of `shapes` as given (tensor name and shape), a named
    /// dimension that no shape mentions becomes 1.
    ///
    /// # Errors
    /// [`BindError`] names the tensor that does not fit, and what would.
    pub fn bind(&self, shapes: &[(String, Vec<u64>)]) -> Result<BoundSignature, BindError> {
        let mut sizes: Vec<(&str, u64)> = Vec::new();
        for (name, shape) in shapes {
            let spec = self.find(name)?;
            learn(&mut sizes, spec, shape)?;
        }
        Ok(BoundSignature {
            inputs: place("request", &self.inputs, &sizes)?,
            outputs: place("reply", &self.outputs, &sizes)?,
        })
    }

    fn find(&self, name: &str) -> Result<&TensorSpec, BindError> {
        let mut all = self.inputs.iter().chain(&self.outputs);
        all.find(|spec| spec.name == name).ok_or_else(|| BindError::UnknownTensor {
            name: name.to_owned(),
            known: self
                .inputs
                .iter()
                .chain(&self.outputs)
                .map(|spec| spec.name.as_str())
                .collect::<Vec<_>>()
                .join(", "),
        })
    }
}

/// Notes the size that `shape` gives to each named dimension of `spec`.
fn learn<'a>(
    sizes: &mut Vec<(&'a str, u64)>,
    spec: &'a TensorSpec,
    shape: &[u64],
) -> Result<(), BindError> {
    let wrong = || BindError::WrongShape {
        name: spec.name.clone(),
        given: shape.to_vec(),
        wanted: spec.shape.iter().map(Dim::to_string).collect::<Vec<_>>().join(","),
    };
    if spec.shape.len() != shape.len() {
        return Err(wrong());
    }
    for (dim, &size) in spec.shape.iter().zip(shape) {
        match dim {
            Dim::Fixed(fixed) if *fixed == size => {}
            Dim::Fixed(_) => return Err(wrong()),
            Dim::Named(name) => match sizes.iter().find(|(known, _)| known == name) {
                Some(&(_, first)) if first == size => {}
                Some(&(_, first)) => {
                    return Err(BindError::Conflict {
                        dim: name.clone(),
                        first,
                        second: size,
                        name: spec.name.clone(),
                    });
                }
                None => sizes.push((name, size)),
            },
        }
    }
    Ok(())
}

/// Lays the tensors out one after the other.
fn place(
    what: &str,
    specs: &[TensorSpec],
    sizes: &[(&str, u64)],
) -> Result<Vec<BoundTensor>, BindError> {
    let mut offset = 0_u64;
    let mut placed = Vec::with_capacity(specs.len());
    for spec in specs {
        let shape: Vec<u64> = spec
            .shape
            .iter()
            .map(|dim| match dim {
                Dim::Fixed(size) => *size,
                Dim::Named(name) => {
                    sizes.iter().find(|(known, _)| known == name).map_or(1, |&(_, size)| size)
                }
            })
            .collect();
        let bytes = shape.iter().fold(spec.dtype.bytes(), |acc, &dim| acc.saturating_mul(dim));
        let end = offset.saturating_add(bytes);
        if bytes == 0 || end > PAYLOAD_BYTES_MAX {
            return Err(BindError::Bytes { what: format!("{what} {:?}", spec.name), bytes });
        }
        placed.push(BoundTensor {
            name: spec.name.clone(),
            dtype: spec.dtype,
            shape,
            offset,
            bytes,
        });
        offset = end.next_multiple_of(TENSOR_ALIGN_BYTES);
    }
    Ok(placed)
}

impl BoundSignature {
    /// Length of a `tensor` request's payload in bytes.
    pub fn request_bytes(&self) -> u64 {
        end(&self.inputs)
    }

    /// Length of a reply's payload in bytes.
    pub fn reply_bytes(&self) -> u64 {
        end(&self.outputs)
    }
}

fn end(tensors: &[BoundTensor]) -> u64 {
    tensors.last().map_or(0, |last| last.offset + last.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, shape: &[Dim]) -> TensorSpec {
        TensorSpec { name: name.into(), dtype: DType::F32, shape: shape.to_vec() }
    }

    fn model() -> Signature {
        let n = Dim::Named("n".into());
        Signature {
            inputs: vec![
                spec("a", &[n.clone(), Dim::Fixed(3)]),
                spec("b", std::slice::from_ref(&n)),
            ],
            outputs: vec![spec("y", &[n, Dim::Fixed(10)])],
        }
    }

    #[test]
    fn open_dimensions_default_to_one_and_tensors_are_aligned() {
        let bound = model().bind(&[]).expect("binds");
        assert_eq!(bound.inputs[0].bytes, 12);
        assert_eq!(bound.inputs[1].offset, 64);
        assert_eq!(bound.request_bytes(), 68);
        assert_eq!(bound.reply_bytes(), 40);
    }

    #[test]
    fn one_name_is_one_size_everywhere() {
        let bound = model().bind(&[("a".into(), vec![4, 3])]).expect("binds");
        assert_eq!(bound.outputs[0].shape, [4, 10]);
        let conflict = model().bind(&[("a".into(), vec![4, 3]), ("b".into(), vec![5])]);
        assert!(matches!(conflict, Err(BindError::Conflict { first: 4, second: 5, .. })));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let model = model();
        let unknown = model.bind(&[("c".into(), vec![1])]).expect_err("unknown");
        assert!(unknown.to_string().contains("a, b, y"), "{unknown}");
        let rank = model.bind(&[("a".into(), vec![1])]).expect_err("rank");
        assert!(rank.to_string().contains("[n,3]"), "{rank}");
        assert!(model.bind(&[("a".into(), vec![1, 4])]).is_err());
        assert!(model.bind(&[("a".into(), vec![0, 3])]).is_err(), "empty payload");
        assert!(model.bind(&[("a".into(), vec![u64::MAX, 3])]).is_err(), "overflow");
    }
}
