//! One of our links and its bare reference, in turn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_client::blocking::Client;
use ferry_client::{RecordSink, Transport, WaitPolicy};

use super::bare;
use super::ours::Ours;
use crate::args::BenchArgs;
use crate::bench::summary::{Distribution, Tally};
use crate::failure::Failure;
use crate::printer::Printer;

/// Pause between two requests over shared memory with the policy `adaptive`: long enough that both
/// ends fell asleep, which is what tells it from `spin` there. The other links sleep in the kernel
/// anyway.
const IDLE: Duration = Duration::from_millis(1);

/// Requests of each side before anything is measured.
const WARM_UP: u64 = 200;

/// What is measured.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) in_bytes: usize,
    pub(super) out_bytes: usize,
    pub(super) requests: u64,
    pub(super) rounds: u64,
}

impl Plan {
    pub(super) fn from_args(args: &BenchArgs) -> Plan {
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        Plan {
            in_bytes: bytes(args.in_bytes),
            out_bytes: bytes(args.out_bytes),
            requests: args.requests,
            rounds: args.rounds.min(args.requests),
        }
    }
}

/// What was measured of a link and a way to wait.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) transport: Transport,
    pub(super) wait: WaitPolicy,
    pub(super) idle: Duration,
    pub(super) ours: Distribution,
    pub(super) bare: Distribution,
    /// Medians of each round: ours, bare.
    pub(super) per_round: Vec<(u64, u64)>,
    /// Share of our requests whose stages account for their time.
    pub(super) accounted: f64,
    pub(super) unattributed: u64,
}

impl Pair {
    /// Smallest, median and largest ratio of the rounds' medians.
    pub(super) fn ratios(&self) -> (f64, f64, f64) {
        let ratio = |&(ours, bare): &(u64, u64)| ours as f64 / bare.max(1) as f64;
        let [low, middle, high] =
            quantiles(self.per_round.iter().map(ratio).collect(), [0, 50, 100]);
        (low, middle, high)
    }
}

/// Values at these percentages of all values in order; NaN where there are none.
pub(super) fn quantiles<const N: usize>(mut values: Vec<f64>, percents: [usize; N]) -> [f64; N] {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    percents.map(|percent| values.get(last * percent / 100).copied().unwrap_or(f64::NAN))
}

/// Runs both sides, round by round.
pub(super) fn measure(
    client: &Client,
    plan: &Plan,
    transport: Transport,
    wait: WaitPolicy,
    printer: &Printer,
) -> Result<Pair, Failure> {
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
    let bar = printer.bar(plan.rounds, &format!("{transport} {wait}"));
    for share in crate::bench::shares(plan.requests, plan.rounds) {
        let mine = round(share, idle, || ours.once())?;
        let theirs = round(share, idle, || bare.once())?;
        let median = |it: &Distribution| it.quantile(0.5);
        pair.per_round.push((median(&mine), median(&theirs)));
        pair.ours.merge(&mine);
        pair.bare.merge(&theirs);
        bar.inc(1);
    }
    bar.finish_and_clear();
    ours.close()?;
    let summary = tally.take();
    pair.accounted = summary.accounted();
    let unattributed = summary.named().find(|(name, _)| *name == "unattributed");
    pair.unattributed = unattributed.map_or(0, |(_, times)| times.quantile(0.5));
    Ok(pair)
}

/// Times `requests` round trips. A pause comes before each, outside the time.
fn round(
    requests: u64,
    idle: Duration,
    mut once: impl FnMut() -> Result<(), Failure>,
) -> Result<Distribution, Failure> {
    let mut times = Distribution::new();
    for _ in 0..requests {
        if !idle.is_zero() {
            std::thread::sleep(idle);
        }
        let start = Instant::now();
        once()?;
        times.add(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(times)
}
