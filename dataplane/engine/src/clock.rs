//! One clock reading at each border between two stages.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use ferry_core::{Stage, StageTimes, nanos};

/// Times stages that follow each other: where one stops, the next one starts, so that nothing
/// falls between them.
#[derive(Clone, Copy, Debug)]
pub struct StageClock {
    /// The last border.
    border: Instant,
    times: StageTimes,
}

impl StageClock {
    /// A request that was visible at `visible` is taken now, which ends its `queue`. `rung` is when
    /// the thread that takes it was told, if it slept: from then on it was `wake`.
    pub(crate) fn taken(visible: Instant, rung: Option<Instant>) -> StageClock {
        StageClock::taken_at(visible, rung, None, Instant::now())
    }

    /// As [`taken`](StageClock::taken), at `now`. `since` is when it could have been taken, if it
    /// waited for more of its batch from then on.
    pub(crate) fn taken_at(
        visible: Instant,
        rung: Option<Instant>,
        since: Option<Instant>,
        now: Instant,
    ) -> StageClock {
        let mut clock = StageClock::since(visible);
        let free = since.map_or(now, |since| since.clamp(visible, now.max(visible)));
        match rung {
            None => clock.end_at(Stage::Queue, free),
            Some(rung) => {
                clock.end_at(Stage::Queue, rung.min(free));
                clock.end_at(Stage::Wake, free);
            }
        }
        if since.is_some() {
            clock.end_at(Stage::Batch, now);
        }
        clock
    }

    /// The first stage began at `start`.
    pub fn since(start: Instant) -> StageClock {
        StageClock { border: start, times: StageTimes::NONE }
    }

    /// Ends `stage`, which began at the last border.
    pub fn end(&mut self, stage: Stage) {
        self.end_at(stage, Instant::now());
    }

    /// Ends `stage` at `now`. One that ended before goes on: its parts are added up.
    pub(crate) fn end_at(&mut self, stage: Stage, now: Instant) {
        let elapsed = now.saturating_duration_since(self.border);
        self.times.add(stage, nanos(elapsed));
        self.border = now;
    }

    /// Adds what an engine timed, until `ended`.
    pub(crate) fn merge(&mut self, of_engine: &StageTimes, ended: Instant) {
        merge(&mut self.times, of_engine);
        self.border = ended;
    }

    /// Notes how many rows the batch had that it ran in.
    pub(crate) fn set_batch_rows(&mut self, rows: u64) {
        let rows = u32::try_from(rows).ok().and_then(NonZeroU32::new);
        self.times.set_batch_rows(rows);
    }

    /// When the last stage ended.
    pub(crate) fn border(&self) -> Instant {
        self.border
    }

    /// What was timed.
    pub fn times(&self) -> StageTimes {
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

/// When a reply was ready whose engine began at `since` and computed on the calling thread: at the
/// end of its last stage.
pub(crate) fn ready_at(since: Instant, of_engine: &StageTimes) -> Instant {
    let ns = OF_ENGINE.iter().filter_map(|&stage| of_engine.of(stage));
    since + Duration::from_nanos(ns.fold(0, u64::saturating_add))
}

/// How long a request kept an instance busy, in nanoseconds: its stages without the waiting.
pub(crate) fn busy_ns(times: &StageTimes) -> u64 {
    let parts = [Stage::Decode, Stage::Gather, Stage::Scatter].into_iter().chain(OF_ENGINE);
    parts.filter_map(|stage| times.of(stage)).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_that_follow_leave_no_gap() {
        let start = Instant::now();
        let rung = start + Duration::from_millis(1);
        std::thread::sleep(Duration::from_millis(2));
        let mut clock = StageClock::taken(start, Some(rung));
        clock.end(Stage::Decode);
        clock.end(Stage::Preprocess);
        let whole = clock.border.duration_since(start);
        let times = clock.times();
        assert_eq!(times.of(Stage::Queue), Some(1_000_000));
        let sum: u64 = [Stage::Queue, Stage::Wake, Stage::Decode, Stage::Preprocess]
            .into_iter()
            .map(|stage| times.of(stage).unwrap())
            .sum();
        assert_eq!(u128::from(sum), whole.as_nanos());
        assert_eq!(times.of(Stage::Infer), None);
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
