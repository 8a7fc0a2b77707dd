//! The machine that a run ran on, and what it had used at an instant.

use crate::host::clock::unix_ns;
use crate::store::{Machine, ResourceSample};

/// The commit that this binary was built from; `unknown` outside a checkout.
pub const COMMIT: &str = env!("FERRY_COMMIT");

/// Version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Clock ticks per second of `/proc`: the kernel's interface is fixed at 100 on every platform
/// that Rust's Linux targets know.
pub(super) const TICKS_PER_S: u64 = 100;

/// Describes this machine. What the system does not tell is empty.
pub fn describe() -> Machine {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim().to_owned())
    });
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let system = rustix::system::uname();
    let kernel =
        format!("{} {}", system.sysname().to_string_lossy(), system.release().to_string_lossy());
    Machine {
        cpu_model: model.unwrap_or_default(),
        cpu_cores: u32::try_from(cores).unwrap_or(u32::MAX),
        kernel,
    }
}

/// What process and machine have used until now; `None` where `/proc` does not tell.
pub fn sample() -> Option<ResourceSample> {
    let own = std::fs::read_to_string("/proc/self/stat").ok()?;
    let all = std::fs::read_to_string("/proc/stat").ok()?;
    let (user, system, rss_pages) = parse_own(&own)?;
    let (machine_user, machine_system) = parse_all(&all)?;
    Some(ResourceSample {
        run: 0,
        unix_ns: unix_ns(),
        process_user_ns: ticks_ns(user),
        process_system_ns: ticks_ns(system),
        machine_user_ns: ticks_ns(machine_user),
        machine_system_ns: ticks_ns(machine_system),
        rss_bytes: rss_pages.saturating_mul(rustix::param::page_size() as u64),
        ..ResourceSample::default()
    })
}

fn ticks_ns(ticks: u64) -> u64 {
    ticks.saturating_mul(1_000_000_000 / TICKS_PER_S)
}

/// User ticks, system ticks and resident pages of `/proc/self/stat`.
fn parse_own(text: &str) -> Option<(u64, u64, u64)> {
    // The name of the process may hold anything; what follows starts after its last bracket.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user = fields.next()?.parse().ok()?;
    let system = fields.next()?.parse().ok()?;
    let rss = fields.nth(8)?.parse().ok()?;
    Some((user, system, rss))
}

/// User (with nice) and system ticks of all cores of `/proc/stat`.
fn parse_all(text: &str) -> Option<(u64, u64)> {
    let mut fields = text.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
    let mut next = || fields.next()?.parse::<u64>().ok();
    let (user, nice, system) = (next()?, next()?, next()?);
    Some((user.saturating_add(nice), system))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_are_read_by_position() {
        let own = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 42 43 0 0 20 0 1 0 99 1000 77 18 0";
        assert_eq!(parse_own(own), Some((42, 43, 77)));
        assert_eq!(parse_all("cpu  5 6 7 8\ncpu0 1 1 1 1"), Some((11, 7)));
        assert_eq!(parse_own("7 (a"), None);
        assert_eq!(parse_all("intr 5"), None);
    }

    #[test]
    fn this_process_has_used_something() {
        let sample = sample().unwrap();
        assert!(sample.rss_bytes > 1 << 20, "{sample:?}");
        assert!(sample.machine_user_ns > 0, "{sample:?}");
        assert!(describe().cpu_cores > 0);
    }
}
