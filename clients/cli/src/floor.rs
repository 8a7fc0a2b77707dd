//! `ferry bench --floor`: our links beside bare references, with a server of its own.

mod report;

use ferry_bench::OwnServer;
use ferry_bench::floor::{self, Plan};
use ferry_client::{Transport, WaitPolicy};

use crate::args::BenchArgs;
use crate::bench::OUT_BYTES;
use crate::failure::Failure;
use crate::printer::Printer;

pub(crate) fn run(args: &BenchArgs, printer: &Printer) -> Result<(), Failure> {
    if args.transports.contains(&Transport::Rdma) || args.links.contains(&Transport::Rdma) {
        return rdma(args, printer);
    }
    let links = links(args)?;
    let plan = plan(args);
    let server = OwnServer::start()?;
    let client = server.connect()?;
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    printer.say(&format!(
        "{cores} cores, {} B in, {} B out, one request in flight, filling included, recorded",
        plan.in_bytes, plan.out_bytes
    ));
    let mut pairs = Vec::new();
    for &transport in &links {
        for wait in WaitPolicy::ALL {
            let pair = floor::pair(&client, &plan, transport, wait, &mut printer.progress())?;
            report::pair(&pair, printer)?;
            pairs.push(pair);
        }
    }
    report::pairs(&pairs, printer)?;
    if links.contains(&Transport::Shm) {
        report::recording(&floor::recording(&client, &mut printer.progress())?, printer)?;
        report::throughput(&floor::throughput(&client, &plan)?, printer)?;
        let sessions = floor::sessions(&client, &server, &plan, &mut printer.progress())?;
        report::sessions(&sessions, printer)?;
    }
    Ok(())
}

fn rdma(args: &BenchArgs, printer: &Printer) -> Result<(), Failure> {
    let device = args.rdma.device();
    let server = OwnServer::on(&device)?;
    let rounds = args.rounds.clamp(1, args.requests);
    let all = floor::rdma(&server.connect()?, &device, args.requests, rounds)?;
    report::rdma(&all, rounds, printer)
}

fn plan(args: &BenchArgs) -> Plan {
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    Plan {
        in_bytes: bytes(args.in_bytes),
        out_bytes: bytes(args.out_bytes.unwrap_or(OUT_BYTES)),
        requests: args.requests,
        rounds: args.rounds.min(args.requests),
    }
}

/// The links that were named, each with a bare reference; else all that have one.
fn links(args: &BenchArgs) -> Result<Vec<Transport>, Failure> {
    let known: Vec<_> = floor::references().collect();
    let Some(other) = args.links.iter().find(|link| !known.contains(link)) else {
        return Ok(if args.links.is_empty() { known } else { args.links.clone() });
    };
    let known: Vec<_> = known.into_iter().map(Transport::name).collect();
    let known = known.join(", ");
    Err(Failure::Usage(format!("--link {other} has no bare reference; those with one are {known}")))
}
