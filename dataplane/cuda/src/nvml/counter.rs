//! Counters that go round.

use std::time::{Duration, Instant};

/// What a device says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Raw {
    /// 32 bits: it starts again from 0 when it is full.
    Narrow(u32),
    /// 64 bits.
    Wide(u64),
}

/// Counts on from the first reading.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counter {
    last: Option<(Raw, Instant)>,
    total: u64,
    /// Since `total` was asked for, more may have been counted than is known.
    gap: bool,
}

impl Counter {
    /// Takes a reading; `None` if the device did not answer. `round` is the shortest time in which
    /// a narrow counter can go all the way round.
    pub(super) fn add(&mut self, raw: Option<Raw>, now: Instant, round: Duration) {
        let Some(raw) = raw else { return };
        if let Some((last, at)) = self.last {
            let counted = match (last, raw) {
                (Raw::Narrow(last), Raw::Narrow(now)) => Some(u64::from(now.wrapping_sub(last))),
                (Raw::Wide(last), Raw::Wide(now)) => now.checked_sub(last),
                _ => None,
            };
            let late = self.is_narrow() && now.saturating_duration_since(at) >= round;
            // A wide counter that fell was reset.
            self.gap |= late || counted.is_none();
            self.total = self.total.saturating_add(counted.unwrap_or(0));
        }
        self.last = Some((raw, now));
    }

    /// All that was counted; `None` if nothing ever was, or if the counter may have gone round
    /// unseen since this was last asked.
    pub(super) fn total(&mut self) -> Option<u64> {
        let gap = std::mem::take(&mut self.gap);
        (self.last.is_some() && !gap).then_some(self.total)
    }

    pub(super) fn is_narrow(&self) -> bool {
        matches!(self.last, Some((Raw::Narrow(_), _)))
    }
}

/// How long 2^32 bytes take one way over a link of a generation and a width at the least.
pub(super) fn period(link: Option<(u32, u32)>) -> Duration {
    /// Billions of transfers a second of one lane, by generation from 1. A transfer is a bit.
    const LANE_GBIT: [f64; 6] = [2.5, 5.0, 8.0, 16.0, 32.0, 64.0];
    const FASTEST: (f64, u32) = (64.0, 16);
    let known = |(generation, width): (u32, u32)| {
        let place = usize::try_from(generation).ok()?.checked_sub(1)?;
        Some((*LANE_GBIT.get(place)?, (1..=32).contains(&width).then_some(width)?))
    };
    let (lane_gbit, width) = link.and_then(known).unwrap_or(FASTEST);
    let bytes_per_s = lane_gbit * 1e9 / 8.0 * f64::from(width);
    Duration::from_secs_f64((1_u64 << 32) as f64 / bytes_per_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND: Duration = Duration::from_millis(67);

    #[test]
    fn a_narrow_counter_that_is_read_in_time_is_exact_over_any_number_of_rounds() {
        let start = Instant::now();
        let mut counter = Counter::default();
        assert_eq!(counter.total(), None, "never read");
        let step = 3_000_000_000_u64;
        for n in 0..10_u32 {
            let raw = u32::try_from((77 + u64::from(n) * step) % (1 << 32)).unwrap();
            counter.add(Some(Raw::Narrow(raw)), start + n * Duration::from_millis(60), ROUND);
            assert_eq!(counter.total(), Some(u64::from(n) * step));
        }
    }

    #[test]
    fn a_reading_that_comes_too_late_makes_one_sample_unknown() {
        let start = Instant::now();
        let mut counter = Counter::default();
        for (at_ms, raw) in [(0, 0), (60, 5), (127, 9), (187, 12)] {
            counter.add(Some(Raw::Narrow(raw)), start + Duration::from_millis(at_ms), ROUND);
        }
        assert_eq!(counter.total(), None, "67 ms passed between two readings");
        assert_eq!(counter.total(), Some(12));
        counter.add(None, start + Duration::from_millis(200), ROUND);
        assert_eq!(counter.total(), Some(12), "no answer is no reading");
        counter.add(Some(Raw::Narrow(13)), start + Duration::from_millis(255), ROUND);
        assert_eq!(counter.total(), None, "and the next one is late");
    }

    #[test]
    fn a_wide_counter_waits_for_any_time_and_a_reset_is_seen() {
        let start = Instant::now();
        let mut counter = Counter::default();
        counter.add(Some(Raw::Wide(1 << 40)), start, ROUND);
        counter.add(Some(Raw::Wide((1 << 40) + (1 << 36))), start + 100 * ROUND, ROUND);
        assert!(!counter.is_narrow());
        assert_eq!(counter.total(), Some(1 << 36));
        counter.add(Some(Raw::Wide(10)), start + 101 * ROUND, ROUND);
        assert_eq!(counter.total(), None);
        counter.add(Some(Raw::Wide(30)), start + 102 * ROUND, ROUND);
        assert_eq!(counter.total(), Some((1 << 36) + 20));
    }

    #[test]
    fn the_round_is_that_of_the_link_and_of_the_fastest_where_it_is_not_known() {
        let ms = |link| period(link).as_millis();
        assert_eq!(ms(Some((5, 16))), 67);
        assert_eq!(ms(Some((3, 8))), 536);
        assert_eq!(ms(None), 33);
        assert_eq!((ms(Some((0, 16))), ms(Some((9, 16))), ms(Some((5, 0)))), (33, 33, 33));
    }
}
