//! `ferry bench`: transports under closed-loop load, in turn within one run.

mod crew;
mod inside;
mod member;
pub(crate) mod report;
pub(crate) mod summary;
mod work;

use std::sync::Arc;

use anyhow::anyhow;
use ferry_client::blocking::Client;
use ferry_client::{SlotPlace, Transport, v1};
use serde_json::json;

use crate::args::BenchArgs;
use crate::control;
use crate::failure::Failure;
use crate::printer::Printer;

pub(crate) use crew::{Crew, Load, Way};
pub(crate) use work::{Work, pattern};

pub(crate) fn run(args: &BenchArgs, printer: &Printer) -> Result<(), Failure> {
    let client = control::connect(&args.server)?;
    let transports =
        if args.transports.is_empty() { every(&client)? } else { args.transports.clone() };
    let work = Arc::new(Work::prepare(&client, args)?);
    let mut crews = Vec::new();
    let ways = ways(&transports, &args.memory);
    for &way in &ways {
        let run_id = start_run(&client, args, way)?;
        let load = Load::from_args(args, way, run_id);
        crews.push(Crew::gather(&client, load, Arc::clone(&work))?);
    }
    printer.say(&format!(
        "{} × {} clients × {} requests (warm-up {}, window {}, wait {}), {} rounds in turn",
        args.model, args.clients, args.requests, args.warmup, args.window, args.wait, args.rounds
    ));
    let bar = printer.bar(args.rounds * ways.len() as u64, "rounds");
    for share in shares(args.requests, args.rounds) {
        for crew in &mut crews {
            crew.round(share)?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let mut outcomes = Vec::new();
    let mut unfinished = Ok(());
    for crew in crews {
        let outcome = crew.finish()?;
        // A server that is gone is not told; what was measured, and what failed first, is.
        unfinished = unfinished.and(finish_run(&client, outcome.load.run_id));
        outcomes.push(outcome);
    }
    report::print(&outcomes, printer)?;
    let failed: u64 = outcomes.iter().map(|outcome| outcome.errors).sum();
    match outcomes.into_iter().find_map(|outcome| outcome.first_error) {
        Some(first) => Err(Failure::Requests { failed, first }),
        None => unfinished,
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
fn every(client: &Client) -> Result<Vec<Transport>, Failure> {
    let status = client.run(control::admin(client).status(v1::StatusRequest {}))?.into_inner();
    let all: Vec<_> = status.transports().filter_map(v1::Transport::named).collect();
    if all.is_empty() {
        return Err(Failure::Failed(anyhow!("the server offers no transport: see `ferry doctor`")));
    }
    Ok(all)
}

fn start_run(client: &Client, args: &BenchArgs, way: Way) -> Result<i64, Failure> {
    let options = json!({
        "model": args.model,
        "transport": way.0.name(),
        "memory": way.1.map(|place| place.to_string()),
        "priority": args.priority,
        "clients": args.clients,
        "requests": args.requests,
        "window": args.window,
        "wait": args.wait.name(),
        "rounds": args.rounds,
        "in_bytes": args.in_bytes,
        "out_bytes": args.out_bytes,
        "image": args.image,
        "record": !args.no_record,
    });
    let request = v1::StartRunRequest {
        name: if args.name.is_empty() { crew::label(way) } else { args.name.clone() },
        kind: "bench".into(),
        options_json: options.to_string(),
        warmup: args.warmup,
        notes: String::new(),
    };
    Ok(client.run(control::runs(client).start(request))?.into_inner().run_id)
}

fn finish_run(client: &Client, run_id: i64) -> Result<(), Failure> {
    let request = v1::FinishRunRequest { run_id, flush: true };
    client.run(control::runs(client).finish(request))?;
    Ok(())
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
