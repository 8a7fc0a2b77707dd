//! From an ONNX file to an engine.

use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use ferry_core::{Dim, Signature};
use ferry_engine::EngineError;
use ferry_engine::library::Search;
use trtx::builder::BuilderConfig;
use trtx::{Builder, BuilderFlag, OnnxParser, OptProfileSelector};

use crate::half;
use crate::log::{self, listen};
use crate::options::{BuildOptions, Capability, DimRange, Precision};
use crate::plan::{About, EnginePlan, ranges};
use crate::search::{Opened, required};
use crate::signature::signature as signature_of;
use crate::source::{EXPORT_AGAIN, Source};
use ferry_onnx_file::{self as onnx, ModelProto};

/// One build at a time: each needs several times the model's bytes, and as many cores as it finds.
static BUILDING: Mutex<()> = Mutex::new(());

/// What to do about an operator or a graph that the parser does not take.
const NOT_SUPPORTED: &str =
    "export the model with operators that TensorRT has, or use engine = \"onnx\"";

/// Parses an ONNX file and builds an engine of it. TensorRT-RTX needs no GPU for that.
///
/// # Errors
/// [`EngineError::Library`] if TensorRT is missing, or does not run on the GPU that was asked for;
/// [`EngineError::Model`] if the file is not one that TensorRT can run: it names the operator;
/// [`EngineError::Shapes`] if a range is none.
pub fn build(
    path: &Path,
    search: &Search,
    options: &BuildOptions,
) -> Result<EnginePlan, EngineError> {
    let library = required(search)?;
    build_source(&Source::read(path)?, library, options)
}

/// Parses an ONNX file, and says what the model takes and gives.
///
/// # Errors
/// As [`build`].
pub fn signature(path: &Path, search: &Search) -> Result<Signature, EngineError> {
    required(search)?;
    let source = Source::read(path)?;
    let (model, file) = prepare(&source, Precision::Fp32)?;
    let _one_at_a_time = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut builder = builder()?;
    parse(&source, &model, &file, &mut builder).map(|(_parser, signature)| signature)
}

pub(crate) fn build_source(
    source: &Source,
    library: &Opened,
    options: &BuildOptions,
) -> Result<EnginePlan, EngineError> {
    check(options)?;
    let (model, file) = prepare(source, options.precision)?;
    let _one_at_a_time = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut builder = builder()?;
    let (mut parser, signature) = parse(source, &model, &file, &mut builder)?;
    let ranges = ranges(&signature, options);

    let config = configure(&mut builder, &signature, options);
    let mut config = config.map_err(|why| source.unusable(why, NOT_SUPPORTED))?;
    let network = parser.network_mut();
    let built = listen(|| builder.build_serialized_network(network, &mut config));
    let built = built.map_err(|why| source.unusable(why, NOT_SUPPORTED))?;
    let about = About {
        signature,
        precision: options.precision,
        capability: options.capability,
        library_version: library.version.clone(),
        ranges,
    };
    Ok(EnginePlan { about, engine: built.to_vec() })
}

/// Refuses options that no model could be built with.
fn check(options: &BuildOptions) -> Result<(), EngineError> {
    if let Some(capability) = options.capability {
        capability.check()?;
        if cfg!(not(feature = "enterprise")) && target(capability).is_none() {
            let why = format!(
                "engines cannot be built for compute capability {capability} alone: build for all"
            );
            return Err(EngineError::Library { library: crate::LIBRARY, why });
        }
    }
    for (name, range) in &options.ranges {
        let DimRange { min, typical, max } = *range;
        if !(1 <= min && min <= typical && typical <= max && i64::try_from(max).is_ok()) {
            let why = format!("the range of dimension {name:?} is {range}: give min..typical..max");
            return Err(EngineError::Shapes(why));
        }
    }
    Ok(())
}

/// What the file says, and the bytes that TensorRT shall parse.
fn prepare(source: &Source, precision: Precision) -> Result<(ModelProto, Bytes), EngineError> {
    let model =
        onnx::read(source.bytes.clone()).map_err(|why| source.unusable(why, EXPORT_AGAIN))?;
    let external = model.graph.as_ref().map(|graph| graph.external_weight(onnx::DEPTH_MAX));
    let external = external.unwrap_or(Ok(None));
    if let Some(weight) = external.map_err(|why| source.unusable(why, EXPORT_AGAIN))? {
        let why = format!("weight {weight:?} is stored in another file");
        return Err(source.unusable(why, "export the model as one file, its weights inside"));
    }
    let file = match precision {
        Precision::Fp32 | Precision::Tf32 => source.bytes.clone(),
        Precision::Fp16 => half::convert(model.clone()).map_err(|why| {
            source.unusable(why, "use precision = \"fp32\" or \"tf32\", or export it in 16 bits")
        })?,
    };
    Ok((model, file))
}

fn builder() -> Result<Builder<'static>, EngineError> {
    let logger = log::logger()?;
    listen(|| Builder::new(logger)).map_err(|why| EngineError::Library {
        library: crate::LIBRARY,
        why: format!("{why}: see what this library needs with `ferry doctor`"),
    })
}

fn parse<'a>(
    source: &Source,
    model: &ModelProto,
    file: &Bytes,
    builder: &mut Builder<'a>,
) -> Result<(OnnxParser<'a>, Signature), EngineError> {
    let broken = |why: String| source.unusable(why, EXPORT_AGAIN);
    let logger = log::logger()?;
    let network = listen(|| builder.create_network(0)).map_err(broken)?;
    let mut parser = listen(|| OnnxParser::new(network, logger)).map_err(broken)?;
    listen(|| parser.parse(file)).map_err(|why| {
        let fix = if why.contains("deserialize") { EXPORT_AGAIN } else { NOT_SUPPORTED };
        source.unusable(why, fix)
    })?;
    let graph = model.graph.as_ref().ok_or_else(|| broken("no graph".to_owned()))?;
    let signature = signature_of(source, graph, parser.network())?;
    Ok((parser, signature))
}

fn configure<'a>(
    builder: &mut Builder<'a>,
    signature: &Signature,
    options: &BuildOptions,
) -> Result<BuilderConfig<'a>, String> {
    let mut config = listen(|| builder.create_config())?;
    // TF32 is TensorRT's default, and not ours.
    match options.precision {
        Precision::Tf32 => config.set_flag(BuilderFlag::kTF32),
        Precision::Fp32 | Precision::Fp16 => config.clear_flag(BuilderFlag::kTF32),
    }
    #[cfg(not(feature = "enterprise"))]
    if let Some(target) = options.capability.and_then(target) {
        listen(|| config.set_nb_compute_capabilities(1))?;
        listen(|| config.set_compute_capability(target, 0))?;
    }
    let open = |dim: &Dim| matches!(dim, Dim::Named(_));
    if signature.inputs.iter().any(|input| input.shape.iter().any(open)) {
        // The profile belongs to the builder, which destroys it; `trtx` would do so once more.
        let profile = listen(|| builder.creata_optimization_profile())?;
        let mut profile = ManuallyDrop::new(profile);
        for input in signature.inputs.iter().filter(|input| input.shape.iter().any(open)) {
            for (select, size) in SELECTORS {
                let dims = input.shape.iter().map(|dim| match dim {
                    Dim::Fixed(fixed) => *fixed,
                    Dim::Named(name) => size(options.range(name)),
                    // No input is without a rank: TensorRT parses none.
                    Dim::Any => 0,
                });
                let dims: Result<Vec<i64>, _> = dims.map(i64::try_from).collect();
                let dims = dims.map_err(|error| format!("a dimension of {input}: {error}"))?;
                let dims = trtx::trtx_sys::Dims64::from_slice(&dims);
                listen(|| profile.set_dimensions(&input.name, select, &dims))?;
            }
        }
        listen(|| config.add_optimization_profile(&mut profile))?;
    }
    Ok(config)
}

/// A point of a profile, and the size that it takes of a range.
type Selector = (OptProfileSelector, fn(DimRange) -> u64);

const SELECTORS: [Selector; 3] = [
    (OptProfileSelector::kMIN, |range| range.min),
    (OptProfileSelector::kOPT, |range| range.typical),
    (OptProfileSelector::kMAX, |range| range.max),
];

/// How TensorRT-RTX calls a compute capability that it can build for alone.
#[cfg(not(feature = "enterprise"))]
fn target(capability: Capability) -> Option<trtx::ComputeCapability> {
    use trtx::ComputeCapability as Target;
    Some(match (capability.major, capability.minor) {
        (8, 0) => Target::kSM80,
        (8, 6) => Target::kSM86,
        (8, 9) => Target::kSM89,
        (12, 0) => Target::kSM120,
        (12, 1) => Target::kSM121,
        _ => return None,
    })
}

/// TensorRT 11.4 builds for the GPU of the machine.
#[cfg(feature = "enterprise")]
fn target(_capability: Capability) -> Option<()> {
    None
}

/// Whether an engine can be built for this compute capability alone.
pub(crate) fn can_target(capability: Capability) -> bool {
    target(capability).is_some()
}
