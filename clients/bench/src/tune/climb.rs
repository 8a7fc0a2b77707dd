//! How many requests a second a model answers within a bound, with more and more clients.

use std::time::{Duration, Instant};

use ferry_client::blocking::Client;
use ferry_client::{Stage, WaitPolicy};

use super::{Clients, Score};
use crate::Error;
use crate::crew::{Crew, Load};
use crate::member::Extent;
use crate::stop::Stop;
use crate::way::Way;

/// Fewest requests of a rung, as long as that takes no more than `LONGER` times the time: of fewer,
/// the p99 is but the longest.
const REQUESTS_MIN: u64 = 100;

/// See [`REQUESTS_MIN`].
const LONGER: u32 = 3;

/// After so many numbers of clients in a row that did not help, more are not tried. One may be
/// noise.
const VAIN_MAX: u32 = 2;

/// Requests of each client before a rung is measured.
const WARM_UP: u64 = 1;

/// What is measured for one setting.
#[derive(Clone, Debug)]
pub struct Climb {
    /// How requests go.
    pub way: Way,
    /// The bound of the p99, in nanoseconds.
    pub bound_ns: u64,
    /// Most clients at once.
    pub clients_max: u32,
    /// How long each number of clients is measured.
    pub rung: Duration,
    /// Heard between requests.
    pub stop: Stop,
}

/// What so many clients had.
#[derive(Clone, Debug)]
pub struct Rung {
    /// Clients at once, each with one request in flight.
    pub clients: u32,
    /// Requests that were answered.
    pub requests: u64,
    /// Those that were not.
    pub errors: u64,
    /// Why the first of these was not.
    pub first_error: Option<String>,
    /// Requests a second.
    pub rate: f64,
    /// In nanoseconds.
    pub p50_ns: u64,
    /// In nanoseconds.
    pub p99_ns: u64,
}

impl Rung {
    fn score(&self, bound_ns: u64) -> Score {
        let meets = self.errors == 0 && self.requests > 0 && self.p99_ns <= bound_ns;
        let p99_ns = if self.requests > 0 { self.p99_ns } else { u64::MAX };
        Score { meets, rate: self.rate, p99_ns, clients: self.clients }
    }
}

/// Measures with so many clients; or with twice as many each time, until the bound is broken or more
/// do not help.
///
/// # Errors
/// What keeps clients from being opened or from going on.
pub fn climb(client: &Client, plan: &Climb, clients: Clients) -> Result<(Vec<Rung>, Score), Error> {
    let mut rungs = Vec::new();
    let mut best: Option<Score> = None;
    let mut vain = 0;
    let (mut clients, is_only) = match clients {
        Clients::From(first) => (first, false),
        Clients::Only(all) => (all, true),
    };
    while clients <= plan.clients_max && !plan.stop.is_asked() {
        let rung = rung(client, plan, clients)?;
        let score = rung.score(plan.bound_ns);
        rungs.push(rung);
        let helps = best.is_none_or(|best| score.beats(&best));
        vain = if helps { 0 } else { vain + 1 };
        if best.is_none_or(|best| score.compare(&best).is_gt()) {
            best = Some(score);
        }
        if !score.meets || vain == VAIN_MAX || is_only {
            break;
        }
        clients *= 2;
    }
    let stopped = || Error::Usage("stopped before anything was measured".into());
    Ok((rungs, best.ok_or_else(stopped)?))
}

fn rung(client: &Client, plan: &Climb, clients: u32) -> Result<Rung, Error> {
    let load = Load {
        way: plan.way.clone(),
        run_id: None,
        clients,
        window: 1,
        wait: WaitPolicy::Adaptive,
        warmup: WARM_UP,
        // Nobody asks SQL for them, and there are many.
        record: false,
    };
    let mut crew = Crew::gather(client, load, &plan.stop)?;
    let began = Instant::now();
    loop {
        crew.round(Extent::Until(Instant::now() + plan.rung))?;
        let outcome = crew.outcome();
        let is_enough = outcome.requests >= REQUESTS_MIN || outcome.errors > 0;
        if is_enough || began.elapsed() >= plan.rung * LONGER || plan.stop.is_asked() {
            break;
        }
    }
    let outcome = crew.finish()?;
    let total = outcome.summary.of(Stage::Total);
    let seconds = outcome.lasted.as_secs_f64();
    Ok(Rung {
        clients,
        requests: outcome.requests,
        errors: outcome.errors,
        first_error: outcome.first_error,
        rate: if seconds > 0.0 { outcome.requests as f64 / seconds } else { 0.0 },
        p50_ns: total.quantile(0.5),
        p99_ns: total.quantile(0.99),
    })
}
