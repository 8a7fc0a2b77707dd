//! One clock reading at each border between two stages of an engine.

use std::time::Instant;

use ferry_core::{Stage, StageTimes};

/// Times stages that follow each other without a gap.
#[derive(Debug)]
pub(crate) struct Stages {
    border: Instant,
    times: StageTimes,
}

impl Stages {
    /// The first stage began at `start`.
    pub(crate) fn since(start: Instant) -> Stages {
        Stages { border: start, times: StageTimes::NONE }
    }

    /// `stage` ends now, and the next one begins.
    pub(crate) fn end(&mut self, stage: Stage) {
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(self.border);
        self.times.set(stage, u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX));
        self.border = now;
    }

    /// What was timed.
    pub(crate) fn times(&self) -> StageTimes {
        self.times
    }
}
