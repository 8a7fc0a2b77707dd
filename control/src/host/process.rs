//! This process, as the system sees it.

use rustix::process::{Resource, getrlimit};

use super::machine::TICKS_PER_S;

/// What the system tells of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// When it was started, in seconds since 1970.
    pub(crate) started_unix_s: u64,
    /// Its threads.
    pub(crate) threads: u64,
    /// Descriptors that it has open.
    pub(crate) descriptors: usize,
    /// Descriptors that it may have open; `None`: as many as it likes.
    pub(crate) descriptors_max: Option<u64>,
}

/// Asks the system; `None` where `/proc` does not tell.
pub(crate) fn read() -> Option<Process> {
    let own = std::fs::read_to_string("/proc/self/stat").ok()?;
    let all = std::fs::read_to_string("/proc/stat").ok()?;
    let (threads, started_ticks) = threads_and_start(&own)?;
    let booted = all.lines().find_map(|line| line.strip_prefix("btime "))?.trim();
    let booted: u64 = booted.parse().ok()?;
    Some(Process {
        started_unix_s: booted.saturating_add(started_ticks / TICKS_PER_S),
        threads,
        // One of them is the folder's own.
        descriptors: std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1),
        descriptors_max: getrlimit(Resource::Nofile).current,
    })
}

/// Threads, and ticks from the machine's start to its own, of `/proc/self/stat`.
fn threads_and_start(text: &str) -> Option<(u64, u64)> {
    // The name of the process may hold anything; what follows starts after its last bracket.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(17);
    let threads = fields.next()?.parse().ok()?;
    Some((threads, fields.nth(1)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_by_position() {
        let own = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 42 43 0 0 20 0 11 0 99 1000 77 18 0";
        assert_eq!(threads_and_start(own), Some((11, 99)));
        assert_eq!(threads_and_start("7 (a"), None);
    }

    #[test]
    fn this_process_was_started_and_has_descriptors() {
        let own = read().unwrap();
        assert!(own.started_unix_s > 1_600_000_000 && own.threads > 0, "{own:?}");
        assert!(own.descriptors >= 3, "{own:?}");
    }
}
