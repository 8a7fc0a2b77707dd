//! What was looked for on this machine, beside the lanes.

use ferry_onnx::Probe;
use ferry_proto::v1;

use super::engines;
use crate::config::Config;
use crate::limits;

fn finding(area: &str, name: &str, outcome: Result<String, (String, &str)>) -> v1::Finding {
    let (usable, detail, fix) = match outcome {
        Ok(detail) => (true, detail, ""),
        Err((why, fix)) => (false, why, fix),
    };
    let (area, name, fix) = (area.to_owned(), name.to_owned(), fix.to_owned());
    v1::Finding { area, name, usable, detail, fix }
}

/// Everything but the lanes.
pub(super) fn all(config: &Config) -> Vec<v1::Finding> {
    let mut all = vec![onnxruntime(config), tensorrt(config)];
    all.push(finding("engine", "tract", Ok("part of this build".into())));
    all.push(finding("engine", "echo", Ok("part of this build".into())));
    all.push(finding("transport", "grpc", Ok("the control plane itself".into())));
    for name in ["gdr", "cuda-ipc"] {
        let why = "not in this build".to_owned();
        all.push(finding("transport", name, Err((why, "use shm on one host, tcp otherwise"))));
    }
    all.push(finding("device", "gpu", Err(("not in this build".into(), "models run on the CPU"))));
    all.extend(ferry_rdma::survey(&config.rdma).into_iter().map(|found| v1::Finding {
        area: "rdma".into(),
        name: found.name,
        usable: found.usable,
        detail: found.detail,
        fix: found.fix,
    }));
    all.push(memfd());
    all.push(eventfd());
    all.push(futex());
    all.push(finding("limit", "descriptors", limits::descriptors(config.sessions_max())));
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    all.push(finding("limit", "cores", Ok(format!("{cores} that this process may use"))));
    all
}

fn onnxruntime(config: &Config) -> v1::Finding {
    match engines::probe(config) {
        Probe::Found { path, version } => {
            finding("engine", "onnx", Ok(format!("ONNX Runtime {version} in {}", path.display())))
        }
        Probe::Missing { why, fix } => finding("engine", "onnx", Err((why, &fix))),
    }
}

fn tensorrt(config: &Config) -> v1::Finding {
    match engines::tensorrt::survey(config) {
        Ok(found) => finding("engine", "tensorrt", Ok(found)),
        Err(unusable) => finding("engine", "tensorrt", Err((unusable.why, &unusable.fix))),
    }
}

fn memfd() -> v1::Finding {
    let outcome = match rustix::fs::memfd_create("ferry-probe", rustix::fs::MemfdFlags::CLOEXEC) {
        Ok(_) => Ok("anonymous shared memory can be made".into()),
        Err(error) => Err((error.to_string(), "shm needs a system that allows memfd_create")),
    };
    finding("limit", "memfd", outcome)
}

fn eventfd() -> v1::Finding {
    let outcome = match rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC) {
        Ok(_) => Ok("threads can be woken by a descriptor".into()),
        Err(error) => Err((error.to_string(), "raise the limit of descriptors (ulimit -n)")),
    };
    finding("limit", "eventfd", outcome)
}

fn futex() -> v1::Finding {
    let word = std::sync::atomic::AtomicU32::new(0);
    let woken = rustix::thread::futex::wake(&word, rustix::thread::futex::Flags::empty(), 1);
    let outcome = match woken {
        Ok(_) => Ok("threads of two processes can wait for one word".into()),
        Err(error) => Err((error.to_string(), "clients of shm have to use the wait policy spin")),
    };
    finding("limit", "futex", outcome)
}
