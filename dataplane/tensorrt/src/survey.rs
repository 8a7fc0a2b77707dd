//! Whether this machine can run engines, without taking anything into use that it cannot.

use ferry_cuda::Listed;

use crate::options::{Capability, OTHERWISE};
use crate::search::{Probe, Search, probe};

/// Why no engine can run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// What was found.
    pub why: String,
    /// What to do.
    pub fix: String,
}

/// Looks for a GPU that TensorRT runs on, and only where there is one for TensorRT: what opens,
/// where it lies and on which GPUs it runs.
///
/// # Errors
/// [`Unusable`] says what is missing and what to do.
pub fn survey(search: &Search) -> Result<String, Unusable> {
    let listed = ferry_cuda::list().map_err(|missing| Unusable {
        why: missing.why,
        fix: "install NVIDIA's driver, 580 or newer, or use engine = \"onnx\"".to_owned(),
    })?;
    let (mut gpus, mut others) = (Vec::new(), Vec::new());
    for listed in listed {
        match listed {
            Ok(Listed { ordinal, name, attributes, .. }) => {
                let capability = Capability::from(attributes.capability);
                match capability.is_supported() {
                    true => gpus.push(format!("cuda:{ordinal} ({capability})")),
                    false => others.push(format!("{name} has {}", capability.unsupported())),
                }
            }
            Err(error) => others.push(error.to_string()),
        }
    }
    if gpus.is_empty() {
        return Err(Unusable { why: others.join("; "), fix: OTHERWISE.to_owned() });
    }
    match probe(search) {
        Probe::Found { path, version } => {
            Ok(format!("TensorRT {version} in {}, on {}", path.display(), gpus.join(", ")))
        }
        Probe::Missing { why, fix } => Err(Unusable { why, fix }),
    }
}
