//! Ways under closed-loop load, in turn within one run.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::anyhow;
use ferry_client::blocking::Client;
use ferry_client::{Transport, WaitPolicy, v1};
use ferry_core::nanos;
use ferry_proto::v1::admin_client::AdminClient;
use ferry_proto::v1::runs_client::RunsClient;
use serde_json::json;

use crate::crew::{Crew, Load, Outcome};
use crate::member::Extent;
use crate::oip::stored;
use crate::stop::Stop;
use crate::way::Way;
use crate::work::Work;
use crate::{Error, Progress};

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Name of the runs in the store; that of the way where it is empty.
    pub name: String,
    /// In turn within one run.
    pub ways: Vec<Way>,
    /// Clients at once, each with a thread and a session or connection of its own.
    pub clients: u32,
    /// Measured requests of each client.
    pub requests: u64,
    /// Requests of each client before.
    pub warmup: u64,
    /// Requests that one client has in flight.
    pub window: u32,
    /// How both ends of a session wait.
    pub wait: WaitPolicy,
    /// Rounds in which the ways take turns; at least 1.
    pub rounds: u64,
    /// Whether the timings of the requests are stored.
    pub record: bool,
    /// Heard between requests.
    pub stop: Stop,
}

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    /// One for each way, in order.
    pub outcomes: Vec<Outcome>,
    /// Why the server could not be told that a run is over.
    pub unfinished: Option<Error>,
    /// Why the stages of requests that the server recorded are not known.
    pub no_stages: Option<String>,
    /// How many rounds there were, fewer than planned if it was stopped.
    pub rounds: u64,
}

/// Measures every way in turn.
///
/// # Errors
/// What keeps it from being begun, or a client from going on. Requests that fail are counted.
pub fn measure(
    client: &Client,
    plan: &Plan,
    progress: &mut dyn Progress,
) -> Result<Measured, Error> {
    let mut crews = Vec::new();
    for way in &plan.ways {
        let run_id = match way {
            Way::Session { work, .. } => Some(start_run(client, plan, way, work)?),
            Way::Oip { .. } => None,
        };
        crews.push(Crew::gather(client, load(plan, way, run_id), &plan.stop)?);
    }
    progress.begin(plan.rounds * crews.len() as u64, "rounds");
    let mut spans = vec![Vec::new(); crews.len()];
    let mut rounds = 0;
    for share in shares(plan.requests, plan.rounds) {
        if plan.stop.is_asked() {
            break;
        }
        for (crew, spans) in crews.iter_mut().zip(&mut spans) {
            let from = unix_ns();
            crew.round(Extent::Requests(share))?;
            spans.push((from, unix_ns()));
            progress.step();
        }
        rounds += 1;
    }
    progress.end();
    let mut measured = Measured { outcomes: Vec::new(), unfinished: None, no_stages: None, rounds };
    for crew in crews {
        measured.outcomes.push(finish(client, crew, &mut measured.unfinished)?);
    }
    measured.no_stages = stored::add(client, &mut measured.outcomes, &spans).err();
    Ok(measured)
}

fn finish(client: &Client, crew: Crew, unfinished: &mut Option<Error>) -> Result<Outcome, Error> {
    let mut outcome = crew.finish()?;
    // A server that is gone is not told; what was measured, and what failed first, is.
    match outcome.load.run_id.map(|run_id| finish_run(client, run_id)) {
        Some(Ok(run)) => outcome.lost = Some(run.lost),
        Some(Err(error)) => *unfinished = unfinished.take().or(Some(error)),
        None => {}
    }
    Ok(outcome)
}

/// The wall clock, in nanoseconds since 1970.
fn unix_ns() -> u64 {
    nanos(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn load(plan: &Plan, way: &Way, run_id: Option<i64>) -> Load {
    Load {
        way: way.clone(),
        run_id,
        clients: plan.clients,
        window: plan.window,
        wait: plan.wait,
        warmup: plan.warmup,
        record: plan.record,
    }
}

/// `requests` split over `rounds` as evenly as it goes; rounds without any are left out.
pub(crate) fn shares(requests: u64, rounds: u64) -> Vec<u64> {
    let (each, more) = (requests / rounds, requests % rounds);
    let share = |round| each + u64::from(round < more);
    (0..rounds).map(share).filter(|&share| share > 0).collect()
}

/// Every transport of the server.
///
/// # Errors
/// If it does not tell, or has none.
pub fn transports(client: &Client) -> Result<Vec<Transport>, Error> {
    let status =
        client.run(AdminClient::new(client.control().channel()).status(v1::StatusRequest {}))?;
    let status = status.into_inner();
    let all: Vec<_> = status.transports.iter().filter_map(|name| name.parse().ok()).collect();
    if all.is_empty() {
        return Err(Error::Failed(anyhow!("the server offers no transport: see `ferry doctor`")));
    }
    Ok(all)
}

fn start_run(client: &Client, plan: &Plan, way: &Way, work: &Work) -> Result<i64, Error> {
    let options = json!({
        "model": work.model,
        "transport": way.transport(),
        "memory": way.place().map(|place| place.to_string()),
        "priority": work.priority,
        "clients": plan.clients,
        "requests": plan.requests,
        "window": plan.window,
        "wait": plan.wait.name(),
        "rounds": plan.rounds,
        "shapes": work.shapes.iter().cloned().collect::<BTreeMap<_, _>>(),
        "image": work.image(),
        "record": plan.record,
    });
    let request = v1::StartRunRequest {
        name: if plan.name.is_empty() { way.label() } else { plan.name.clone() },
        kind: "bench".into(),
        options_json: options.to_string(),
        warmup: plan.warmup,
        notes: String::new(),
    };
    let mut runs = RunsClient::new(client.control().channel());
    Ok(client.run(runs.start(request))?.into_inner().run_id)
}

fn finish_run(client: &Client, run_id: i64) -> Result<v1::Run, Error> {
    let request = v1::FinishRunRequest { run_id, flush: true };
    let mut runs = RunsClient::new(client.control().channel());
    Ok(client.run(runs.finish(request))?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_none_is_empty() {
        assert_eq!(shares(10, 4), [3, 3, 2, 2]);
        assert_eq!(shares(2, 4), [1, 1]);
        assert_eq!(shares(8, 1), [8]);
    }
}
