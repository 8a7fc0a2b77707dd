//! What was looked for on this machine, what was found, and what to do about the rest.

use ferry_core::Transport;
use ferry_onnx::Probe;
use ferry_proto::v1::Finding;

use crate::lanes::Lanes;

/// Soft limit of open files below which many sessions do not fit: each takes up to three.
const FILES_MIN: u64 = 4096;

fn finding(area: &str, name: &str, found: Result<String, (String, String)>) -> Finding {
    let usable = found.is_ok();
    let (detail, fix) =
        found.map_or_else(|(why, fix)| (why, fix), |detail| (detail, String::new()));
    Finding { area: area.into(), name: name.into(), usable, detail, fix }
}

/// Everything that can be told once the lanes run. `failed` are the lanes that do not, and why.
pub fn look(lanes: &Lanes, failed: &[(Transport, String)], onnx: &Probe) -> Vec<Finding> {
    let mut all: Vec<Finding> =
        Transport::ALL.into_iter().map(|it| transport(it, lanes, failed)).collect();
    all.push(match onnx {
        Probe::Found { path, version } => {
            finding("engine", "onnx", Ok(format!("ONNX Runtime {version}, {}", path.display())))
        }
        Probe::Missing { why, fix } => finding("engine", "onnx", Err((why.clone(), fix.clone()))),
    });
    all.push(finding("engine", "tract", Ok("built in".into())));
    all.push(finding("engine", "echo", Ok("built in".into())));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    all.push(finding("device", "cpu", Ok(format!("{cores} cores"))));
    all.push(missing_device("cuda", "this build has no CUDA: tensors stay in host memory"));
    all.push(missing_device("verbs", "this build has no RDMA: tensors go by shm, tcp or zmq"));
    all.push(limit("memlock", rustix::process::Resource::Memlock, 0));
    all.push(limit("open files", rustix::process::Resource::Nofile, FILES_MIN));
    all
}

fn missing_device(name: &str, detail: &str) -> Finding {
    finding("device", name, Err((detail.into(), "nothing to do in this version".into())))
}

fn transport(transport: Transport, lanes: &Lanes, failed: &[(Transport, String)]) -> Finding {
    let name = transport.name();
    if transport == Transport::Grpc {
        return finding("transport", name, Ok("inline in the control plane's calls".into()));
    }
    if let Some(lane) = lanes.of(transport).next() {
        let count = lanes.of(transport).count();
        let detail = format!("{count} lanes, {:?}", lane.endpoint);
        return finding("transport", name, Ok(detail));
    }
    let broken = failed.iter().find(|(it, _)| *it == transport).map(|(_, why)| why.clone());
    let (why, fix) = match (broken, transport) {
        (Some(why), _) => (why, "see the detail; restart ferryd when it is mended".into()),
        (None, Transport::Rdma | Transport::Gdr | Transport::CudaIpc) => {
            ("not in this build".into(), "use shm on one host, tcp between hosts".to_owned())
        }
        (None, _) => ("turned off".into(), format!("start ferryd with --{name}-lanes 1 or more")),
    };
    finding("transport", name, Err((why, fix)))
}

fn limit(name: &str, resource: rustix::process::Resource, least: u64) -> Finding {
    let limit = rustix::process::getrlimit(resource);
    let text = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |n| n.to_string());
    let detail = format!("soft {}, hard {}", text(limit.current), text(limit.maximum));
    if limit.current.is_some_and(|current| current < least) {
        let fix =
            format!("ulimit -n {least} before ferryd is started, or LimitNOFILE= in its unit");
        return finding("limit", name, Err((detail, fix)));
    }
    finding("limit", name, Ok(detail))
}
