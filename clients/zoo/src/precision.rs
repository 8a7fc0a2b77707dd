//! In which numbers a model's file is written.

use half::f16;

use ferry_onnx_file::{FLOAT, FLOAT16};

/// The floats of a file: its weights, its inputs and its outputs.
///
/// Half precision holds the weights of single precision rounded to the nearest, ties to even.
/// Values that ONNX defines as 32-bit floats, such as the scales of `Resize`, stay so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// IEEE single precision.
    #[default]
    Fp32,
    /// IEEE half precision.
    Fp16,
}

impl Precision {
    /// `fp32`, `fp16`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
        }
    }

    /// What a model of the zoo is called in this precision: in single precision as it is, in half
    /// precision `NAME-fp16`, so that a folder can hold both.
    #[must_use]
    pub fn model_name(self, name: &str) -> String {
        match self {
            Self::Fp32 => name.to_owned(),
            Self::Fp16 => format!("{name}-{}", self.name()),
        }
    }

    /// The element type in the file.
    pub(crate) const fn data_type(self) -> i32 {
        match self {
            Self::Fp32 => FLOAT,
            Self::Fp16 => FLOAT16,
        }
    }

    /// Bytes of an element.
    pub(crate) const fn bytes(self) -> u64 {
        match self {
            Self::Fp32 => 4,
            Self::Fp16 => 2,
        }
    }
}

/// The nearest number of 16 bits as a file holds it.
pub(crate) fn half(value: f32) -> [u8; 2] {
    f16::from_f32(value).to_le_bytes()
}
