//! What an engine is built for.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use ferry_engine::EngineError;
use serde::{Deserialize, Serialize};

/// What a model computes with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// As the file says, products of 32-bit floats in full.
    #[default]
    Fp32,
    /// As the file says, but tensor cores may round the factors of 32-bit products to 10 bits of
    /// mantissa.
    Tf32,
    /// 32-bit floats of the file become 16-bit ones; inputs and outputs stay as they are.
    Fp16,
}

/// A precision that nobody has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown precision {0:?}; known are \"fp32\", \"tf32\" and \"fp16\"")]
pub struct UnknownPrecision(pub String);

impl Precision {
    /// The name in SQL and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Precision::Fp32 => "fp32",
            Precision::Tf32 => "tf32",
            Precision::Fp16 => "fp16",
        }
    }
}

impl FromStr for Precision {
    type Err = UnknownPrecision;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let all = [Precision::Fp32, Precision::Tf32, Precision::Fp16];
        let found = all.into_iter().find(|precision| precision.name() == name);
        found.ok_or_else(|| UnknownPrecision(name.to_owned()))
    }
}

/// The compute capabilities that the library runs on, for people.
#[cfg(not(feature = "enterprise"))]
pub(crate) const SUPPORTED: &str = "8.0, 8.6, 8.9, 12.0 and above";
#[cfg(feature = "enterprise")]
pub(crate) const SUPPORTED: &str = "as in the support matrix of TensorRT 11.4";

/// What to do about a GPU that the library does not run on.
pub(crate) const OTHERWISE: &str =
    "use engine = \"onnx\", or build with the feature \"enterprise\" for TensorRT 11.4";

/// Compute capability of a GPU, such as 8.9.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Capability {
    /// Before the dot.
    pub major: u32,
    /// After the dot.
    pub minor: u32,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl From<(u32, u32)> for Capability {
    fn from((major, minor): (u32, u32)) -> Capability {
        Capability { major, minor }
    }
}

impl Capability {
    /// Refuses what the library does not run on.
    ///
    /// TensorRT-RTX runs on 8.0, 8.6, 8.9, 12.0 and above. What TensorRT 11.4 (feature
    /// `enterprise`) runs on it says itself, when an engine is loaded.
    ///
    /// # Errors
    /// [`EngineError::Library`], which says what is supported and what to use instead.
    pub fn check(self) -> Result<(), EngineError> {
        if self.is_supported() {
            return Ok(());
        }
        Err(EngineError::Library {
            library: crate::LIBRARY,
            why: format!("the GPU has {}: {OTHERWISE}", self.unsupported()),
        })
    }

    /// As [`check`](Capability::check).
    pub(crate) fn is_supported(self) -> bool {
        let runs = matches!((self.major, self.minor), (8, 0 | 6 | 9)) || self.major >= 12;
        runs || cfg!(feature = "enterprise")
    }

    /// What is wrong with it.
    pub(crate) fn unsupported(self) -> String {
        format!("compute capability {self}, and TensorRT-RTX runs on {SUPPORTED}")
    }
}

/// Sizes that an open dimension may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DimRange {
    /// The smallest; at least 1.
    pub min: u64,
    /// The one that kernels are chosen for.
    pub typical: u64,
    /// The largest; memory is set aside for it.
    pub max: u64,
}

impl Default for DimRange {
    /// 1 to 32, as batches are; 1 is what a session gets that asks for nothing.
    fn default() -> Self {
        DimRange { min: 1, typical: 1, max: 32 }
    }
}

impl fmt::Display for DimRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}..{}", self.min, self.typical, self.max)
    }
}

/// How a file becomes an engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildOptions {
    /// What it computes with.
    pub precision: Precision,
    /// The GPU that it is built for. `None`: with TensorRT-RTX all that it supports, with
    /// TensorRT 11.4 the one of this machine.
    pub capability: Option<Capability>,
    /// Sizes of open dimensions by their name; others have [`DimRange::default`].
    pub ranges: BTreeMap<String, DimRange>,
}

impl BuildOptions {
    /// The range of a dimension.
    pub(crate) fn range(&self, dim: &str) -> DimRange {
        self.ranges.get(dim).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(not(feature = "enterprise"))]
    fn what_tensorrt_rtx_runs_on() {
        let check = |major, minor| Capability { major, minor }.check();
        for (major, minor) in [(8, 0), (8, 6), (8, 9), (12, 0), (12, 1), (13, 0)] {
            check(major, minor).unwrap();
        }
        for (major, minor) in [(7, 5), (8, 7), (9, 0), (10, 0), (10, 3), (11, 0)] {
            let text = check(major, minor).unwrap_err().to_string();
            assert!(text.contains(&format!("{major}.{minor}")), "{text}");
            assert!(text.contains("8.0, 8.6, 8.9, 12.0 and above"), "{text}");
            assert!(text.contains("engine = \"onnx\""), "{text}");
        }
    }

    #[test]
    fn precisions_have_names() {
        for name in ["fp32", "tf32", "fp16"] {
            assert_eq!(name.parse::<Precision>().unwrap().name(), name);
        }
        assert!("int8".parse::<Precision>().unwrap_err().to_string().contains("fp16"));
    }
}
