//! Whether a request that has to wait can be answered in time.

use std::time::{Duration, Instant};

/// How fast a queue is emptied at best.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outlook {
    /// What a run takes at least, as far as was measured; zero where nothing was.
    pub(crate) run: Duration,
    /// Runs at a time, of all instances.
    pub(crate) parallel: usize,
    /// Most requests that one run serves.
    pub(crate) of_run_max: usize,
}

/// Why a request cannot be answered in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hopeless {
    /// How many are served before it.
    pub(crate) ahead: usize,
    /// What a run takes.
    pub(crate) run: Duration,
}

impl Outlook {
    /// Why a request with `ahead` others before it is not answered until `deadline`, if that is so
    /// even where all goes well: each run is as short as was measured, and as full as it may be. A
    /// request that may be in the next run is never without hope: what is measured may be wrong.
    pub(crate) fn hopeless(&self, ahead: usize, deadline: Instant) -> Option<Hopeless> {
        let runs = ahead / self.of_run_max.max(1) / self.parallel.max(1);
        if runs == 0 || self.run.is_zero() {
            return None;
        }
        let runs = u32::try_from(runs).unwrap_or(u32::MAX).saturating_add(1);
        let left = deadline.saturating_duration_since(Instant::now());
        (self.run.saturating_mul(runs) > left).then_some(Hopeless { ahead, run: self.run })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn nothing_is_without_hope_where_nothing_waits_or_nothing_was_measured() {
        let now = Instant::now();
        let measured = Outlook { run: 1000 * MS, parallel: 1, of_run_max: 1 };
        assert_eq!(measured.hopeless(0, now), None);
        assert_eq!(Outlook { run: Duration::ZERO, ..measured }.hopeless(1000, now), None);
        assert!(measured.hopeless(1, now).is_some());
    }

    #[test]
    fn runs_at_a_time_and_requests_of_one_run_give_hope() {
        let soon = Instant::now() + 10_000 * MS;
        let outlook = Outlook { run: 1000 * MS, parallel: 1, of_run_max: 1 };
        assert_eq!(outlook.hopeless(8, soon), None);
        assert!(outlook.hopeless(10, soon).is_some());
        let two = Outlook { parallel: 2, ..outlook };
        assert_eq!(two.hopeless(17, soon), None);
        assert!(two.hopeless(20, soon).is_some());
        let batched = Outlook { of_run_max: 32, ..two };
        assert_eq!(batched.hopeless(575, soon), None);
        assert!(batched.hopeless(640, soon).is_some());
        assert!(outlook.hopeless(usize::MAX, soon).is_some());
    }
}
