//! What one request sends: a picture, or tensors from files.

use std::path::Path;

use ferry_bench::{Picture, decode_options};
use ferry_client::{BoundSignature, Slot, v1};
use ferry_core::{Dim, TensorSpec};

use crate::args::{InferArgs, PictureKind, ShapeArgs};
use crate::failure::Failure;
use crate::npy::{self, Npy};
use crate::shapes::{Shape, signature, text};

/// What is sent.
pub(super) enum Input {
    Picture(Picture),
    /// One per input; none for a model without inputs.
    Tensors(Vec<(String, Npy)>),
}

impl Input {
    /// Reads a picture, to be sent as `kind` says to this model.
    pub(super) fn picture(
        path: &Path,
        kind: Option<PictureKind>,
        model: &v1::Model,
    ) -> Result<Input, Failure> {
        let picture = Picture::read(path, kind.map(Into::into), &decode_options(model))?;
        Ok(Input::Picture(picture))
    }

    /// Reads the files of tensors.
    pub(super) fn tensors(args: &InferArgs) -> Result<Input, Failure> {
        let mut tensors: Vec<(String, Npy)> = Vec::new();
        for input in &args.inputs {
            let (name, path) = name_and_path(input, &|path| path.is_file())?;
            if tensors.iter().any(|(known, _)| known == name) {
                return Err(Failure::Usage(format!("--input {name} is given twice")));
            }
            tensors.push((name.to_owned(), npy::read(Path::new(path))?));
        }
        Ok(Input::Tensors(tensors))
    }

    /// Gives the tensors the shapes that were asked for: what a file holds, as another shape of as
    /// many elements; one item, as many times as the batch has.
    pub(super) fn shaped(self, model: &v1::Model, args: &ShapeArgs) -> Result<Input, Failure> {
        let Input::Tensors(mut tensors) = self else { return Ok(self) };
        if model.state() != v1::model::State::Loaded {
            return Ok(Input::Tensors(tensors));
        }
        let signature = signature(model)?;
        if let (true, [first, ..]) = (tensors.is_empty(), &*signature.inputs) {
            let or = if model.takes_pictures { ", or --image" } else { "" };
            let text = format!("nothing to send: give --input {}=FILE.npy{or}", first.name);
            return Err(Failure::Usage(text));
        }
        for (name, tensor) in &mut tensors {
            if let Some(shape) = args.shapes.iter().find(|it| it.name == *name) {
                reshape(name, tensor, &shape.dims)?;
            } else if let Some(batch) = args.batch
                && let Some(spec) = signature.inputs.iter().find(|it| it.name == *name)
            {
                repeat(spec, tensor, batch)?;
            }
        }
        Ok(Input::Tensors(tensors))
    }

    /// The shapes that the session is to have.
    pub(super) fn shapes(&self, args: &ShapeArgs) -> Vec<Shape> {
        let Input::Tensors(tensors) = self else { return args.shapes.clone() };
        let of_tensors = tensors
            .iter()
            .map(|(name, tensor)| Shape { name: name.clone(), dims: tensor.shape.clone() });
        // A tensor has the shape that was given for it by now.
        let is_sent = |shape: &&Shape| tensors.iter().any(|(name, _)| *name == shape.name);
        let others = args.shapes.iter().filter(|shape| !is_sent(shape)).cloned();
        of_tensors.chain(others).collect()
    }

    /// The batch that the session is to have beyond those shapes.
    pub(super) fn batch(&self, args: &ShapeArgs) -> Option<u64> {
        matches!(self, Input::Picture(_)).then_some(args.batch)?
    }

    /// Fills a slot.
    pub(super) fn fill(&self, slot: &mut Slot, signature: &BoundSignature) -> Result<(), Failure> {
        let tensors = match self {
            Input::Picture(picture) => return Ok(picture.fill(slot)?),
            Input::Tensors(tensors) => tensors,
        };
        for wanted in &signature.inputs {
            if !tensors.iter().any(|(name, _)| *name == wanted.name) {
                let text = format!("input {:?} is missing: --input {0}=FILE.npy", wanted.name);
                return Err(Failure::Usage(text));
            }
        }
        for (name, tensor) in tensors {
            let index = slot.input_index(name)?;
            let wanted = signature.inputs[index].dtype;
            if tensor.dtype != wanted {
                let text = format!("input {name:?} is {wanted}, the file has {}", tensor.dtype);
                return Err(Failure::Usage(text));
            }
            // The shape was negotiated, so the lengths are equal.
            slot.set_input(index, &tensor.bytes)?;
        }
        Ok(())
    }
}

/// Cuts `NAME=FILE.npy`. Both may hold =: the cut is where a file stands behind it.
fn name_and_path<'a>(
    input: &'a str,
    is_file: &dyn Fn(&Path) -> bool,
) -> Result<(&'a str, &'a str), Failure> {
    let cuts = || input.match_indices('=').map(|(at, _)| (&input[..at], &input[at + 1..]));
    let mut files = cuts().filter(|(_, path)| is_file(Path::new(path)));
    match (files.next(), files.next()) {
        (Some(only), None) => Ok(only),
        (Some((a, _)), Some((b, _))) => Err(Failure::Usage(format!(
            "--input {input:?} can mean the input {a:?} or the input {b:?}, for there are two such \
             files: give the file another path"
        ))),
        // The first cut: reading the file will say what is wrong with it.
        (None, _) => cuts()
            .next()
            .ok_or_else(|| Failure::Usage(format!("--input {input:?}: write it as NAME=FILE.npy"))),
    }
}

fn reshape(name: &str, tensor: &mut Npy, dims: &[u64]) -> Result<(), Failure> {
    let elements = |dims: &[u64]| dims.iter().try_fold(1_u64, |all, &dim| all.checked_mul(dim));
    if elements(dims) != elements(&tensor.shape) {
        return Err(Failure::Usage(format!(
            "--shape {name}={}: the file holds {}, which has another number of elements",
            text(dims),
            text(&tensor.shape)
        )));
    }
    tensor.shape = dims.to_vec();
    Ok(())
}

/// Makes a batch of one item.
fn repeat(spec: &TensorSpec, tensor: &mut Npy, batch: u64) -> Result<(), Failure> {
    match (spec.shape.first(), tensor.shape.first_mut()) {
        (Some(Dim::Named(_)), Some(items)) if *items == 1 => {
            *items = batch;
            let times = usize::try_from(batch).unwrap_or(usize::MAX);
            let room = tensor.bytes.len().checked_mul(times).filter(|&room| room <= SENT_MAX);
            room.ok_or_else(|| {
                Failure::Usage(format!("--batch {batch}: {spec} gets larger than 4 GiB"))
            })?;
            tensor.bytes = tensor.bytes.repeat(times);
            Ok(())
        }
        (Some(Dim::Named(_)), Some(items)) if *items != batch => Err(Failure::Usage(format!(
            "--batch {batch}: the file for {spec} holds {items} items; give one, or {batch}"
        ))),
        _ => Ok(()),
    }
}

/// Most bytes of one tensor: what a session can agree on.
#[expect(
    clippy::cast_possible_truncation,
    reason = "4 GiB fits the address spaces that are built for"
)]
const SENT_MAX: usize = ferry_core::signature::PAYLOAD_BYTES_MAX as usize;

#[cfg(test)]
mod tests {
    use ferry_client::DType;

    use super::*;

    #[test]
    fn the_name_ends_where_a_file_begins() {
        let cut = |input, files: &[&str]| {
            let files = files.to_vec();
            let is_file = move |path: &Path| files.iter().any(|it| Path::new(it) == path);
            name_and_path(input, &is_file).map_err(|failure| failure.text())
        };
        assert_eq!(cut("x=f.npy", &["f.npy"]), Ok(("x", "f.npy")));
        assert_eq!(cut("a=b=f.npy", &["f.npy"]), Ok(("a=b", "f.npy")));
        assert_eq!(cut("a=b=f.npy", &["b=f.npy"]), Ok(("a", "b=f.npy")));
        assert_eq!(cut("a=b=f.npy", &[]), Ok(("a", "b=f.npy")));
        let told = cut("a=b=f", &["f", "b=f"]).unwrap_err();
        assert!(told.contains("\"a\"") && told.contains("\"a=b\""), "{told}");
        assert!(cut("f.npy", &["f.npy"]).unwrap_err().contains("NAME=FILE.npy"));
    }

    #[test]
    fn one_item_becomes_a_batch_and_other_counts_are_refused() {
        let shape = vec![Dim::Named("N".into()), Dim::Fixed(2)];
        let spec = TensorSpec { name: "x".into(), dtype: DType::U8, shape };
        let npy = |shape: &[u64], bytes: &[u8]| Npy {
            dtype: DType::U8,
            shape: shape.to_vec(),
            bytes: bytes.to_vec(),
        };
        let mut one = npy(&[1, 2], &[1, 2]);
        repeat(&spec, &mut one, 3).unwrap();
        assert_eq!(one, npy(&[3, 2], &[1, 2, 1, 2, 1, 2]));
        repeat(&spec, &mut one, 3).unwrap();
        assert_eq!(one.shape, [3, 2], "as many as asked for");
        assert_eq!(repeat(&spec, &mut one, 4).unwrap_err().code(), 2);
        let mut flat = npy(&[4], &[0; 4]);
        reshape("x", &mut flat, &[2, 2]).unwrap();
        assert_eq!(flat.shape, [2, 2]);
        assert!(reshape("x", &mut flat, &[3, 2]).unwrap_err().text().contains("3x2"));
    }
}
