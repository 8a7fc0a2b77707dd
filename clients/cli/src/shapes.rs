//! The shapes of a model's tensors, as a person asks for them.

use std::str::FromStr;

use ferry_client::v1;
use ferry_core::{Dim, Signature, TensorSpec};

use crate::failure::Failure;

/// `NAME=1x3x320x320`: one tensor with its whole shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) name: String,
    pub(crate) dims: Vec<u64>,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Shape, String> {
        let wanted = || "write it as NAME=1x3x320x320".to_owned();
        // Names may hold =, sizes do not.
        let (name, dims) = text.rsplit_once('=').ok_or_else(wanted)?;
        let dims = dims.split('x').map(str::parse).collect::<Result<_, _>>();
        let dims = dims.map_err(|_not_a_number| wanted())?;
        if name.is_empty() { Err(wanted()) } else { Ok(Shape { name: name.to_owned(), dims }) }
    }
}

/// What `--shape` and `--batch` ask of a model: shapes by name, for a session.
///
/// Whether they fit the model is for the server to say, which binds them.
pub(crate) fn asked(
    model: &v1::Model,
    given: &[Shape],
    batch: Option<u64>,
) -> Result<Vec<(String, Vec<u64>)>, Failure> {
    // A model that is not loaded has no signature; opening the session tells why.
    match model.state() {
        v1::model::State::Loaded => of_signature(&signature(model)?, given, batch),
        _ => of_signature(&Signature::default(), given, None),
    }
}

/// The same of a model whose signature is known.
pub(crate) fn of_signature(
    signature: &Signature,
    given: &[Shape],
    batch: Option<u64>,
) -> Result<Vec<(String, Vec<u64>)>, Failure> {
    let mut shapes: Vec<(String, Vec<u64>)> = Vec::new();
    for Shape { name, dims } in given {
        if shapes.iter().any(|(known, _)| known == name) {
            return Err(Failure::Usage(format!("--shape {name} is given twice")));
        }
        shapes.push((name.clone(), dims.clone()));
    }
    if let Some(batch) = batch {
        shapes.extend(batched(signature, &shapes, batch)?);
    }
    Ok(shapes)
}

/// What the model takes and gives.
pub(crate) fn signature(model: &v1::Model) -> Result<Signature, Failure> {
    let signature = model.signature.clone().unwrap_or_default();
    Signature::try_from(signature).map_err(|error| Failure::Failed(error.into()))
}

/// What the inputs become with these shapes, by name; empty where they do not fit. Only for what no
/// session tells: the server binds them the same way.
pub(crate) fn of_inputs(
    model: &v1::Model,
    asked: &[(String, Vec<u64>)],
) -> Vec<(String, Vec<u64>)> {
    let bound = signature(model).ok().and_then(|signature| signature.bind(asked).ok());
    let inputs = bound.map(|bound| bound.inputs).unwrap_or_default();
    inputs.into_iter().map(|tensor| (tensor.name, tensor.shape)).collect()
}

/// The shape of every input that leaves its first dimension open and is not given.
fn batched(
    signature: &Signature,
    given: &[(String, Vec<u64>)],
    batch: u64,
) -> Result<Vec<(String, Vec<u64>)>, Failure> {
    let is_open = |spec: &&TensorSpec| {
        matches!(spec.shape.first(), Some(Dim::Named(_)))
            && !given.iter().any(|(name, _)| *name == spec.name)
    };
    let shape = |spec: &TensorSpec| {
        let rest = spec.shape.iter().skip(1).map(|dim| size(dim, signature, given));
        (spec.name.clone(), std::iter::once(batch).chain(rest).collect())
    };
    let all: Vec<_> = signature.inputs.iter().filter(is_open).map(shape).collect();
    if all.is_empty() {
        let inputs: Vec<_> = signature.inputs.iter().map(TensorSpec::to_string).collect();
        let text = format!(
            "--batch {batch}: no input leaves its first dimension open for it; there is {}",
            inputs.join(", ")
        );
        return Err(Failure::Usage(text));
    }
    Ok(all)
}

/// A dimension's size: its own, or what a given shape says of its name, or 1.
fn size(dim: &Dim, signature: &Signature, given: &[(String, Vec<u64>)]) -> u64 {
    if let Dim::Fixed(size) = dim {
        return *size;
    }
    let specs = signature.inputs.iter().chain(&signature.outputs);
    let mut known = specs.filter_map(|spec| {
        let (_, sizes) = given.iter().find(|(name, _)| *name == spec.name)?;
        let at = spec.shape.iter().position(|it| it == dim)?;
        sizes.get(at).copied()
    });
    known.next().unwrap_or(1)
}

/// A shape for people: `1x3x320x320`.
pub(crate) fn text(shape: &[u64]) -> String {
    shape.iter().map(u64::to_string).collect::<Vec<_>>().join("x")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> v1::Model {
        let named = |name: &str| Dim::Named(name.into());
        let spec = |name: &str, shape| TensorSpec {
            name: name.into(),
            dtype: ferry_client::DType::F32,
            shape,
        };
        let signature = Signature {
            inputs: vec![
                spec("a", vec![named("N"), Dim::Fixed(3), named("W")]),
                spec("b", vec![Dim::Fixed(2)]),
                spec("c", vec![named("N"), named("W")]),
            ],
            outputs: vec![spec("y", vec![named("N")])],
        };
        let mut model = v1::Model { signature: Some((&signature).into()), ..Default::default() };
        model.set_state(v1::model::State::Loaded);
        model
    }

    fn of(given: &[&str], batch: Option<u64>) -> Result<Vec<(String, Vec<u64>)>, String> {
        let given: Vec<Shape> = given.iter().map(|it| it.parse().unwrap()).collect();
        asked(&model(), &given, batch).map_err(|failure| {
            assert_eq!(failure.code(), 2);
            failure.text()
        })
    }

    #[test]
    fn shapes_are_written_with_x() {
        let shape: Shape = "a=b=1x3x320".parse().unwrap();
        assert_eq!(shape, Shape { name: "a=b".into(), dims: vec![1, 3, 320] });
        assert_eq!(text(&shape.dims), "1x3x320");
        for bad in ["a", "a=", "a=1xx2", "a=-1", "=1", "a=1,2"] {
            assert!(bad.parse::<Shape>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_batch_goes_to_inputs_that_leave_it_open() {
        let shape = |name: &str, dims: &[u64]| (name.to_owned(), dims.to_vec());
        assert_eq!(of(&[], Some(4)).unwrap(), [shape("a", &[4, 3, 1]), shape("c", &[4, 1])]);
        let both = of(&["c=4x7"], Some(4)).unwrap();
        assert_eq!(both, [shape("c", &[4, 7]), shape("a", &[4, 3, 7])]);
        assert_eq!(of(&["c=2x7"], None).unwrap(), [shape("c", &[2, 7])]);
    }

    #[test]
    fn a_batch_that_nothing_takes_is_refused_before_anything_is_sent() {
        let told = of(&["a=1x3x1", "c=1x1"], Some(1)).unwrap_err();
        assert!(told.contains("--batch") && told.contains("a FP32[N,3,W]"), "{told}");
        assert!(of(&["b=2", "b=2"], None).unwrap_err().contains("twice"));
    }
}
