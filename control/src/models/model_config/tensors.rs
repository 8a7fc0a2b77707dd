//! The tensors that a configuration declares, beside those of the model.

use ferry_core::{DType, Dim, Signature, TensorSpec};
use ferry_proto::oip::{DataType, ModelConfig};

/// What a configuration says of the tensors.
#[derive(Clone, Debug, Default)]
pub struct Declared {
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
    /// Whether dimensions are told without the batch in front.
    has_batch: bool,
}

#[derive(Clone, Debug)]
struct Tensor {
    name: String,
    dtype: DType,
    /// -1: any.
    dims: Vec<i64>,
}

/// The type that a configuration names.
///
/// # Errors
/// A text if no engine has it.
pub(super) fn dtype(number: i32) -> Result<DType, String> {
    let named = DataType::try_from(number).map_err(|_unknown| format!("data_type {number}"))?;
    let name = named.as_str_name();
    let plain = name.strip_prefix("TYPE_").and_then(|name| name.parse().ok());
    plain.ok_or_else(|| format!("data_type {name}, which no model here has"))
}

impl Declared {
    /// Reads them.
    ///
    /// # Errors
    /// A text that names the tensor.
    pub(super) fn of(config: &ModelConfig) -> Result<Declared, String> {
        let tensor = |way: &str, name: &str, number: i32, dims: &[i64]| {
            let dtype = dtype(number).map_err(|why| format!("{way} {name:?}: {why}"))?;
            if let Some(dim) = dims.iter().find(|&&dim| dim < -1) {
                return Err(format!("{way} {name:?}: dims has {dim}; -1 is an open dimension"));
            }
            Ok(Tensor { name: name.to_owned(), dtype, dims: dims.to_vec() })
        };
        let inputs = config.input.iter();
        let outputs = config.output.iter();
        Ok(Declared {
            inputs: inputs
                .map(|it| tensor("input", &it.name, it.data_type, &it.dims))
                .collect::<Result<_, _>>()?,
            outputs: outputs
                .map(|it| tensor("output", &it.name, it.data_type, &it.dims))
                .collect::<Result<_, _>>()?,
            has_batch: config.max_batch_size > 0,
        })
    }

    /// Checks them against what the model has; says what of them is not held to.
    ///
    /// # Errors
    /// A text that names the tensor, what is declared and what there is.
    pub(in crate::models) fn check(&self, signature: &Signature) -> Result<Vec<String>, String> {
        let mut notes = Vec::new();
        for (way, declared, there) in [
            ("input", &self.inputs, &signature.inputs),
            ("output", &self.outputs, &signature.outputs),
        ] {
            for tensor in declared {
                let spec = there.iter().find(|spec| spec.name == tensor.name);
                let spec = spec.ok_or_else(|| {
                    let (name, known) = (&tensor.name, names(there));
                    format!("{way} {name:?} is declared, and the model has {known}")
                })?;
                self.fits(way, tensor, spec, &mut notes)?;
            }
            let unsaid =
                there.iter().filter(|spec| !declared.iter().any(|it| it.name == spec.name));
            match unsaid.map(|spec| format!("{:?}", spec.name)).collect::<Vec<_>>() {
                missing if missing.is_empty() || declared.is_empty() => {}
                missing if way == "input" => {
                    let missing = missing.join(", ");
                    return Err(format!("the model has input {missing}, which is not declared"));
                }
                more => notes.push(format!(
                    "output: the model has {} too, which is served as well",
                    more.join(", ")
                )),
            }
        }
        if self.has_batch && !super::super::shapes::has_batch(signature) {
            return Err(
                "max_batch_size is above 0, and the inputs and outputs of the model do not \
                        all begin with one open dimension: set it to 0, with the whole dims"
                    .to_owned(),
            );
        }
        Ok(notes)
    }

    fn fits(
        &self,
        way: &str,
        tensor: &Tensor,
        spec: &TensorSpec,
        notes: &mut Vec<String>,
    ) -> Result<(), String> {
        let Tensor { name, dtype, dims } = tensor;
        if *dtype != spec.dtype {
            let there = spec.dtype;
            return Err(format!(
                "{way} {name:?} is declared as {dtype}, and the model has {there}"
            ));
        }
        let wrong = || {
            let behind = if self.has_batch { " behind the batch" } else { "" };
            format!(
                "{way} {name:?} is declared with dims {dims:?}{behind}, and the model has {spec}"
            )
        };
        if let [Dim::Any] = &*spec.shape {
            notes.push(format!("{way} {name:?}: dims are not held to: the model declares none"));
            return Ok(());
        }
        let there = spec.shape.get(usize::from(self.has_batch)..).ok_or_else(wrong)?;
        if there.len() != dims.len() {
            return Err(wrong());
        }
        for (&declared, dim) in dims.iter().zip(there) {
            match dim {
                Dim::Fixed(size) if i64::try_from(*size).is_ok_and(|size| size == declared) => {}
                Dim::Fixed(_) => return Err(wrong()),
                Dim::Named(_) | Dim::Any if declared == -1 => {}
                Dim::Named(_) | Dim::Any => notes.push(format!(
                    "{way} {name:?}: dims say {declared} where the model takes any size: others \
                     are taken too"
                )),
            }
        }
        Ok(())
    }
}

fn names(all: &[TensorSpec]) -> String {
    let names: Vec<_> = all.iter().map(|spec| format!("{:?}", spec.name)).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
