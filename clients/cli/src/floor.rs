//! `ferry bench --floor`: our links beside bare references, with a server of its own.

mod report;

use ferry_bench::OwnServer;
use ferry_bench::floor::{self, Plan};
use ferry_client::{Transport, WaitPolicy};

use crate::args::BenchArgs;
use crate::failure::Failure;
use crate::printer::Printer;

/// The links that have a bare reference.
const LINKS: [&str; 4] = ["shm", "tcp", "zmq", "grpc"];

pub(crate) fn run(args: &BenchArgs, printer: &Printer) -> Result<(), Failure> {
    let is_rdma = |name: &str| name == Transport::Rdma.name();
    if args.transports.contains(&Transport::Rdma) || args.links.iter().any(|link| is_rdma(link)) {
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
    for &link in &links {
        for wait in WaitPolicy::ALL {
            let transport: Transport =
                link.parse().map_err(|error| Failure::Usage(format!("--link {link}: {error}")))?;
            let pair = floor::pair(&client, &plan, transport, wait, &mut printer.progress())?;
            report::pair(&pair, printer)?;
            pairs.push(pair);
        }
    }
    report::pairs(&pairs, printer)?;
    if links.contains(&"shm") {
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
        out_bytes: bytes(args.out_bytes),
        requests: args.requests,
        rounds: args.rounds.min(args.requests),
    }
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
