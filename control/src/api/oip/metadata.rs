//! What server and models are. None of it waits for an inference.

use ferry_core::{Dim, TensorSpec};
use ferry_proto::oip::model_metadata_response::TensorMetadata;
use ferry_proto::oip::{ModelMetadataResponse, ServerMetadataResponse};

use super::offer::{Offer, version};
use crate::error::ApiError;
use crate::host::machine::VERSION;
use crate::models::Listed;
use crate::state::State;

/// The extensions of the protocol that are served.
const EXTENSIONS: [&str; 10] = [
    "classification",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "system_shared_memory",
    "cuda_shared_memory",
    "parameters",
    "statistics",
    "logging",
];

pub(super) fn server() -> ServerMetadataResponse {
    ServerMetadataResponse {
        name: "tensorferry".to_owned(),
        version: VERSION.to_owned(),
        extensions: EXTENSIONS.map(str::to_owned).to_vec(),
    }
}

/// Whether a model serves.
///
/// # Errors
/// [`ApiError::Field`] for a version without a meaning.
pub(super) fn is_ready(state: &State, name: &str, version: &str) -> Result<bool, ApiError> {
    let all = state.models.versions(name, self::version(version)?);
    Ok(all.iter().any(serves))
}

fn serves(listed: &Listed) -> bool {
    // One that made room serves, too.
    listed.state.profile().is_some()
}

/// What a model takes and gives.
///
/// # Errors
/// As [`Offer::find`].
pub(super) fn model(
    state: &State,
    name: &str,
    version: &str,
) -> Result<ModelMetadataResponse, ApiError> {
    let offer = Offer::find(state, name, version)?;
    let versions = state.models.versions(name, 0);
    let versions = versions.iter().filter(|it| serves(it)).map(|it| it.version.to_string());
    let signature = offer.signature();
    Ok(ModelMetadataResponse {
        name: offer.profile.name.clone(),
        versions: versions.collect(),
        platform: platform(offer.profile.engine).to_owned(),
        inputs: signature.inputs.iter().map(tensor).collect(),
        outputs: signature.outputs.iter().map(tensor).collect(),
    })
}

/// An engine as the protocol calls it.
pub(super) fn platform(engine: &str) -> &str {
    match engine {
        "onnx" => "onnxruntime_onnx",
        other => other,
    }
}

fn tensor(spec: &TensorSpec) -> TensorMetadata {
    let (name, datatype) = (spec.name.clone(), spec.dtype.name().to_owned());
    TensorMetadata { name, datatype, shape: dims(&spec.shape) }
}

/// Sizes; -1 is chosen by each request. A tensor without a declared shape has one such dimension,
/// since the protocol cannot say that their number is open.
pub(super) fn dims(shape: &[Dim]) -> Vec<i64> {
    let dim = |dim: &Dim| match dim {
        Dim::Fixed(size) => i64::try_from(*size).unwrap_or(i64::MAX),
        Dim::Named(_) | Dim::Any => -1,
    };
    shape.iter().map(dim).collect()
}
