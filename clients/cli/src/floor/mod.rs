//! `ferry bench --floor`: our links beside bare references, interleaved in one run.
//!
//! Both sides of a pair are timed by the same loop, around everything that a caller pays: taking
//! the slot, filling it, the round trip, and giving the reply back.

mod bare;
mod bare_grpc;
mod bare_shm;
mod load;
mod ours;
mod pair;
mod rdma;
mod recording;
mod server;
mod sessions;

use ferry_client::{Transport, WaitPolicy};
use serde_json::{Value, json};

use crate::args::BenchArgs;
use crate::failure::Failure;
use crate::printer::{Printer, human_ns};

use pair::{Pair, Plan};
pub(crate) use server::OwnServer;

/// The links that have a bare reference.
const LINKS: [&str; 4] = ["shm", "tcp", "zmq", "grpc"];

/// The goals of `docs/PROMISES.md`: link, wait, most nanoseconds at the median, largest ratio.
const GOALS: [(&str, WaitPolicy, Option<u64>, Option<f64>); 6] = [
    ("shm", WaitPolicy::Spin, Some(12_000), Some(1.8)),
    ("shm", WaitPolicy::Adaptive, Some(60_000), None),
    ("shm", WaitPolicy::Block, Some(60_000), None),
    ("tcp", WaitPolicy::Adaptive, None, Some(1.2)),
    ("zmq", WaitPolicy::Adaptive, None, Some(1.1)),
    ("grpc", WaitPolicy::Adaptive, None, Some(1.15)),
];

pub(crate) fn run(args: &BenchArgs, printer: &Printer) -> Result<(), Failure> {
    let is_rdma = |name: &str| name == Transport::Rdma.name();
    if args.transports.contains(&Transport::Rdma) || args.links.iter().any(|link| is_rdma(link)) {
        return rdma::run(&OwnServer::on(&args.rdma)?.connect()?, args, printer);
    }
    let links = links(args)?;
    let plan = Plan::from_args(args);
    let server = OwnServer::start()?;
    let client = server.connect()?;
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    printer.say(&format!(
        "{cores} cores, {} B in, {} B out, one request in flight, filling included, recorded",
        plan.in_bytes, plan.out_bytes
    ));
    let mut rows = Vec::new();
    for &link in &links {
        for wait in WaitPolicy::ALL {
            let transport: Transport =
                link.parse().map_err(|error| Failure::Usage(format!("--link {link}: {error}")))?;
            let measured = pair::measure(&client, &plan, transport, wait, printer)?;
            if printer.is_json() {
                printer.json(&to_json(&measured))?;
            }
            rows.push(row(&measured));
        }
    }
    if !printer.is_json() {
        let head = ["link", "wait", "ours p50", "bare p50", "ratio", "rounds", "goal", ""];
        printer.table(&head, &rows)?;
    }
    if links.contains(&"shm") {
        recording::run(&client, printer)?;
        load::run(&client, &plan, printer)?;
        sessions::run(&client, &server, &plan, printer)?;
    }
    Ok(())
}

fn links(args: &BenchArgs) -> Result<Vec<&'static str>, Failure> {
    if args.links.is_empty() {
        return Ok(LINKS.to_vec());
    }
    let known = |given: &String| LINKS.into_iter().find(|link| link == given);
    let unknown = |given: &String| {
        Failure::Usage(format!("--link {given:?} has no bare reference; known are {LINKS:?}"))
    };
    args.links.iter().map(|given| known(given).ok_or_else(|| unknown(given))).collect()
}

fn goal_of(pair: &Pair) -> Option<(Option<u64>, Option<f64>)> {
    let is = |goal: &&(&str, WaitPolicy, Option<u64>, Option<f64>)| {
        goal.0 == pair.transport.name() && goal.1 == pair.wait
    };
    GOALS.iter().find(is).map(|goal| (goal.2, goal.3))
}

fn row(pair: &Pair) -> Vec<String> {
    let (ours, bare) = (pair.ours.quantile(0.5), pair.bare.quantile(0.5));
    let (low, middle, high) = pair.ratios();
    let (goal, verdict) = match goal_of(pair) {
        None => (String::new(), String::new()),
        Some((ns, ratio)) => {
            let texts = [
                ns.map(|ns| format!("≤ {}", human_ns(ns as f64))),
                ratio.map(|ratio| format!("≤ {ratio} ×")),
            ];
            let ok = ns.is_none_or(|ns| ours <= ns) && ratio.is_none_or(|most| middle <= most);
            let goal = texts.into_iter().flatten().collect::<Vec<_>>().join(", ");
            (goal, if ok { "ok" } else { "missed" }.to_owned())
        }
    };
    vec![
        pair.transport.to_string(),
        pair.wait.to_string(),
        human_ns(ours as f64),
        human_ns(bare as f64),
        format!("{middle:.2}"),
        format!("{low:.2}–{high:.2}"),
        goal,
        verdict,
    ]
}

fn to_json(pair: &Pair) -> Value {
    let (low, middle, high) = pair.ratios();
    json!({
        "link": pair.transport.name(),
        "wait": pair.wait.name(),
        "ours_ns": pair.ours.to_json(),
        "bare_ns": pair.bare.to_json(),
        "ratio_p50": middle,
        "ratio_p50_min": low,
        "ratio_p50_max": high,
        "requests": pair.ours.count(),
        "rounds": pair.per_round.len(),
        "idle_us": pair.idle.as_micros(),
        "accounted": pair.accounted,
        "unattributed_ns_p50": pair.unattributed,
    })
}
