//! The signature of a model from what its file declares.

use std::collections::HashSet;
use std::path::Path;

use ferry_core::{DType, Dim, Signature, TensorSpec};
use ferry_engine::EngineError;

use crate::file::unusable;

/// One tensor as a file declares it.
#[derive(Clone, Debug)]
pub(crate) struct Declared {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    /// `None` where it declares no shape.
    pub(crate) dims: Option<Vec<DeclaredDim>>,
}

impl Declared {
    pub(crate) fn is_scalar(&self) -> bool {
        self.dims.as_ref().is_some_and(Vec::is_empty)
    }
}

/// An input or output that cannot be sent.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    /// `input` or `output`.
    pub(crate) what: &'static str,
    pub(crate) name: String,
    /// What it is.
    pub(crate) is: String,
}

impl Refused {
    /// As an error that names the file and the remedy.
    pub(crate) fn at(&self, path: &Path) -> EngineError {
        let Refused { what, name, is } = self;
        let why = format!("{what} {name:?} is {is}, and only tensors of numbers are served");
        let fix = match is.to_lowercase() {
            is if is.contains("map") => {
                "export the model without that step (skl2onnx: zipmap=False), so that it gives a \
                 tensor"
            }
            is if is.contains("string") => {
                "export the model with numbers in their place: indices of classes, tokens"
            }
            _ => "export the model so that it takes and gives tensors",
        };
        unusable(path, why, fix)
    }
}

/// One dimension as a file declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DeclaredDim {
    Fixed(u64),
    Named(String),
    /// Open, and no name to tell which others it equals.
    Unnamed,
}

impl DeclaredDim {
    /// An open dimension; exporters write `""` and `"?"` where they have no name.
    pub(crate) fn open(name: &str) -> DeclaredDim {
        match name {
            "" | "?" => DeclaredDim::Unnamed,
            name => DeclaredDim::Named(name.to_owned()),
        }
    }
}

/// Gives every unnamed dimension a name of its own: `TENSOR.POSITION`.
pub(crate) fn signature(inputs: &[Declared], outputs: &[Declared]) -> Signature {
    let all = inputs.iter().chain(outputs);
    let mut taken: HashSet<String> = all
        .flat_map(|tensor| tensor.dims.iter().flatten())
        .filter_map(
            |dim| if let DeclaredDim::Named(name) = dim { Some(name.clone()) } else { None },
        )
        .collect();
    let mut specs = |tensors: &[Declared]| {
        tensors.iter().map(|tensor| spec(tensor, &mut taken)).collect::<Vec<_>>()
    };
    Signature { inputs: specs(inputs), outputs: specs(outputs) }
}

fn spec(tensor: &Declared, taken: &mut HashSet<String>) -> TensorSpec {
    let mut dim = |(position, dim): (usize, &DeclaredDim)| match dim {
        DeclaredDim::Fixed(size) => Dim::Fixed(*size),
        DeclaredDim::Named(name) => Dim::Named(name.clone()),
        DeclaredDim::Unnamed => {
            let mut name = format!("{}.{position}", tensor.name);
            while !taken.insert(name.clone()) {
                name.push('\'');
            }
            Dim::Named(name)
        }
    };
    let shape = match &tensor.dims {
        Some(dims) => dims.iter().enumerate().map(&mut dim).collect(),
        None => vec![Dim::Any],
    };
    TensorSpec { name: tensor.name.clone(), dtype: tensor.dtype, shape }
}

#[cfg(test)]
mod tests {
    use ferry_engine::check_binding;

    use super::*;

    fn tensor(name: &str, dims: &[DeclaredDim]) -> Declared {
        Declared { name: name.into(), dtype: DType::F32, dims: Some(dims.to_vec()) }
    }

    fn named(name: &str) -> DeclaredDim {
        DeclaredDim::open(name)
    }

    #[test]
    fn unnamed_dimensions_get_names_of_their_own() {
        let unnamed = DeclaredDim::Unnamed;
        let inputs = [
            tensor("x", &[unnamed.clone(), DeclaredDim::Fixed(3), unnamed.clone()]),
            tensor("y", &[named("x.0"), named("n"), named("?")]),
        ];
        let made = signature(&inputs, &[tensor("z", &[named("n"), unnamed])]);
        let text: Vec<String> =
            made.inputs.iter().chain(&made.outputs).map(TensorSpec::to_string).collect();
        assert_eq!(text, ["x FP32[x.0',3,x.2]", "y FP32[x.0,n,y.2]", "z FP32[n,z.1]"]);
        let bound = made.bind(&[]).unwrap();
        assert!(bound.outputs[0].open);
    }

    #[test]
    fn a_binding_of_another_model_is_refused() {
        let model = signature(&[tensor("x", &[named("n")])], &[tensor("y", &[named("n")])]);
        let right = model.bind(&[("x".into(), vec![5])]).unwrap();
        check_binding(&model, &right).unwrap();
        let mut wrong = right.clone();
        wrong.outputs[0].bytes += 4;
        check_binding(&model, &wrong).unwrap_err();
        let mut wrong = right.clone();
        wrong.inputs[0].dtype = DType::F64;
        check_binding(&model, &wrong).unwrap_err();
        let mut wrong = right;
        wrong.outputs.clear();
        check_binding(&model, &wrong).unwrap_err();
    }
}
