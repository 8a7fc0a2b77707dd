//! In which numbers a loaded model computes.

use ferry_core::{DType, Signature};

use super::PrecisionName;

/// In which numbers a loaded model computes: what its file and its options come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 64-bit floats.
    Fp64,
    /// 32-bit floats.
    Fp32,
    /// 32-bit floats, multiplied with 10 bits of mantissa.
    Tf32,
    /// 16-bit floats with 7 bits of mantissa.
    Bf16,
    /// 16-bit floats with 10 bits of mantissa. On a CPU it says what the file is in: there engines
    /// compute in 32 bits what they have no 16-bit kernel for.
    Fp16,
}

impl Precision {
    /// Of a model with this signature. What was chosen is about 32-bit floats: a file in other ones
    /// is computed as it is. The first tensor of floats tells, an input before an output.
    pub fn of(signature: &Signature, chosen: PrecisionName) -> Precision {
        let tensors = signature.inputs.iter().chain(&signature.outputs);
        let floats = tensors.map(|tensor| tensor.dtype).find(|dtype| dtype.is_float());
        match (floats, chosen) {
            (Some(DType::F64), _) => Precision::Fp64,
            (Some(DType::F16), _) => Precision::Fp16,
            (Some(DType::Bf16), _) => Precision::Bf16,
            (_, PrecisionName::Fp32) => Precision::Fp32,
            (_, PrecisionName::Tf32) => Precision::Tf32,
            (_, PrecisionName::Fp16) => Precision::Fp16,
        }
    }

    /// The name in SQL, on the wire and for people.
    pub const fn name(self) -> &'static str {
        match self {
            Precision::Fp64 => "fp64",
            Precision::Fp32 => "fp32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
            Precision::Fp16 => "fp16",
        }
    }
}

#[cfg(test)]
mod tests {
    use ferry_core::{Dim, TensorSpec};

    use super::*;

    fn computes(inputs: &[DType], outputs: &[DType], chosen: PrecisionName) -> &'static str {
        let tensor = |dtype: &DType| TensorSpec {
            name: "t".to_owned(),
            dtype: *dtype,
            shape: vec![Dim::Fixed(1)],
        };
        let signature = Signature {
            inputs: inputs.iter().map(tensor).collect(),
            outputs: outputs.iter().map(tensor).collect(),
        };
        Precision::of(&signature, chosen).name()
    }

    #[test]
    fn what_was_chosen_is_about_32_bit_floats_alone() {
        use PrecisionName::{Fp16, Fp32, Tf32};
        for (file, chosen, expected) in [
            (DType::F32, Fp32, "fp32"),
            (DType::F32, Tf32, "tf32"),
            (DType::F32, Fp16, "fp16"),
            (DType::F16, Fp32, "fp16"),
            (DType::F16, Tf32, "fp16"),
            (DType::Bf16, Tf32, "bf16"),
            (DType::F64, Tf32, "fp64"),
        ] {
            assert_eq!(computes(&[file], &[DType::F32], chosen), expected, "{file:?} {chosen:?}");
        }
    }

    #[test]
    fn inputs_of_integers_leave_it_to_the_outputs() {
        let chosen = PrecisionName::Tf32;
        assert_eq!(computes(&[DType::I64], &[DType::F16], chosen), "fp16");
        assert_eq!(computes(&[DType::I64, DType::F16], &[DType::F32], chosen), "fp16");
        assert_eq!(computes(&[DType::I64], &[DType::I64], chosen), "tf32");
    }
}
