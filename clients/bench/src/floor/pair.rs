//! One of our links and its bare reference, in turn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_client::blocking::Client;
use ferry_client::{RecordSink, Transport, WaitPolicy};
use ferry_core::nanos;

use super::bare;
use super::ours::Ours;
use crate::summary::{Distribution, Tally};
use crate::{Error, Progress};

/// Pause between two requests over shared memory with the policy `adaptive`: long enough that both
/// ends fell asleep, which is what tells it from `spin` there. The other links sleep in the kernel
/// anyway.
const IDLE: Duration = Duration::from_millis(1);

/// Requests of each side before anything is measured.
const WARM_UP: u64 = 200;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Bytes of a request.
    pub in_bytes: usize,
    /// Bytes of a reply.
    pub out_bytes: usize,
    /// Requests of each side.
    pub requests: u64,
    /// Rounds in which the sides take turns.
    pub rounds: u64,
}

/// What was measured of a link and a way to wait.
#[derive(Debug)]
pub struct Pair {
    /// The transport.
    pub transport: Transport,
    /// How both ends of ours wait.
    pub wait: WaitPolicy,
    /// Pause before each request, outside its time.
    pub idle: Duration,
    /// Round trips of ours.
    pub ours: Distribution,
    /// Those of the reference.
    pub bare: Distribution,
    /// Medians of each round: ours, bare.
    pub per_round: Vec<(u64, u64)>,
    /// Share of our requests whose stages account for their time.
    pub accounted: f64,
    /// The median of what no stage has, in nanoseconds.
    pub unattributed: u64,
}

impl Pair {
    /// Smallest, median and largest ratio of the rounds' medians.
    #[must_use]
    pub fn ratios(&self) -> (f64, f64, f64) {
        let ratio = |&(ours, bare): &(u64, u64)| ours as f64 / bare.max(1) as f64;
        let [low, middle, high] =
            quantiles(self.per_round.iter().map(ratio).collect(), [0, 50, 100]);
        (low, middle, high)
    }
}

/// Values at these percentages of all values in order; NaN where there are none.
pub(crate) fn quantiles<const N: usize>(mut values: Vec<f64>, percents: [usize; N]) -> [f64; N] {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    percents.map(|percent| values.get(last * percent / 100).copied().unwrap_or(f64::NAN))
}

/// Runs both sides, round by round.
///
/// # Errors
/// The first request that fails.
pub fn pair(
    client: &Client,
    plan: &Plan,
    transport: Transport,
    wait: WaitPolicy,
    progress: &mut dyn Progress,
) -> Result<Pair, Error> {
    let idles = transport == Transport::Shm && wait == WaitPolicy::Adaptive;
    let idle = if idles { IDLE } else { Duration::ZERO };
    let tally = Arc::new(Tally::new());
    let mut ours =
        Ours::open(client, plan, transport, wait, Arc::clone(&tally) as Arc<dyn RecordSink>)?;
    let mut bare = bare::start(plan, transport, wait)?;
    for _ in 0..WARM_UP {
        ours.once()?;
        bare.once()?;
    }
    drop(tally.take());
    let mut pair = Pair {
        transport,
        wait,
        idle,
        ours: Distribution::new(),
        bare: Distribution::new(),
        per_round: Vec::new(),
        accounted: 0.0,
        unattributed: 0,
    };
    progress.begin(plan.rounds, &format!("{transport} {wait}"));
    for share in crate::measure::shares(plan.requests, plan.rounds) {
        let mine = round(share, idle, || ours.once())?;
        let theirs = round(share, idle, || bare.once())?;
        let median = |it: &Distribution| it.quantile(0.5);
        pair.per_round.push((median(&mine), median(&theirs)));
        pair.ours.merge(&mine);
        pair.bare.merge(&theirs);
        progress.step();
    }
    progress.end();
    ours.close()?;
    let summary = tally.take();
    pair.accounted = summary.accounted().unwrap_or_default();
    let unattributed = summary.named().find(|(name, _)| *name == "unattributed");
    pair.unattributed = unattributed.map_or(0, |(_, times)| times.quantile(0.5));
    Ok(pair)
}

/// Times `requests` round trips. A pause comes before each, outside the time.
fn round(
    requests: u64,
    idle: Duration,
    mut once: impl FnMut() -> Result<(), Error>,
) -> Result<Distribution, Error> {
    let mut times = Distribution::new();
    for _ in 0..requests {
        if !idle.is_zero() {
            std::thread::sleep(idle);
        }
        let start = Instant::now();
        once()?;
        times.add(nanos(start.elapsed()));
    }
    Ok(times)
}
