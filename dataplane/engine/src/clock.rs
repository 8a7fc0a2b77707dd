//! One clock reading at each border between two stages.

use std::time::Instant;

use ferry_core::{Stage, StageTimes};

/// Times stages that follow each other: where one stops, the next one starts, so that nothing
/// falls between them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StageClock {
    /// The last border; `None` while nothing is timed, which saves a reading where no stage of
    /// the pool's happens.
    border: Option<Instant>,
    times: StageTimes,
}

impl StageClock {
    /// Nothing is timed yet.
    pub(crate) const STOPPED: StageClock = StageClock { border: None, times: StageTimes::NONE };

    /// A stage began at `start` and ends now; the next one starts with it.
    pub(crate) fn since(start: Instant, stage: Stage) -> StageClock {
        let mut clock = StageClock { border: Some(start), times: StageTimes::NONE };
        clock.end(stage);
        clock
    }

    /// Starts timing now, unless a stage that just ended did so already.
    pub(crate) fn start(&mut self) {
        if self.border.is_none() {
            self.border = Some(Instant::now());
        }
    }

    /// Ends `stage`, which began at the last border.
    pub(crate) fn end(&mut self, stage: Stage) {
        let now = Instant::now();
        if let Some(border) = self.border.replace(now) {
            let elapsed = now.saturating_duration_since(border);
            self.times.set(stage, u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// What was timed.
    pub(crate) fn times(&self) -> StageTimes {
        self.times
    }
}

/// The stages that an engine may time and that keep it busy.
const OF_ENGINE: [Stage; 5] =
    [Stage::CopyIn, Stage::Preprocess, Stage::Infer, Stage::Postprocess, Stage::CopyOut];

/// Adds what an engine timed. A stage that both timed (`preprocess`, and `queue` where requests
/// wait for a stream too) is the sum of both; stages that are not an engine's are ignored.
pub(crate) fn merge(times: &mut StageTimes, of_engine: &StageTimes) {
    for stage in [Stage::Queue].into_iter().chain(OF_ENGINE) {
        if let Some(ns) = of_engine.of(stage) {
            times.set(stage, times.of(stage).unwrap_or(0).saturating_add(ns));
        }
    }
    times.set_staged(of_engine.staged());
}

/// How long a request kept an instance busy, in nanoseconds: its stages without the waiting.
pub(crate) fn busy_ns(times: &StageTimes) -> u64 {
    let parts = [Stage::Decode].into_iter().chain(OF_ENGINE);
    parts.filter_map(|stage| times.of(stage)).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn stages_that_follow_leave_no_gap() {
        let start = Instant::now();
        let mut clock = StageClock::since(start, Stage::Queue);
        std::thread::sleep(Duration::from_millis(2));
        clock.start();
        clock.end(Stage::Decode);
        clock.end(Stage::Preprocess);
        let whole = clock.border.unwrap().duration_since(start);
        let times = clock.times();
        let sum: u64 = [Stage::Queue, Stage::Decode, Stage::Preprocess]
            .into_iter()
            .map(|stage| times.of(stage).unwrap())
            .sum();
        assert_eq!(u128::from(sum), whole.as_nanos());
        assert_eq!(times.of(Stage::Infer), None);
    }

    #[test]
    fn a_stage_without_a_start_did_not_happen() {
        let mut clock = StageClock::STOPPED;
        clock.end(Stage::Decode);
        assert_eq!(clock.times(), StageTimes::NONE);
    }

    #[test]
    fn an_engine_adds_its_own_stages_only() {
        let mut times = StageTimes::NONE;
        times.set(Stage::Queue, 1);
        times.set(Stage::Preprocess, 10);
        let mut engine = StageTimes::NONE;
        engine.set(Stage::Queue, 2);
        engine.set(Stage::Server, 100);
        engine.set(Stage::Preprocess, 5);
        engine.set(Stage::Infer, 7);
        merge(&mut times, &engine);
        assert_eq!(times.of(Stage::Queue), Some(3));
        assert_eq!(times.of(Stage::Server), None);
        assert_eq!(times.of(Stage::Preprocess), Some(15));
        assert_eq!(busy_ns(&times), 22);
    }
}
