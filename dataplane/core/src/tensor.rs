//! What a tensor is, without its bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Element type of a tensor. Names are those of the KServe V2 protocol (`FP32`, `UINT8`, …).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "&'static str", try_from = "String")]
pub enum DType {
    /// 8-bit boolean, 0 or 1.
    Bool,
    /// Unsigned 8-bit integer.
    U8,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 16-bit integer.
    U16,
    /// Signed 16-bit integer.
    I16,
    /// Unsigned 32-bit integer.
    U32,
    /// Signed 32-bit integer.
    I32,
    /// Unsigned 64-bit integer.
    U64,
    /// Signed 64-bit integer.
    I64,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
}

impl DType {
    /// Every element type, in declaration order.
    pub const ALL: [DType; 13] = [
        DType::Bool,
        DType::U8,
        DType::I8,
        DType::U16,
        DType::I16,
        DType::U32,
        DType::I32,
        DType::U64,
        DType::I64,
        DType::F16,
        DType::Bf16,
        DType::F32,
        DType::F64,
    ];

    /// Size of one element in bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            DType::Bool | DType::U8 | DType::I8 => 1,
            DType::U16 | DType::I16 | DType::F16 | DType::Bf16 => 2,
            DType::U32 | DType::I32 | DType::F32 => 4,
            DType::U64 | DType::I64 | DType::F64 => 8,
        }
    }

    /// Size of a tensor of this shape in bytes, saturated.
    pub fn bytes_of(self, shape: &[u64]) -> u64 {
        // Whatever the others are, a dimension of 0 leaves nothing.
        if shape.contains(&0) {
            return 0;
        }
        shape.iter().fold(self.bytes(), |all, &dim| all.saturating_mul(dim))
    }

    /// The KServe V2 name.
    pub const fn name(self) -> &'static str {
        match self {
            DType::Bool => "BOOL",
            DType::U8 => "UINT8",
            DType::I8 => "INT8",
            DType::U16 => "UINT16",
            DType::I16 => "INT16",
            DType::U32 => "UINT32",
            DType::I32 => "INT32",
            DType::U64 => "UINT64",
            DType::I64 => "INT64",
            DType::F16 => "FP16",
            DType::Bf16 => "BF16",
            DType::F32 => "FP32",
            DType::F64 => "FP64",
        }
    }

    /// Whether elements are floating point: such a value can be wrong but can never be an index.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F16 | DType::Bf16 | DType::F32 | DType::F64)
    }
}

impl From<DType> for &'static str {
    fn from(dtype: DType) -> Self {
        dtype.name()
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// An element type that this build does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown element type {0:?}; known are {known}", known = DType::ALL.map(DType::name).join(", "))]
pub struct UnknownDType(pub String);

impl FromStr for DType {
    type Err = UnknownDType;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = DType::ALL.into_iter().find(|dtype| dtype.name() == name);
        found.ok_or_else(|| UnknownDType(name.to_owned()))
    }
}

impl TryFrom<String> for DType {
    type Error = UnknownDType;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse()
    }
}

/// One dimension of a model's tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Dim {
    /// Always this many.
    Fixed(u64),
    /// Not fixed by the file. Of an input: chosen when a session is opened. Of an output: that of
    /// the input's dimension of this name; open where no input has one.
    Named(String),
    /// Any number of dimensions: the file declares no shape. Never beside others.
    Any,
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Named(name) => f.write_str(name),
            Dim::Any => f.write_str("…"),
        }
    }
}

/// Name, element type and shape of one input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// The model's own name for it.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Outermost dimension first.
    pub shape: Vec<Dim>,
}

impl TensorSpec {
    /// Whether the file declares no shape.
    pub fn is_any(&self) -> bool {
        matches!(self.shape.as_slice(), [Dim::Any])
    }

    /// Whether the file fixes every dimension.
    pub fn is_fixed(&self) -> bool {
        self.shape.iter().all(|dim| matches!(dim, Dim::Fixed(_)))
    }
}

impl fmt::Display for TensorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}[", self.name, self.dtype)?;
        for (i, dim) in self.shape.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{dim}")?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_back() {
        for dtype in DType::ALL {
            assert_eq!(dtype.name().parse(), Ok(dtype));
        }
        let error = "FP31".parse::<DType>().expect_err("no such type").to_string();
        assert!(error.contains("FP31") && error.contains("FP32"), "{error}");
    }
}
