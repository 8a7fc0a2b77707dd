//! What was looked for on this machine, beside the lanes.

use ferry_core::{Area, Finding, Found};

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
    let gpu = ferry_cuda::survey(&config.cuda_libraries);
    let engines = engines::survey(config, &gpu);
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
