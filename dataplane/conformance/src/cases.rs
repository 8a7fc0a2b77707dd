//! Models as others export them, with requests and right answers: the files in `cases/onnx`.
//!
//! They were made from arithmetic and seeded noise, with Python's `onnx` and `skl2onnx`; the answers
//! are those of ONNX Runtime 1.30, and each agrees with a second opinion (onnx's reference
//! evaluator, NumPy, or scikit-learn).

pub mod run;

use std::path::{Path, PathBuf};

use ferry_core::DType;
use serde_json::Value;

/// A model and what it is asked.
#[derive(Clone, Debug)]
pub struct Case {
    /// The model's name: that of its file without `.onnx`.
    pub name: String,
    /// What kind of difficulty it has.
    pub group: String,
    /// Its file.
    pub model: PathBuf,
    /// To be sent in this order.
    pub requests: Vec<Exchange>,
    /// What numbers may differ by.
    pub tolerance: Tolerance,
}

/// A request and its answer.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The right answer is right.
    pub may_run: bool,
    /// A clear refusal is right too.
    pub may_be_refused: bool,
    /// By name.
    pub inputs: Vec<(String, Tensor)>,
    /// By name.
    pub outputs: Vec<(String, Tensor)>,
}

/// What floats may differ by.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    relative: f64,
    absolute: f64,
}

/// A tensor from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Element type.
    pub dtype: DType,
    /// Outermost dimension first.
    pub shape: Vec<u64>,
    /// Its elements, as they lie in memory.
    pub bytes: Vec<u8>,
}

/// Where the models are: a folder for `--models`.
pub fn folder() -> PathBuf {
    root().join("models")
}

/// `FERRY_CASES` names the folder where it is not that of the sources.
fn root() -> PathBuf {
    match std::env::var_os("FERRY_CASES") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/onnx"),
    }
}

/// All cases.
///
/// # Panics
/// If the files are not as they should be.
pub fn onnx() -> Vec<Case> {
    let text = std::fs::read_to_string(root().join("cases.json"));
    let text = text.unwrap_or_else(|error| panic!("cases.json: {error}"));
    let all: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}"));
    let number = |name: &str| all[name].as_f64().unwrap_or_else(|| panic!("no {name}"));
    let tolerance =
        Tolerance { relative: number("relative_max"), absolute: number("absolute_max") };
    let cases = all["cases"].as_array().unwrap_or_else(|| panic!("no cases"));
    let case = |case: &Value| Case {
        name: text_of(&case["name"]),
        group: text_of(&case["group"]),
        model: root().join(text_of(&case["model"])),
        requests: case["requests"].as_array().into_iter().flatten().map(exchange).collect(),
        tolerance,
    };
    cases.iter().map(case).collect()
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

fn exchange(request: &Value) -> Exchange {
    let expected: Vec<&str> =
        request["expect"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let tensors = |all: &Value| {
        let all = all.as_object().into_iter().flatten();
        all.map(|(name, file)| (name.clone(), npy(&root().join(text_of(file))))).collect()
    };
    Exchange {
        may_run: expected.contains(&"run"),
        may_be_refused: expected.contains(&"refuse"),
        inputs: tensors(&request["inputs"]),
        outputs: tensors(&request["outputs"]),
    }
}

/// Reads NumPy's format, as far as the cases use it.
fn npy(path: &Path) -> Tensor {
    let file = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let unusable = || -> ! { panic!("{} is not a usable .npy file", path.display()) };
    let Some((head, rest)) = file.split_at_checked(10) else { unusable() };
    let length = usize::from(u16::from_le_bytes([head[8], head[9]]));
    let Some((header, bytes)) = rest.split_at_checked(length) else { unusable() };
    let header = String::from_utf8_lossy(header);
    let between = |from: &str, to: &str| {
        let rest = header.split_once(from).unwrap_or_else(|| unusable()).1;
        rest.split_once(to).unwrap_or_else(|| unusable()).0.to_owned()
    };
    let dtype = match between("'descr': '", "'").as_str() {
        "|b1" => DType::Bool,
        "<i8" => DType::I64,
        "<f4" => DType::F32,
        other => panic!("{}: elements of {other}", path.display()),
    };
    let dims = between("'shape': (", ")");
    let dims = dims.split(',').map(str::trim).filter(|dim| !dim.is_empty());
    let shape: Vec<u64> = dims.map(|dim| dim.parse().unwrap_or_else(|_| unusable())).collect();
    assert!(header.contains("'fortran_order': False"), "{}", path.display());
    assert_eq!(dtype.bytes_of(&shape), bytes.len() as u64, "{}", path.display());
    Tensor { dtype, shape, bytes: bytes.to_vec() }
}

impl Tolerance {
    /// Whether a tensor is the right one: type and shape equal, floats nearly, all else exactly.
    ///
    /// # Errors
    /// A text that says how it differs.
    pub fn check(&self, got: &Tensor, right: &Tensor) -> Result<(), String> {
        if (got.dtype, &got.shape) != (right.dtype, &right.shape) {
            let (is, should) = ((got.dtype, &got.shape), (right.dtype, &right.shape));
            return Err(format!("{is:?} where {should:?} is right"));
        }
        if right.dtype != DType::F32 {
            return if got.bytes == right.bytes { Ok(()) } else { Err("other values".to_owned()) };
        }
        let numbers = |tensor: &Tensor| -> Vec<f64> {
            let all = tensor.bytes.as_chunks().0.iter();
            all.map(|four| f64::from(f32::from_le_bytes(*four))).collect()
        };
        let (got, right) = (numbers(got), numbers(right));
        let near = |got: f64, right: f64| {
            (got - right).abs() <= self.absolute + self.relative * right.abs()
        };
        match got.iter().zip(&right).position(|(got, right)| !near(*got, *right)) {
            None if got.len() == right.len() => Ok(()),
            None => Err(format!("{} numbers where {} are right", got.len(), right.len())),
            Some(at) => Err(format!("{} at {at} where {} is right", got[at], right[at])),
        }
    }
}
