//! TensorRT.

use std::collections::BTreeMap;
use std::sync::Arc;

use ferry_core::Found;
use ferry_engine::{Engine, EngineError, Rebuild};
use ferry_tensorrt::{
    Cache, CudaGpu, DimRange, Precision, Probe, Search, TrtEngine, TrtModel, TrtOptions,
};

use super::EngineFactory;
use crate::config::Config;
use crate::models::{
    CompletionName, DeviceChoice, DimSizes, Gpu, Instances, LoadSpec, Precision as ComputesIn,
    PrecisionName,
};

/// The name in a model's TOML and in SQL.
const NAME: &str = "tensorrt";

/// Loads ONNX files as engines of TensorRT.
#[derive(Debug)]
pub(super) struct Tensorrt {
    library: Search,
    cache: Option<Cache>,
}

/// The operator's path alone; else where the script puts the libraries, and where people do.
fn search(config: &Config) -> Search {
    let fetched = super::fetched(ferry_tensorrt::FETCHED);
    ferry_tensorrt::search(config.tensorrt.clone(), fetched, |name| std::env::var_os(name))
}

/// What this engine has no meaning for.
fn check(gpu: Gpu) -> Result<(), EngineError> {
    let refuse = |what: &str| {
        let why = format!("{what}, which is for engine = \"onnx\" alone: leave it out");
        Err(EngineError::Model(why))
    };
    if gpu.channels_last {
        return refuse("gpu.channels_last = true");
    }
    if gpu.beside_urgent != Gpu::default().beside_urgent {
        return refuse(&format!("gpu.beside_urgent = {}", gpu.beside_urgent));
    }
    if gpu.completion == CompletionName::Wait {
        return refuse("gpu.completion = \"wait\"");
    }
    Ok(())
}

impl Tensorrt {
    pub(super) fn new(config: &Config) -> Tensorrt {
        let cache = config.engine_cache.as_ref();
        let cache = cache.map(|folder| Cache::new(folder, config.engine_cache_bytes_max));
        Tensorrt { library: search(config), cache }
    }
}

impl EngineFactory for Tensorrt {
    fn name(&self) -> &'static str {
        NAME
    }

    /// The model on a GPU. There is no other device for it: what cannot be is refused.
    fn load(&self, spec: &LoadSpec<'_>) -> Result<Instances, EngineError> {
        let ordinal = match spec.device {
            DeviceChoice::Auto => spec.auto_gpu.map_or(0, |choice| choice.ordinal),
            DeviceChoice::Cuda(ordinal) => ordinal,
            DeviceChoice::Cpu => {
                let why = "tensorrt runs on a GPU, and device is \"cpu\": use engine = \"onnx\"";
                return Err(EngineError::Model(why.to_owned()));
            }
        };
        check(spec.gpu)?;
        let gpu = CudaGpu::open(ordinal)?;
        if self.cache.is_none() {
            tracing::warn!(
                model = %spec.file.display(),
                "the engine is built at every start: name a folder for it with --engine-cache"
            );
        }
        let options = TrtOptions {
            precision: match spec.gpu.precision {
                PrecisionName::Fp32 => Precision::Fp32,
                PrecisionName::Tf32 => Precision::Tf32,
                PrecisionName::Fp16 => Precision::Fp16,
            },
            ranges: spec.dims.iter().map(|(name, sizes)| (name.clone(), range(*sizes))).collect(),
            contexts: spec.gpu.streams,
        };
        let model = TrtModel::open(spec.file, &self.library, self.cache.as_ref(), &options, &gpu)?;
        let dims = model.ranges().iter().map(|(name, it)| (name.clone(), sizes(*it))).collect();
        check_names(spec.dims, &model)?;
        let computes_in = ComputesIn::of(model.signature(), spec.gpu.precision);
        tracing::info!(
            model = %spec.file.display(), device = gpu.device().name(), ordinal,
            contexts = options.contexts, precision = computes_in.name(), "runs on TensorRT"
        );
        let model = Arc::new(model);
        let boxed = |it: TrtEngine<CudaGpu>| Box::new(it) as Box<dyn Engine>;
        let instances = (0..spec.instances).map(|_| model.instance().map(boxed));
        Ok(Instances {
            engines: instances.collect::<Result<_, _>>()?,
            engine: NAME,
            engine_version: model.library_version().to_owned(),
            device: Some(Arc::clone(gpu.device())),
            device_why: super::auto_why(spec),
            weights_bytes: super::files_bytes(model.files()),
            precision: Some(computes_in),
            dims,
            files: model.files().to_vec(),
            doubt: model.doubt().map(str::to_owned),
            rebuild: Some(Rebuild::new(move || Ok(boxed(model.instance()?)))),
        })
    }

    fn survey(&self, _gpu: &[Found]) -> Vec<Found> {
        vec![ferry_tensorrt::survey(&self.library)]
    }

    /// Where there is no GPU for it, the library is not even opened.
    fn library(&self) -> Option<(&'static str, String)> {
        if !ferry_tensorrt::survey(&self.library).usable {
            return None;
        }
        match ferry_tensorrt::probe(&self.library) {
            Probe::Found { version, .. } => Some((NAME, version)),
            Probe::Missing { .. } => None,
        }
    }
}

fn range(sizes: DimSizes) -> DimRange {
    DimRange { min: sizes.min, typical: sizes.typical, max: sizes.max }
}

fn sizes(range: DimRange) -> DimSizes {
    DimSizes { min: range.min, typical: range.typical, max: range.max }
}

/// A dimension that the model does not have was meant to be another one.
fn check_names(
    dims: &BTreeMap<String, DimSizes>,
    model: &TrtModel<CudaGpu>,
) -> Result<(), EngineError> {
    let known = model.ranges();
    let Some(unknown) = dims.keys().find(|name| !known.contains_key(*name)) else {
        return Ok(());
    };
    let open: Vec<&str> = known.keys().map(String::as_str).collect();
    let why = format!("dims.{unknown}: the open dimensions of the inputs are {open:?}");
    Err(EngineError::Model(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_another_engine_are_refused() {
        check(Gpu::default()).unwrap();
        for gpu in [
            Gpu { channels_last: true, ..Gpu::default() },
            Gpu { beside_urgent: 2, ..Gpu::default() },
            Gpu { completion: CompletionName::Wait, ..Gpu::default() },
        ] {
            let text = check(gpu).unwrap_err().to_string();
            assert!(text.contains("gpu.") && text.contains("leave it out"), "{text}");
        }
    }
}
