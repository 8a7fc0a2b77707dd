//! Whether this machine can run engines, without taking anything into use that it cannot.

use ferry_core::Found;
use ferry_cuda::Listed;
use ferry_engine::library::{Probe, Search};

use crate::options::{Capability, OTHERWISE};
use crate::search::probe;

/// Looks for a GPU that TensorRT runs on, and only where there is one for TensorRT: what opens,
/// where it lies and on which GPUs it runs.
pub fn survey(search: &Search) -> Found {
    let name = "tensorrt";
    let listed = match ferry_cuda::list() {
        Ok(listed) => listed,
        Err(missing) => {
            let fix = "install NVIDIA's driver, 580 or newer, or use engine = \"onnx\"";
            return Found::bad(name, missing.why, fix);
        }
    };
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
        return Found::bad(name, others.join("; "), OTHERWISE);
    }
    match probe(search) {
        Probe::Found { path, version } => {
            let (path, gpus) = (path.display(), gpus.join(", "));
            Found::good(name, format!("TensorRT {version} in {path}, on {gpus}"))
        }
        Probe::Missing { why, fix } => Found::bad(name, why, fix),
    }
}
