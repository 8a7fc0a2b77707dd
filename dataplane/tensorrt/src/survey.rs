//! Whether this machine can run engines, without taking anything into use that it cannot.

use ferry_cuda::{Device, Driver};

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
    let driver = ferry_cuda::probe().map_err(|missing| Unusable {
        why: missing.why,
        fix: "install NVIDIA's driver, 580 or newer, or use engine = \"onnx\"".to_owned(),
    })?;
    let gpus = gpus(driver)?;
    match probe(search) {
        Probe::Found { path, version } => {
            Ok(format!("TensorRT {version} in {}, on {gpus}", path.display()))
        }
        Probe::Missing { why, fix } => Err(Unusable { why, fix }),
    }
}

/// Those that it runs on.
fn gpus(driver: &Driver) -> Result<String, Unusable> {
    let (mut usable, mut others) = (Vec::new(), Vec::new());
    for ordinal in 0..driver.devices() {
        match Device::describe(ordinal) {
            Ok((name, attributes)) => {
                let capability = Capability::from(attributes.capability);
                match capability.is_supported() {
                    true => usable.push(format!("cuda:{ordinal} ({capability})")),
                    false => others.push(format!("{name} has {}", capability.unsupported())),
                }
            }
            Err(error) => others.push(error.to_string()),
        }
    }
    if usable.is_empty() {
        return Err(Unusable { why: others.join("; "), fix: OTHERWISE.to_owned() });
    }
    Ok(usable.join(", "))
}
