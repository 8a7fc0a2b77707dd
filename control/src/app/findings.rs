//! What was looked for on this machine, beside the lanes.

use ferry_core::{Area, Finding, Found};
use ferry_cuda::libraries::FAMILIES;
use ferry_onnx::Probe;

use super::engines;
use crate::config::Config;
use crate::host::limits;

/// What came of a look: what is there, or what is not and what to do.
fn found(name: &str, outcome: Result<String, (String, &str)>) -> Found {
    match outcome {
        Ok(detail) => Found::good(name, detail),
        Err((why, fix)) => Found::bad(name, why, fix),
    }
}

/// Everything but the lanes.
pub(super) fn all(config: &Config) -> Vec<Finding> {
    let runtime = engines::probe(config);
    let gpu = ferry_cuda::survey(&config.cuda_libraries);
    let tract = if cfg!(feature = "tract") {
        Found::good("tract", "part of this build")
    } else {
        Found::bad("tract", "this build has none", "build ferryd with its feature `tract`")
    };
    let engines = vec![
        onnxruntime(&runtime),
        onnx_cuda(&runtime, &gpu),
        engines::tensorrt::survey(config),
        tract,
        Found::good("echo", "part of this build"),
    ];
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let limits = vec![
        memfd(),
        eventfd(),
        futex(),
        found("descriptors", limits::descriptors(config.sessions_max())),
        Found::good("cores", format!("{cores} that this process may use")),
    ];
    let rdma = ferry_rdma::survey(&config.rdma);
    let all =
        [(Area::Engine, engines), (Area::Gpu, gpu), (Area::Rdma, rdma), (Area::Limit, limits)];
    let of = |(area, found): (Area, Vec<Found>)| {
        found.into_iter().map(move |found| Finding { area, found })
    };
    all.into_iter().flat_map(of).collect()
}

fn onnxruntime(runtime: &Probe) -> Found {
    match runtime {
        Probe::Found { path, version } => {
            found("onnx", Ok(format!("ONNX Runtime {version} in {}", path.display())))
        }
        Probe::Missing { why, fix } => found("onnx", Err((why.clone(), fix))),
    }
}

/// Whether ONNX models can run on a GPU: the driver, ONNX Runtime, its provider and what that
/// needs, in this order, since each is of no use without those before it.
fn onnx_cuda(runtime: &Probe, gpu: &[Found]) -> Found {
    const PROVIDER: &str = "libonnxruntime_providers_cuda.so";
    let name = "onnx-cuda";
    let refused = |why: String, fix: &str| found(name, Err((why, fix)));
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
    found(name, Ok(format!("ONNX Runtime {version} on {}", devices.join(", "))))
}

fn memfd() -> Found {
    let outcome = match rustix::fs::memfd_create("ferry-probe", rustix::fs::MemfdFlags::CLOEXEC) {
        Ok(_) => Ok("anonymous shared memory can be made".into()),
        Err(error) => Err((error.to_string(), "shm needs a system that allows memfd_create")),
    };
    found("memfd", outcome)
}

fn eventfd() -> Found {
    let outcome = match rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC) {
        Ok(_) => Ok("threads can be woken by a descriptor".into()),
        Err(error) => Err((error.to_string(), "raise the limit of descriptors (ulimit -n)")),
    };
    found("eventfd", outcome)
}

fn futex() -> Found {
    let word = std::sync::atomic::AtomicU32::new(0);
    let woken = rustix::thread::futex::wake(&word, rustix::thread::futex::Flags::empty(), 1);
    let outcome = match woken {
        Ok(_) => Ok("threads of two processes can wait for one word".into()),
        Err(error) => Err((error.to_string(), "clients of shm have to use the wait policy spin")),
    };
    found("futex", outcome)
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
            let finding = onnx_cuda(runtime, &gpu(lacks));
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
        assert!(!onnx_cuda(&runtime, &gpu(&["cuda:0", "cuda:1"])).usable);
    }
}
