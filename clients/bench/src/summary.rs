//! From timings to percentiles: one way for every transport.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ferry_client::{RecordSink, RequestRecord, Stage, StageTimes, Status};
use hdrhistogram::Histogram;

/// Longest duration that is told apart, in nanoseconds: 10 minutes. Longer ones count as this.
const NS_MAX: u64 = 600_000_000_000;

/// Three digits: 0.1 %. With `NS_MAX` about 250 KiB per histogram, 15 of them per client.
const DIGITS: u8 = 3;

/// What is counted beside the stages.
pub const DERIVED: [&str; 2] = ["network", "unattributed"];

/// A distribution of durations.
#[derive(Clone, Debug)]
pub struct Distribution {
    /// Made with the first value: most stages never happen.
    histogram: Option<Histogram<u64>>,
    count: u64,
    mean: f64,
    /// Sum of squared differences from the mean (Welford).
    squares: f64,
}

impl Distribution {
    /// Without a value.
    pub const fn new() -> Distribution {
        Distribution { histogram: None, count: 0, mean: 0.0, squares: 0.0 }
    }

    /// Counts one duration.
    pub fn add(&mut self, ns: u64) {
        if self.histogram.is_none() {
            self.histogram = Histogram::new_with_bounds(1, NS_MAX, DIGITS).ok();
        }
        if let Some(histogram) = &mut self.histogram {
            histogram.saturating_record(ns);
        }
        self.count += 1;
        let delta = ns as f64 - self.mean;
        self.mean += delta / self.count as f64;
        self.squares += delta * (ns as f64 - self.mean);
    }

    /// Counts what another one did.
    pub fn merge(&mut self, other: &Distribution) {
        let Some(theirs) = &other.histogram else { return };
        match &mut self.histogram {
            None => self.histogram = Some(theirs.clone()),
            // Both have the same bounds, so that nothing can be out of them.
            Some(ours) => drop(ours.add(theirs)),
        }
        let (n, m) = (self.count as f64, other.count as f64);
        let delta = other.mean - self.mean;
        self.mean += delta * m / (n + m);
        self.squares += other.squares + delta * delta * n * m / (n + m);
        self.count += other.count;
    }

    /// How many values it has.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The value below which this share of all lies, in nanoseconds.
    pub fn quantile(&self, share: f64) -> u64 {
        self.histogram.as_ref().map_or(0, |histogram| histogram.value_at_quantile(share))
    }

    /// The largest value, to the histogram's precision, in nanoseconds.
    pub fn max(&self) -> u64 {
        self.histogram.as_ref().map_or(0, Histogram::max)
    }

    /// The mean, in nanoseconds.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// The standard deviation as a share of the mean.
    pub fn variation(&self) -> f64 {
        let deviation = (self.squares / self.count.max(1) as f64).sqrt();
        if self.mean > 0.0 { deviation / self.mean } else { 0.0 }
    }
}

/// The distributions of one run.
#[derive(Clone, Debug)]
pub struct Summary {
    stages: [Distribution; Stage::COUNT],
    derived: [Distribution; DERIVED.len()],
    /// Requests that did not end well.
    pub errors: u64,
    /// Requests of which both ends are known.
    judged: u64,
    /// Those whose stages account for their time.
    accounted: u64,
}

impl Default for Summary {
    fn default() -> Summary {
        Summary::new()
    }
}

impl Default for Distribution {
    fn default() -> Distribution {
        Distribution::new()
    }
}

impl Default for Tally {
    fn default() -> Tally {
        Tally::new()
    }
}

impl Summary {
    /// Without a request.
    pub fn new() -> Summary {
        Summary {
            stages: [const { Distribution::new() }; Stage::COUNT],
            derived: [const { Distribution::new() }; DERIVED.len()],
            errors: 0,
            judged: 0,
            accounted: 0,
        }
    }

    /// Counts one request. The times of one that failed say nothing about the model: only that it
    /// failed counts.
    pub fn add(&mut self, record: &RequestRecord) {
        if record.status != Status::Ok {
            self.errors += 1;
            return;
        }
        self.add_times(&record.times);
    }

    /// Counts the stages of a request that ended well, or those that are known at one end.
    pub(crate) fn add_times(&mut self, times: &StageTimes) {
        for stage in Stage::ALL {
            if let Some(ns) = times.of(stage) {
                self.stages[stage as usize].add(ns);
            }
        }
        if let (Some(total), Some(server)) = (times.of(Stage::Total), times.of(Stage::Server)) {
            self.derived[0].add(total.saturating_sub(server));
        }
        if let Some(accounted) = times.is_accounted() {
            self.judged += 1;
            self.accounted += u64::from(accounted);
        }
        if let Some(ns) = times.unattributed() {
            self.derived[1].add(ns);
        }
    }

    /// Counts what another one did.
    pub fn merge(&mut self, other: &Summary) {
        self.stages.iter_mut().zip(&other.stages).for_each(|(ours, theirs)| ours.merge(theirs));
        self.derived.iter_mut().zip(&other.derived).for_each(|(ours, theirs)| ours.merge(theirs));
        self.errors += other.errors;
        self.judged += other.judged;
        self.accounted += other.accounted;
    }

    /// The distribution of a stage.
    pub fn of(&self, stage: Stage) -> &Distribution {
        &self.stages[stage as usize]
    }

    /// The share of requests whose stages account for their time: see
    /// [`StageTimes::is_accounted`]. `None` where nothing is known of both ends.
    pub fn accounted(&self) -> Option<f64> {
        (self.judged > 0).then(|| self.accounted as f64 / self.judged as f64)
    }

    /// Every distribution that has values, by name, in the order of the walk.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &Distribution)> {
        let stages = Stage::ALL.iter().map(|stage| (stage.name(), self.of(*stage)));
        let derived = DERIVED.into_iter().zip(&self.derived);
        stages.chain(derived).filter(|(_, distribution)| distribution.count() > 0)
    }
}

/// Counts the records of one client.
#[derive(Debug)]
pub struct Tally(Mutex<Summary>);

impl Tally {
    /// Without a record.
    pub fn new() -> Tally {
        Tally(Mutex::new(Summary::new()))
    }

    fn lock(&self) -> MutexGuard<'_, Summary> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request that ended well, by what its client knows of it.
    pub(crate) fn add_times(&self, times: &StageTimes) {
        self.lock().add_times(times);
    }

    /// What was counted so far; counting starts anew.
    pub fn take(&self) -> Summary {
        std::mem::take(&mut self.lock())
    }
}

impl RecordSink for Tally {
    fn record(&self, record: RequestRecord) {
        self.lock().add(&record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_cov_of_known_values() {
        let mut all = Distribution::new();
        let mut half = Distribution::new();
        (1..=50).for_each(|ns| all.add(ns));
        (51..=100).for_each(|ns| half.add(ns));
        all.merge(&half);
        assert_eq!([0.5, 0.9, 0.99].map(|share| all.quantile(share)), [50, 90, 99]);
        assert_eq!((all.max(), all.mean()), (100, 50.5));
        // σ² of 1..=100 is (100² − 1) / 12.
        let cov = all.variation();
        assert!((cov - (9999.0_f64 / 12.0).sqrt() / 50.5).abs() < 1e-12, "{cov}");
        assert_eq!((Distribution::new().count(), Distribution::new().variation()), (0, 0.0));
    }
}
