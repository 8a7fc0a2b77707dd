//! `config.pbtxt`, and the same message as JSON: the configuration of a model as other servers of
//! the Open Inference Protocol have it.
//!
//! What has a counterpart here becomes [`Metadata`]. What has none and would change answers fails
//! the model; the rest is named, in the log and beside the model.

mod map;
mod message;
mod tensors;

use std::path::Path;

use ferry_engine::{FileBytes, FileDigest};
use ferry_proto::oip::ModelConfig;
use ferry_proto::oip::model_version_policy::PolicyChoice;

use super::VersionPolicy;
use super::folder::Layout;

pub(super) use map::{Place, metadata};
pub(super) use message::{from_json, from_text};
pub use tensors::Declared;

/// How the file is called.
pub(super) const FILE: &str = "config.pbtxt";

/// Longest file that is read, in bytes: far more than anybody writes.
pub(super) const BYTES_MAX: u64 = 1 << 20;

/// Why a plan of TensorRT is not served.
pub(super) const NO_PLANS: &str = "an engine that was built elsewhere fits one GPU and one version \
    of its library: put the ONNX file there, of which engine = \"tensorrt\" (in a config.pbtxt \
    backend: \"tensorrt\") builds one";

/// Whether a file is one.
pub(super) fn is_one(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == FILE)
}

/// Reads a file, and what it was read from.
///
/// # Errors
/// A text that names the file and what is wrong in it.
pub(super) fn read(path: &Path) -> Result<(ModelConfig, FileDigest), String> {
    let FileBytes { bytes, digest, .. } =
        FileBytes::read(path, BYTES_MAX).map_err(|error| ferry_core::error_text(&error))?;
    let wrong = |why: String| format!("{}: {why}", path.display());
    let text =
        String::from_utf8(bytes).map_err(|error| wrong(format!("{error}: write it as UTF-8")))?;
    Ok((from_text(&text).map_err(wrong)?, digest))
}

/// Which files its versions have, and which of them serve. A message that does not say has the
/// default of the protocol: the latest.
///
/// # Errors
/// A text that says what has no meaning.
pub(super) fn layout(config: &ModelConfig) -> Result<Layout, String> {
    let file = match config.default_model_filename.as_str() {
        "" if config.platform == "tensorrt_plan" => "model.plan",
        "" => Layout::FILE,
        name => name,
    };
    if Path::new(file).file_name() != Some(file.as_ref()) || file.contains('\0') {
        return Err(format!(
            "default_model_filename is {file:?}: name a file in the folder of a version"
        ));
    }
    if !file.ends_with(".onnx") {
        return Err(format!(
            "the file of a version is {file:?}, and only ONNX files are served: {NO_PLANS}, and set \
             default_model_filename to its name"
        ));
    }
    Ok(Layout { file: file.to_owned(), versions: Some(policy(config)?) })
}

fn policy(config: &ModelConfig) -> Result<VersionPolicy, String> {
    let choice = config.version_policy.as_ref().and_then(|it| it.policy_choice.as_ref());
    Ok(match choice {
        None => VersionPolicy::Latest(1),
        Some(PolicyChoice::Latest(latest)) => VersionPolicy::Latest(latest.num_versions.max(1)),
        Some(PolicyChoice::All(_)) => VersionPolicy::All,
        Some(PolicyChoice::Specific(these)) => {
            let version = |it: &i64| u64::try_from(*it).ok().filter(|it| *it > 0);
            let versions: Option<_> = these.versions.iter().map(version).collect();
            VersionPolicy::Specific(versions.ok_or_else(|| {
                format!("version_policy: {:?}; versions are numbers from 1", these.versions)
            })?)
        }
    })
}

#[cfg(test)]
mod tests;
