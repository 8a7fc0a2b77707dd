//! Samples what process and machine use, for the server's run and for those that clients started.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::machine::sample;
use crate::state::State;
use crate::store::Event;

/// Samples until it is aborted. What sampling itself costs is measured and logged at the first
/// sample: it is two reads of `/proc`, some 100 µs each second by default.
pub(crate) async fn keep(state: Arc<State>, every: Duration) {
    if every.is_zero() {
        return;
    }
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut first = true;
    loop {
        ticks.tick().await;
        let start = Instant::now();
        let Some(taken) = sample() else {
            tracing::warn!("no /proc: resources are not sampled");
            return;
        };
        for run in std::iter::once(0).chain(state.runs.going_on()) {
            let mut of_run = taken;
            of_run.run = run;
            state.recorder.event(Event::Sampled(Box::new(of_run)));
        }
        if std::mem::take(&mut first) {
            let cost_us = start.elapsed().as_micros();
            tracing::info!(cost_us, every_s = every.as_secs_f64(), "resources are sampled");
        }
    }
}
