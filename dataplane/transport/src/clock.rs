//! Durations between two readings of the monotonic clock, and the wall clock once per session.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ferry_core::nanos;
pub(crate) use ferry_memory::between_ns;

/// Tells the wall clock of an instant from one reading of both clocks, so that a request costs no
/// second reading and a step of the wall clock does not tear a session's records apart.
#[derive(Clone, Copy, Debug)]
pub struct UnixClock {
    at: Instant,
    unix_ns: u64,
}

impl UnixClock {
    /// At `at` the wall clock showed `unix_ns` nanoseconds since 1970.
    pub fn new(at: Instant, unix_ns: u64) -> UnixClock {
        UnixClock { at, unix_ns }
    }

    /// Reads both clocks now. A wall clock before 1970 counts as 1970.
    pub fn read() -> UnixClock {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ns = nanos(unix);
        UnixClock { at: Instant::now(), unix_ns }
    }

    /// Nanoseconds since 1970 at `at`.
    pub fn unix_ns(&self, at: Instant) -> u64 {
        let later = self.unix_ns.saturating_add(between_ns(self.at, at));
        later.saturating_sub(between_ns(at, self.at))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn instants_before_and_after_the_reading_are_told() {
        let at = Instant::now() + Duration::from_secs(10);
        let clock = UnixClock::new(at, 5_000_000_000);
        assert_eq!(clock.unix_ns(at), 5_000_000_000);
        assert_eq!(clock.unix_ns(at + Duration::from_nanos(7)), 5_000_000_007);
        assert_eq!(clock.unix_ns(at - Duration::from_secs(1)), 4_000_000_000);
    }
}
