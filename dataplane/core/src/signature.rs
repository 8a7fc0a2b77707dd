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

/// One tensor of a session, and its place in the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundTensor {
    /// The model's own name for it.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Outermost dimension first. Of an output that is open: what is expected; each reply says what
    /// it has.
    pub shape: Vec<u64>,
    /// Where it starts in the payload, in bytes; a multiple of [`TENSOR_ALIGN_BYTES`].
    pub offset: u64,
    /// How long it is, in bytes, without padding.
    pub bytes: u64,
    /// The shapes of the inputs do not tell the shape of this output.
    pub open: bool,
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
    /// The dimension of an input for which no shape was given has two sizes elsewhere.
    #[error(
        "dimension {dim:?} is {first} in one tensor and {second} in another: give the shape of \
         tensor {name:?} too"
    )]
    Ambiguous {
        /// The dimension's name.
        dim: String,
        /// One of its sizes.
        first: u64,
        /// Another.
        second: u64,
        /// The tensor whose shape is not given.
        name: String,
    },
    /// Neither the model nor the session says what shape an input has.
    #[error("the model declares no shape for tensor {name:?}: give one when the session is opened")]
    NoShape {
        /// The tensor.
        name: String,
    },
    /// The payload would be too large, or its size does not fit 64 bits.
    #[error("{what} would have {bytes} bytes; allowed are {PAYLOAD_BYTES_MAX}")]
    Bytes {
        /// `request` or `reply`, or a tensor's name.
        what: String,
        /// The size, saturated.
        bytes: u64,
    },
}

impl Signature {
    /// Chooses every dimension of the inputs: those of `shapes` as given (tensor name and shape),
    /// else by name as in the tensors whose shapes are given, else 1.
    ///
    /// The outputs follow as far as their dimensions are fixed or have the name of an input's. The
    /// others are open: their shape is the one in `shapes`, or has 1 for what nothing tells, and is
    /// only what is expected. A name that has two sizes among the inputs (some exporters give all
    /// open dimensions one name) tells nothing.
    ///
    /// # Errors
    /// [`BindError`] names the tensor that does not fit, and what would.
    pub fn bind(&self, shapes: &[(String, Vec<u64>)]) -> Result<BoundSignature, BindError> {
        let mut given = Sizes::default();
        for (name, shape) in shapes {
            let spec = self.find(name)?;
            fits(spec, shape)?;
            // An output may be chosen by the session, and then its dimensions choose inputs' too;
            // but what an input has is known better.
            let is_input = self.inputs.iter().any(|input| input.name == *name);
            given.note(spec, shape, is_input);
        }
        let shape_of = |spec: &TensorSpec| {
            let named = shapes.iter().rev().find(|(name, _)| *name == spec.name);
            named.map(|(_, shape)| shape.clone())
        };
        let mut inputs = Vec::with_capacity(self.inputs.len());
        let mut known = Sizes::default();
        for spec in &self.inputs {
            let shape = match shape_of(spec) {
                Some(shape) => shape,
                None => given.shape_of_input(spec)?,
            };
            known.note(spec, &shape, true);
            inputs.push((spec, shape, false));
        }
        let outputs = self.outputs.iter().map(|spec| {
            let told = known.shape_of_output(spec);
            let open = told.is_none();
            let expected = || shape_of(spec).unwrap_or_else(|| known.or_one(spec));
            match (told, shape_of(spec)) {
                // Declared one way and wished another: the declaration may be wrong.
                (Some(told), Some(wished)) if told != wished => (spec, wished, true),
                (told, _) => (spec, told.unwrap_or_else(expected), open),
            }
        });
        Ok(BoundSignature { inputs: place("request", inputs)?, outputs: place("reply", outputs)? })
    }

    /// The first output whose shape the shapes of the inputs do not tell.
    pub fn open_output(&self) -> Option<&TensorSpec> {
        let known = |dim: &Dim| match dim {
            Dim::Fixed(_) => true,
            Dim::Named(_) => self.inputs.iter().any(|input| input.shape.contains(dim)),
            Dim::Any => false,
        };
        self.outputs.iter().find(|output| !output.shape.iter().all(known))
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

/// Whether a tensor can have this shape.
fn fits(spec: &TensorSpec, shape: &[u64]) -> Result<(), BindError> {
    let fixed = |(dim, size): (&Dim, &u64)| !matches!(dim, Dim::Fixed(fixed) if fixed != size);
    let same_rank = spec.shape.len() == shape.len();
    if spec.is_any() || (same_rank && spec.shape.iter().zip(shape).all(fixed)) {
        return Ok(());
    }
    Err(BindError::WrongShape {
        name: spec.name.clone(),
        given: shape.to_vec(),
        wanted: spec.shape.iter().map(Dim::to_string).collect::<Vec<_>>().join(","),
    })
}

/// What is known of dimensions by their names.
#[derive(Debug, Default)]
struct Sizes<'a>(Vec<Size<'a>>);

#[derive(Debug)]
struct Size<'a> {
    name: &'a str,
    size: u64,
    /// Another size that the same name has.
    other: Option<u64>,
    of_input: bool,
}

impl<'a> Sizes<'a> {
    fn note(&mut self, spec: &'a TensorSpec, shape: &[u64], of_input: bool) {
        if spec.is_any() {
            return;
        }
        for (dim, &size) in spec.shape.iter().zip(shape) {
            let Dim::Named(name) = dim else { continue };
            match self.0.iter_mut().find(|known| known.name == name) {
                None => self.0.push(Size { name, size, other: None, of_input }),
                Some(known) if of_input && !known.of_input => {
                    *known = Size { name, size, other: None, of_input };
                }
                Some(known) if of_input == known.of_input && known.size != size => {
                    known.other = Some(size);
                }
                Some(_) => {}
            }
        }
    }

    fn get(&self, name: &str) -> Option<&Size<'a>> {
        self.0.iter().find(|known| known.name == name)
    }

    /// For an input whose shape nobody gave.
    fn shape_of_input(&self, spec: &TensorSpec) -> Result<Vec<u64>, BindError> {
        let size = |dim: &Dim| match dim {
            Dim::Fixed(size) => Ok(*size),
            Dim::Any => Err(BindError::NoShape { name: spec.name.clone() }),
            Dim::Named(name) => match self.get(name) {
                None => Ok(1),
                Some(&Size { size: first, other: Some(second), .. }) => Err(BindError::Ambiguous {
                    dim: name.clone(),
                    first,
                    second,
                    name: spec.name.clone(),
                }),
                Some(known) => Ok(known.size),
            },
        };
        spec.shape.iter().map(size).collect()
    }

    /// `None` if the output is open.
    fn shape_of_output(&self, spec: &TensorSpec) -> Option<Vec<u64>> {
        let size = |dim: &Dim| match dim {
            Dim::Fixed(size) => Some(*size),
            Dim::Any => None,
            Dim::Named(name) => {
                self.get(name).filter(|known| known.other.is_none()).map(|known| known.size)
            }
        };
        spec.shape.iter().map(size).collect()
    }

    /// What is known, and 1 for what is not.
    fn or_one(&self, spec: &TensorSpec) -> Vec<u64> {
        let size = |dim: &Dim| match dim {
            Dim::Fixed(size) => Some(*size),
            Dim::Any => None,
            Dim::Named(name) => Some(self.get(name).map_or(1, |known| known.size)),
        };
        spec.shape.iter().filter_map(size).collect()
    }
}

/// Lays the tensors out one after the other. Each has its shape, and whether it is open.
fn place<'a>(
    what: &str,
    tensors: impl IntoIterator<Item = (&'a TensorSpec, Vec<u64>, bool)>,
) -> Result<Vec<BoundTensor>, BindError> {
    let mut offset = 0_u64;
    let mut placed = Vec::new();
    for (spec, shape, open) in tensors {
        let bytes = spec.dtype.bytes_of(&shape);
        let end = offset.saturating_add(bytes);
        if end > PAYLOAD_BYTES_MAX {
            return Err(BindError::Bytes { what: format!("{what} {:?}", spec.name), bytes });
        }
        let (name, dtype) = (spec.name.clone(), spec.dtype);
        placed.push(BoundTensor { name, dtype, shape, offset, bytes, open });
        offset = end.next_multiple_of(TENSOR_ALIGN_BYTES);
    }
    Ok(placed)
}

impl BoundSignature {
    /// Length of a `tensor` request's payload in bytes.
    pub fn request_bytes(&self) -> u64 {
        end(&self.inputs)
    }

    /// Length of the payload of a reply whose outputs have the shapes that were agreed, in bytes.
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
    fn inputs_default_to_one_and_tensors_are_aligned() {
        let bound = model().bind(&[]).expect("binds");
        assert_eq!(bound.inputs[0].bytes, 12);
        assert_eq!(bound.inputs[1].offset, 64);
        assert_eq!(bound.request_bytes(), 68);
        assert_eq!(bound.reply_bytes(), 40);
    }

    #[test]
    fn one_name_is_one_size_where_nothing_else_is_said() {
        let bound = model().bind(&[("a".into(), vec![4, 3])]).expect("binds");
        assert_eq!((&*bound.inputs[1].shape, &*bound.outputs[0].shape), (&[4][..], &[4, 10][..]));
        assert!(!bound.outputs[0].open);
        let by_output = model().bind(&[("y".into(), vec![5, 10])]).expect("binds");
        assert_eq!((&*by_output.inputs[0].shape, by_output.outputs[0].open), (&[5, 3][..], false));
    }

    #[test]
    fn a_name_with_two_sizes_tells_nothing_of_the_outputs() {
        let shapes = [("a".into(), vec![4, 3]), ("b".into(), vec![5])];
        let bound = model().bind(&shapes).expect("the model's own business");
        assert!(bound.outputs[0].open);
        let mut three = model();
        three.inputs.push(spec("c", &[Dim::Named("n".into())]));
        let told = three.bind(&shapes).expect_err("which of the two?").to_string();
        assert!(told.contains("\"c\"") && told.contains("4") && told.contains("5"), "{told}");
    }

    #[test]
    fn an_output_that_no_input_tells_is_open_and_expected_as_wished() {
        let named = |name: &str| Dim::Named(name.into());
        let mut model = model();
        model.outputs = vec![spec("y", &[named("m"), Dim::Fixed(2)]), spec("z", &[Dim::Any])];
        let bound = model.bind(&[("a".into(), vec![4, 3])]).expect("binds");
        let [y, z] = &bound.outputs[..] else { panic!("two outputs") };
        assert_eq!((y.open, &*y.shape, z.open, &*z.shape), (true, &[1, 2][..], true, &[][..]));
        let bound = model.bind(&[("z".into(), vec![9, 9])]).expect("binds");
        assert_eq!((bound.outputs[1].open, bound.outputs[1].bytes), (true, 4 * 81));
    }

    #[test]
    fn a_declared_output_may_be_wished_otherwise() {
        let bound = model().bind(&[("a".into(), vec![4, 3]), ("y".into(), vec![8, 10])]);
        let y = &bound.expect("binds").outputs[0];
        assert_eq!((y.open, &*y.shape), (true, &[8, 10][..]));
    }

    #[test]
    fn tensors_without_elements_and_models_without_inputs_are_bound() {
        let bound = model().bind(&[("a".into(), vec![0, 3])]).expect("binds");
        assert_eq!((bound.request_bytes(), bound.reply_bytes()), (0, 0));
        let none = Signature { inputs: Vec::new(), outputs: vec![spec("y", &[])] };
        let bound = none.bind(&[]).expect("binds");
        assert_eq!((bound.request_bytes(), bound.reply_bytes()), (0, 4));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let model = model();
        let unknown = model.bind(&[("c".into(), vec![1])]).expect_err("unknown");
        assert!(unknown.to_string().contains("a, b, y"), "{unknown}");
        let rank = model.bind(&[("a".into(), vec![1])]).expect_err("rank");
        assert!(rank.to_string().contains("[n,3]"), "{rank}");
        assert!(model.bind(&[("a".into(), vec![1, 4])]).is_err());
        assert!(model.bind(&[("a".into(), vec![u64::MAX, 3])]).is_err(), "overflow");
        let any = Signature { inputs: vec![spec("x", &[Dim::Any])], outputs: Vec::new() };
        let told = any.bind(&[]).expect_err("no shape").to_string();
        assert!(told.contains("\"x\""), "{told}");
        assert_eq!(any.bind(&[("x".into(), vec![2, 2])]).expect("binds").request_bytes(), 16);
    }
}
