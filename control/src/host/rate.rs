//! How often something may happen: so many times a second, and some more after a pause.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ferry_core::nanos;

/// Rates that make sense: from one in a quarter of an hour to what no server serves.
const PER_S: std::ops::RangeInclusive<f64> = 0.001..=10_000_000.0;

/// Most at once: more would be no limit.
const BURST_MAX: u64 = 10_000_000;

/// So many a second, and at most so many at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    per_s: f64,
    burst: u64,
}

impl Rate {
    /// `burst` is what one second brings, and at least one, where it is not said.
    ///
    /// # Errors
    /// A text that says which of the two is out of bounds, and the bounds.
    pub fn new(per_s: f64, burst: Option<u64>) -> Result<Rate, String> {
        if !PER_S.contains(&per_s) {
            let (least, most) = (PER_S.start(), PER_S.end());
            return Err(format!("{per_s} requests a second; allowed are {least} to {most}"));
        }
        // Within the bounds above, it is a number that the type holds.
        let of_a_second = Duration::from_secs_f64(per_s.ceil()).as_secs();
        let burst = burst.unwrap_or(of_a_second);
        if !(1..=BURST_MAX).contains(&burst) {
            return Err(format!("burst = {burst}; allowed are 1 to {BURST_MAX}"));
        }
        Ok(Rate { per_s, burst })
    }

    /// From one to the next, where they come evenly.
    fn interval_ns(self) -> u64 {
        nanos(Duration::from_secs_f64(1.0 / self.per_s)).max(1)
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} requests a second, {} at once", self.per_s, self.burst)
    }
}

/// A bucket of tokens, filled at a rate: each request takes one. Kept as the time at which it will be
/// full, so that taking one is one exchange of a number.
#[derive(Debug)]
pub struct Bucket {
    rate: Rate,
    interval_ns: u64,
    /// What it holds, as the time that filling it takes.
    capacity_ns: u64,
    start: Instant,
    /// When it is full again, since the start.
    full_at_ns: AtomicU64,
}

impl Bucket {
    /// A full one.
    pub fn new(rate: Rate) -> Bucket {
        let interval_ns = rate.interval_ns();
        Bucket {
            rate,
            interval_ns,
            capacity_ns: interval_ns.saturating_mul(rate.burst),
            start: Instant::now(),
            full_at_ns: AtomicU64::new(0),
        }
    }

    /// How it is filled.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Whether there is a token at `now`, which stays there.
    ///
    /// # Errors
    /// As [`take`](Bucket::take).
    pub fn look(&self, now: Instant) -> Result<(), Duration> {
        let now_ns = nanos(now.saturating_duration_since(self.start));
        let most = now_ns.saturating_add(self.capacity_ns);
        let then = self.full_at_ns.load(Ordering::Relaxed).max(now_ns);
        match then.saturating_add(self.interval_ns).saturating_sub(most) {
            0 => Ok(()),
            wait_ns => Err(Duration::from_nanos(wait_ns)),
        }
    }

    /// Takes a token at `now`. Called for every request.
    ///
    /// # Errors
    /// How long to wait for the next one, if there is none.
    pub fn take(&self, now: Instant) -> Result<(), Duration> {
        let now_ns = nanos(now.saturating_duration_since(self.start));
        let most = now_ns.saturating_add(self.capacity_ns);
        let one_less = |full_at: u64| {
            let then = full_at.max(now_ns).saturating_add(self.interval_ns);
            (then <= most).then_some(then)
        };
        let taken = self.full_at_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        taken.map(drop).map_err(|full_at| {
            let then = full_at.max(now_ns).saturating_add(self.interval_ns);
            Duration::from_nanos(then.saturating_sub(most))
        })
    }
}

/// One bucket for each name, all of one rate. As many as there are names, which are the operator's
/// to choose.
#[derive(Debug)]
pub struct Buckets {
    rate: Option<Rate>,
    by_name: Mutex<HashMap<String, Arc<Bucket>>>,
}

impl Buckets {
    /// None yet; `None` is no limit, for anybody.
    pub fn new(rate: Option<Rate>) -> Buckets {
        Buckets { rate, by_name: Mutex::default() }
    }

    /// What each is filled at.
    pub fn rate(&self) -> Option<Rate> {
        self.rate
    }

    /// The bucket of `name`.
    pub fn of(&self, name: &str) -> Option<Arc<Bucket>> {
        let rate = self.rate?;
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = by_name.get(name) {
            return Some(Arc::clone(bucket));
        }
        let bucket = Arc::new(Bucket::new(rate));
        by_name.insert(name.to_owned(), Arc::clone(&bucket));
        Some(bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn as_many_as_were_said_pass_and_the_next_is_told_when() {
        let bucket = Bucket::new(Rate::new(100.0, Some(3)).unwrap());
        let start = bucket.start;
        for _ in 0..3 {
            assert_eq!(bucket.take(start), Ok(()));
        }
        assert_eq!(bucket.look(start), Err(10 * MS));
        assert_eq!(bucket.take(start), Err(10 * MS));
        assert_eq!(bucket.look(start + 10 * MS), Ok(()));
        assert_eq!(bucket.take(start + 4 * MS), Err(6 * MS), "refused ones take nothing");
        assert_eq!(bucket.take(start + 10 * MS), Ok(()));
        assert!(bucket.take(start + 10 * MS).is_err());
        // After a pause no more than what it holds.
        let later = start + 10_000 * MS;
        assert_eq!((0..9).filter(|_| bucket.take(later).is_ok()).count(), 3);
        // A clock that is read late takes nothing back.
        assert!(bucket.take(start).is_err());
    }

    #[test]
    fn threads_get_no_more_than_there_is() {
        let bucket = Bucket::new(Rate::new(0.001, Some(1000)).unwrap());
        let take = || (0..1000).filter(|_| bucket.take(bucket.start).is_ok()).count();
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        for (per_s, burst) in [(0.0, None), (-1.0, None), (f64::NAN, None), (1e9, None)] {
            assert!(Rate::new(per_s, burst).unwrap_err().contains("requests a second"), "{per_s}");
        }
        assert!(Rate::new(1.0, Some(0)).unwrap_err().contains("burst = 0"));
        assert_eq!(Rate::new(2.5, None).unwrap().to_string(), "2.5 requests a second, 3 at once");
        assert_eq!(Rate::new(0.1, None).unwrap().burst, 1);
    }

    #[test]
    fn each_name_has_a_bucket_of_its_own() {
        let buckets = Buckets::new(Some(Rate::new(1.0, None).unwrap()));
        let [a, b] = ["a", "b"].map(|name| buckets.of(name).unwrap());
        let now = Instant::now();
        assert_eq!((a.take(now), b.take(now)), (Ok(()), Ok(())));
        assert!(buckets.of("a").unwrap().take(now).is_err());
        assert!(Buckets::new(None).of("a").is_none());
    }
}
