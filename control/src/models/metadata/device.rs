//! Which device runs a model, and how.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::Deserialize;

/// Most streams of one model: each has a workspace of its own.
const STREAMS_MAX: usize = 64;

/// Streams where nobody says otherwise: sixteen sessions have one each.
const STREAMS_DEFAULT: usize = 16;

/// Which device runs a model: `auto`, `cpu` or `cuda:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum DeviceChoice {
    /// The first GPU, where the engine can use it; else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// This GPU or an error.
    Cuda(u32),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<DeviceChoice, String> {
        let number = || text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Cpu),
            _ => number()
                .map(DeviceChoice::Cuda)
                .ok_or_else(|| format!("device {text:?} is none of auto, cpu, cuda:N")),
        }
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(text: String) -> Result<DeviceChoice, String> {
        text.parse()
    }
}

/// How a model runs on a GPU; without one, nothing of it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gpu {
    /// Products of 32-bit floats in full, or on tensor cores with fewer bits.
    pub precision: PrecisionName,
    /// Convolutions keep channels innermost, which suits tensor cores.
    pub channels_last: bool,
    /// With ONNX Runtime streams of normal priority, and as many of high; with TensorRT contexts of
    /// each instance, each with a stream.
    pub streams: usize,
    /// Normal requests that may be started while an urgent one runs.
    pub beside_urgent: usize,
    /// `poll`: requests of all streams are in flight at once; `wait`: one after the other.
    pub completion: CompletionName,
}

impl Default for Gpu {
    fn default() -> Gpu {
        Gpu {
            precision: PrecisionName::Fp32,
            channels_last: false,
            streams: STREAMS_DEFAULT,
            beside_urgent: 1,
            completion: CompletionName::Poll,
        }
    }
}

/// In which numbers a model computes on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionName {
    /// 32-bit floats in full. A file in 16 bits is computed as it is, which needs no other choice.
    Fp32,
    /// 32-bit floats with 10 bits of mantissa.
    Tf32,
    /// 32-bit floats made 16-bit ones; only TensorRT.
    Fp16,
}

/// When an instance on a GPU takes the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CompletionName {
    /// While others are in flight.
    Poll,
    /// When the last one is done.
    Wait,
}

/// Sizes that an open dimension may take, where an engine is built ahead for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DimSizes {
    /// The smallest.
    #[serde(default = "one")]
    pub min: u64,
    /// The one that kernels are chosen for.
    #[serde(default = "one")]
    pub typical: u64,
    /// The largest; memory is set aside for it.
    pub max: u64,
}

fn one() -> u64 {
    1
}

impl DimSizes {
    pub(super) fn check(
        all: BTreeMap<String, DimSizes>,
    ) -> Result<BTreeMap<String, DimSizes>, String> {
        for (name, sizes) in &all {
            let DimSizes { min, typical, max } = *sizes;
            if !(1 <= min && min <= typical && typical <= max && i64::try_from(max).is_ok()) {
                return Err(format!(
                    "dims.{name} = {min} to {max}, typically {typical}: these must be 1 or more, \
                     and typical between the two"
                ));
            }
        }
        Ok(all)
    }
}

impl Gpu {
    pub(in crate::models) fn check(self) -> Result<Gpu, String> {
        for (name, value) in [("streams", self.streams), ("beside_urgent", self.beside_urgent)] {
            if !(1..=STREAMS_MAX).contains(&value) {
                return Err(format!("gpu.{name} = {value}; allowed are 1 to {STREAMS_MAX}"));
            }
        }
        Ok(self)
    }
}
