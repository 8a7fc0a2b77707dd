//! Transports under closed-loop load, in turn within one run.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::anyhow;
use ferry_client::blocking::Client;
use ferry_client::{SlotPlace, Transport, WaitPolicy, v1};
use ferry_proto::v1::admin_client::AdminClient;
use ferry_proto::v1::runs_client::RunsClient;
use serde_json::json;

use crate::crew::{Crew, Load, Outcome, Way, label};
use crate::work::Work;
use crate::{Error, Progress};

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Name of the runs in the store; that of the way where it is empty.
    pub name: String,
    /// In turn within one run; every one that the server offers if empty.
    pub transports: Vec<Transport>,
    /// Where the slots lie, in turn; the server's choice if empty.
    pub places: Vec<SlotPlace>,
    /// Clients at once, each with a thread and a session of its own.
    pub clients: u32,
    /// Measured requests of each client.
    pub requests: u64,
    /// Requests of each client before.
    pub warmup: u64,
    /// Requests that one client has in flight.
    pub window: u32,
    /// How both ends wait.
    pub wait: WaitPolicy,
    /// Rounds in which the transports take turns; at least 1.
    pub rounds: u64,
    /// Whether the timings of the requests are stored.
    pub record: bool,
}

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    /// One for each way, in order.
    pub outcomes: Vec<Outcome>,
    /// Why the server could not be told that a run is over.
    pub unfinished: Option<Error>,
}

/// Measures every way in turn.
///
/// # Errors
/// What keeps it from being begun, or a client from going on. Requests that fail are counted.
pub fn measure(
    client: &Client,
    plan: &Plan,
    work: Work,
    progress: &mut dyn Progress,
) -> Result<Measured, Error> {
    let transports =
        if plan.transports.is_empty() { every(client)? } else { plan.transports.clone() };
    let work = Arc::new(work);
    let mut crews = Vec::new();
    for way in ways(&transports, &plan.places) {
        let load = load(plan, way, start_run(client, plan, way, &work)?);
        crews.push(Crew::gather(client, load, Arc::clone(&work))?);
    }
    progress.begin(plan.rounds * crews.len() as u64, "rounds");
    for share in shares(plan.requests, plan.rounds) {
        for crew in &mut crews {
            crew.round(share)?;
            progress.step();
        }
    }
    progress.end();
    let mut measured = Measured { outcomes: Vec::new(), unfinished: None };
    for crew in crews {
        let mut outcome = crew.finish()?;
        // A server that is gone is not told; what was measured, and what failed first, is.
        match finish_run(client, outcome.load.run_id) {
            Ok(run) => outcome.lost = Some(run.lost),
            Err(error) => measured.unfinished = measured.unfinished.or(Some(error)),
        }
        measured.outcomes.push(outcome);
    }
    Ok(measured)
}

fn load(plan: &Plan, (transport, place): Way, run_id: i64) -> Load {
    Load {
        transport,
        place,
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
/// Every transport with every memory; memory of a device only where the transport carries it.
fn ways(transports: &[Transport], memory: &[SlotPlace]) -> Vec<Way> {
    let mut ways = Vec::new();
    for &transport in transports {
        let is_own = transport.is_device() || transport == Transport::Grpc;
        if memory.is_empty() || is_own {
            ways.push((transport, None));
            continue;
        }
        let carries = |place: &&SlotPlace| {
            matches!(place, SlotPlace::Host(_)) || transport == Transport::Local
        };
        ways.extend(memory.iter().filter(carries).map(|&place| (transport, Some(place))));
    }
    ways
}

/// Every transport of the server.
fn every(client: &Client) -> Result<Vec<Transport>, Error> {
    let status =
        client.run(AdminClient::new(client.control().channel()).status(v1::StatusRequest {}))?;
    let status = status.into_inner();
    let all: Vec<_> = status.transports.iter().filter_map(|name| name.parse().ok()).collect();
    if all.is_empty() {
        return Err(Error::Failed(anyhow!("the server offers no transport: see `ferry doctor`")));
    }
    Ok(all)
}

fn start_run(client: &Client, plan: &Plan, way: Way, work: &Work) -> Result<i64, Error> {
    let options = json!({
        "model": work.model,
        "transport": way.0.name(),
        "memory": way.1.map(|place| place.to_string()),
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
        name: if plan.name.is_empty() { label(way) } else { plan.name.clone() },
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
