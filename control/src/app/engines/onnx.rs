//! ONNX Runtime and tract, and `auto`, which chooses between them.

use std::collections::BTreeMap;
use std::sync::Arc;

use ferry_core::{Found, error_text};
use ferry_cuda::libraries::{self, FAMILIES, LibrarySearch};
use ferry_engine::{Engine, EngineError, Rebuild};
use ferry_onnx::{
    Completion, CudaEngine, CudaModel, CudaOptions, EngineChoice, Options, Precision, Probe, Search,
};

use super::{EngineFactory, files_bytes};
use crate::config::Config;
use crate::models::{
    CompletionName, DeviceChoice, Instances, LoadSpec, Precision as ComputesIn, PrecisionName,
};

/// Loads ONNX files.
#[derive(Debug)]
pub(super) struct Onnx {
    choice: EngineChoice,
    library: Search,
    cuda_libraries: LibrarySearch,
}

/// Where the project's script puts ONNX Runtime, below the folder of the project.
const FETCHED: &str = ".cache/onnxruntime/1.30.0/libonnxruntime.so";

/// What only TensorRT has. Refused on every machine: what runs on the CPU must not depend on
/// whether a GPU was found.
fn check(spec: &LoadSpec<'_>) -> Result<Precision, EngineError> {
    if !spec.dims.is_empty() {
        let why = "[dims] says what an engine of tensorrt is built for: leave it out (max_batch \
                   and max_elements bound sessions), or use engine = \"tensorrt\"";
        return Err(EngineError::Model(why.to_owned()));
    }
    match spec.gpu.precision {
        PrecisionName::Fp32 => Ok(Precision::Fp32),
        PrecisionName::Tf32 => Ok(Precision::Tf32),
        PrecisionName::Fp16 => {
            let why = "gpu.precision = \"fp16\", and ONNX Runtime computes in the types of the \
                       file: export the model in 16 bits and leave the precision out, or use \
                       engine = \"tensorrt\"";
            Err(EngineError::Model(why.to_owned()))
        }
    }
}

impl EngineFactory for Onnx {
    fn name(&self) -> &'static str {
        match self.choice {
            EngineChoice::Auto => "auto",
            EngineChoice::Ort => "onnx",
            EngineChoice::Tract => "tract",
        }
    }

    fn load(&self, spec: &LoadSpec<'_>) -> Result<Instances, EngineError> {
        let precision = check(spec)?;
        let device_why = match self.on_device(spec, precision)? {
            OnDevice::Gpu(instances) => return Ok(*instances),
            OnDevice::Cpu { why } => why,
        };
        let options = Options { threads: spec.threads, library: self.library.clone() };
        let model = ferry_onnx::open(self.choice, spec.file, &options)?;
        let instances = (0..spec.instances).map(|_| model.instance());
        let engines = instances.collect::<Result<Vec<_>, _>>()?;
        let signature = engines.first().map(|engine| engine.signature());
        // As ARCHITECTURE.md has it: with threads, ONNX Runtime keeps the weights for each.
        let has_own = model.engine_name() == "onnx" && spec.threads > 1;
        let copies = if has_own { spec.instances as u64 } else { 1 };
        Ok(Instances {
            // What was chosen is for a GPU: a CPU has no other products of 32-bit floats.
            precision: signature.map(|it| ComputesIn::of(it, PrecisionName::Fp32)),
            engines,
            engine: model.engine_name(),
            engine_version: model.library_version().to_owned(),
            device: None,
            device_why,
            weights_bytes: files_bytes(model.files()).saturating_mul(copies),
            dims: BTreeMap::new(),
            files: model.files().to_vec(),
            doubt: model.doubt().map(str::to_owned),
            rebuild: Some(Rebuild::new(move || model.instance())),
        })
    }

    fn uses_gpus(&self) -> bool {
        !matches!(self.choice, EngineChoice::Tract)
    }

    fn survey(&self, gpu: &[Found]) -> Vec<Found> {
        match self.choice {
            EngineChoice::Auto => Vec::new(),
            EngineChoice::Ort => {
                let runtime = ferry_onnx::probe(&self.library);
                vec![on_cpu(&runtime), on_cuda(&runtime, gpu)]
            }
            EngineChoice::Tract if cfg!(feature = "tract") => {
                vec![Found::good("tract", "part of this build")]
            }
            EngineChoice::Tract => {
                let fix = "build ferryd with its feature `tract`";
                vec![Found::bad("tract", "this build has none", fix)]
            }
        }
    }

    fn library(&self) -> Option<(&'static str, String)> {
        let is_its_own = matches!(self.choice, EngineChoice::Ort);
        match is_its_own.then(|| ferry_onnx::probe(&self.library))? {
            Probe::Found { version, .. } => Some(("onnxruntime", version)),
            Probe::Missing { .. } => None,
        }
    }
}

impl Onnx {
    /// The engine, with the operator's path alone; else with the library that the script puts there.
    pub(super) fn new(choice: EngineChoice, config: &Config) -> Onnx {
        let candidates = super::fetched(FETCHED);
        let library = Search { explicit: config.onnxruntime.clone(), candidates };
        Onnx { choice, library, cuda_libraries: config.cuda_libraries.clone() }
    }

    /// The model on a GPU, unless it is to run on the CPU, or nothing else is possible and nobody
    /// asked for a GPU by name.
    fn on_device(
        &self,
        spec: &LoadSpec<'_>,
        precision: Precision,
    ) -> Result<OnDevice, EngineError> {
        let cpu = |why: &str| Ok(OnDevice::Cpu { why: why.to_owned() });
        let ordinal = match (spec.device, self.choice) {
            (DeviceChoice::Cpu, _) => return cpu(""),
            (DeviceChoice::Auto, EngineChoice::Tract) => return cpu("cpu: tract runs on no GPU"),
            (DeviceChoice::Cuda(ordinal), EngineChoice::Tract) => {
                let why = format!("tract runs on the CPU, and device is cuda:{ordinal}");
                return Err(EngineError::Model(why + ": use engine = \"onnx\""));
            }
            // Without one to choose, the first says what is missing.
            (DeviceChoice::Auto, _) => spec.auto_gpu.map_or(0, |choice| choice.ordinal),
            (DeviceChoice::Cuda(ordinal), _) => ordinal,
        };
        match self.cuda(spec, precision, ordinal) {
            Ok(instances) => Ok(OnDevice::Gpu(Box::new(instances))),
            Err(error) if spec.device == DeviceChoice::Auto => {
                let why = format!("cpu: {}", error_text(&error));
                tracing::info!(model = %spec.file.display(), why, "runs on the CPU");
                Ok(OnDevice::Cpu { why })
            }
            Err(error) => Err(error),
        }
    }

    fn cuda(
        &self,
        spec: &LoadSpec<'_>,
        precision: Precision,
        ordinal: u32,
    ) -> Result<Instances, EngineError> {
        let gpu = spec.gpu;
        let options = CudaOptions {
            device: ordinal,
            precision,
            channels_last: gpu.channels_last,
            streams: gpu.streams,
            beside_urgent: gpu.beside_urgent,
            completion: match gpu.completion {
                CompletionName::Poll => Completion::Poll,
                CompletionName::Wait => Completion::Wait,
            },
            ..CudaOptions::default()
        };
        // Without a driver they are of no use, and the model says what is missing.
        if ferry_cuda::probe().is_ok() {
            let opened = libraries::open(&self.cuda_libraries);
            opened.map_err(|error| EngineError::Library {
                library: "CUDA",
                why: error_text(&error),
            })?;
        }
        let model = Arc::new(CudaModel::open(spec.file, &self.library, options)?);
        let instances = (0..spec.instances).map(|_| model.instance());
        let boxed = |it: CudaEngine| Box::new(it) as Box<dyn Engine>;
        let computes_in = ComputesIn::of(model.signature(), gpu.precision);
        tracing::info!(
            model = %spec.file.display(), device = model.device().name(), ordinal,
            graphs = model.has_graphs(), weights_bytes = model.weights_bytes(),
            streams = gpu.streams,
            precision = computes_in.name(), "runs on a GPU"
        );
        Ok(Instances {
            engines: instances.map(|it| it.map(boxed)).collect::<Result<_, _>>()?,
            engine: "onnx-cuda",
            engine_version: model.library_version().to_owned(),
            device: Some(Arc::clone(model.device())),
            device_why: super::auto_why(spec),
            weights_bytes: model.weights_bytes() as u64,
            precision: Some(computes_in),
            dims: BTreeMap::new(),
            files: model.files().to_vec(),
            doubt: model.doubt().map(str::to_owned),
            rebuild: Some(Rebuild::new(move || Ok(boxed(model.instance()?)))),
        })
    }
}

/// Where a model runs.
enum OnDevice {
    Gpu(Box<Instances>),
    /// Why, where `auto` could have been a GPU.
    Cpu {
        why: String,
    },
}

/// Whether ONNX Runtime is there.
fn on_cpu(runtime: &Probe) -> Found {
    match runtime {
        Probe::Found { path, version } => {
            Found::good("onnx", format!("ONNX Runtime {version} in {}", path.display()))
        }
        Probe::Missing { why, fix } => Found::bad("onnx", why, fix),
    }
}

/// Whether ONNX models can run on a GPU: the driver, ONNX Runtime, its provider and what that
/// needs, in this order, since each is of no use without those before it.
fn on_cuda(runtime: &Probe, gpu: &[Found]) -> Found {
    const PROVIDER: &str = "libonnxruntime_providers_cuda.so";
    let name = "onnx-cuda";
    let refused = |why: String, fix: &str| Found::bad(name, why, fix);
    let missing = |it: &&Found| !it.usable && !it.name.contains(' ');
    if let Some(driver) = gpu.iter().filter(missing).find(|it| it.name == "driver") {
        return refused(driver.detail.clone(), &driver.fix);
    }
    let (path, version) = match runtime {
        Probe::Found { path, version } => (path, version),
        Probe::Missing { why, fix } => return refused(why.clone(), fix),
    };
    // Without a folder the system's loader found it, and finds the provider or does not.
    let provider = path.parent().filter(|folder| folder.is_absolute()).map(|it| it.join(PROVIDER));
    if let Some(provider) = provider.filter(|provider| !provider.is_file()) {
        let why = format!("{} is not there: this ONNX Runtime is for the CPU", provider.display());
        let fix = "take libonnxruntime.so from the Python package onnxruntime-gpu (of CUDA 13), \
                   with the files beside it, and name it by --onnxruntime";
        return refused(why, fix);
    }
    let is_family = |it: &&Found| FAMILIES.iter().any(|family| family.name == it.name);
    let lacking: Vec<_> = gpu.iter().filter(missing).filter(is_family).collect();
    if !lacking.is_empty() {
        let join = |part: fn(&Found) -> &str| {
            let parts: Vec<_> = lacking.iter().map(|it| part(it)).collect();
            parts.join("; ")
        };
        return refused(join(|it| &it.detail), &join(|it| &it.fix));
    }
    let devices = gpu.iter().filter(|it| it.usable && it.name.starts_with("cuda:"));
    let devices: Vec<_> = devices.map(|it| &*it.name).filter(|name| !name.contains(' ')).collect();
    if devices.is_empty() {
        return refused("no GPU can be used".into(), "see the area gpu");
    }
    Found::good(name, format!("ONNX Runtime {version} on {}", devices.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(name: &str, usable: bool) -> Found {
        let detail = format!("about {name}");
        if usable {
            Found::good(name, detail)
        } else {
            Found::bad(name, detail, format!("get {name}"))
        }
    }

    fn gpu(lacks: &[&str]) -> Vec<Found> {
        let mut names = vec!["driver", "cuda:0", "cuda:0 dma-buf", "cuda:1", "cuda:1 peers"];
        names.extend(FAMILIES.iter().map(|family| family.name));
        names.into_iter().map(|name| about(name, !lacks.contains(&name))).collect()
    }

    #[test]
    fn onnx_cuda_says_the_first_thing_that_is_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = Probe::Found {
            path: folder.path().join("libonnxruntime.so"),
            version: "1.31.1".into(),
        };
        let missing = Probe::Missing { why: "no library".into(), fix: "fetch it".into() };
        let said = |runtime: &Probe, lacks: &[&str]| {
            let finding = on_cuda(runtime, &gpu(lacks));
            assert_eq!(finding.usable, finding.fix.is_empty(), "{finding:?}");
            (finding.detail, finding.fix)
        };
        let owned = |why: &str, fix: &str| (why.to_owned(), fix.to_owned());
        assert_eq!(said(&missing, &["driver", "cuDNN"]), owned("about driver", "get driver"));
        assert_eq!(said(&missing, &["cuDNN"]), owned("no library", "fetch it"));
        let (why, fix) = said(&runtime, &["cuDNN"]);
        assert!(why.contains("providers_cuda") && fix.contains("onnxruntime-gpu"), "{why} {fix}");
        std::fs::write(folder.path().join("libonnxruntime_providers_cuda.so"), "").unwrap();
        let both = owned("about cuBLAS; about cuDNN", "get cuBLAS; get cuDNN");
        assert_eq!(said(&runtime, &["cuDNN", "cuBLAS"]), both);
        let devices = owned("ONNX Runtime 1.31.1 on cuda:0, cuda:1", "");
        assert_eq!(said(&runtime, &["cuda:0 dma-buf", "cuda:1 peers"]), devices);
        let one = owned("ONNX Runtime 1.31.1 on cuda:1", "");
        assert_eq!(said(&runtime, &["cuda:0"]), one);
        assert!(!on_cuda(&runtime, &gpu(&["cuda:0", "cuda:1"])).usable);
    }
}
