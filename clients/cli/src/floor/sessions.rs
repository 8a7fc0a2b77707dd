//! What a thousand open sessions cost.

use std::fs;
use std::time::{Duration, Instant};

use ferry_client::Transport;
use ferry_client::blocking::{Client, Session};
use serde_json::json;

use super::OwnServer;
use super::pair::Plan;
use crate::bench::summary::Distribution;
use crate::failure::Failure;
use crate::printer::{Printer, human_ns};

const SESSIONS: usize = 1000;

/// How long the server may take to give memory back.
const BACK_WITHIN: Duration = Duration::from_secs(5);

pub(super) fn run(
    client: &Client,
    server: &OwnServer,
    plan: &Plan,
    printer: &Printer,
) -> Result<(), Failure> {
    let pid = server.pid();
    let before = pss_bytes(pid);
    let bar = printer.bar(SESSIONS as u64, "sessions");
    let (mut opening, mut sessions) = (Distribution::new(), Vec::with_capacity(SESSIONS));
    for number in 0..SESSIONS {
        let start = Instant::now();
        let mut session = open(client, plan)?;
        if number > 0 {
            opening.add(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        // Used once, so that its memory is really there.
        let mut slot = session.slot()?;
        slot.input_mut(0)?.fill(1);
        drop(session.infer(slot)?);
        sessions.push(session);
        bar.inc(1);
    }
    bar.finish_and_clear();
    // Shared pages count half in each of two processes that map them: both halves together are
    // what the machine pays.
    let open_now = pss_bytes(pid) + pss_bytes(std::process::id());
    let layout = sessions.first().map(|session| session.agreed().layout);
    drop(sessions);
    let deadline = Instant::now() + BACK_WITHIN;
    let mut after = pss_bytes(pid);
    while after > before + (before >> 1) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
        after = pss_bytes(pid);
    }
    if printer.is_json() {
        return printer.json(&json!({
            "link": "shm",
            "kind": "sessions",
            "sessions": SESSIONS,
            "slots": layout.map(|layout| layout.slots),
            "open_ns": opening.to_json(),
            "server_bytes_before": before,
            "both_bytes_open": open_now,
            "server_bytes_after": after,
        }));
    }
    let row = vec![
        SESSIONS.to_string(),
        human_ns(opening.quantile(0.5) as f64),
        human_ns(opening.quantile(0.99) as f64),
        format!("{:.2} GB", open_now as f64 / 1e9),
        format!("{:.1} MB", before as f64 / 1e6),
        format!("{:.1} MB", after as f64 / 1e6),
    ];
    let head = ["sessions", "open p50", "open p99", "both processes", "server before", "after"];
    printer.table(&head, &[row])
}

fn open(client: &Client, plan: &Plan) -> Result<Session, Failure> {
    Ok(client
        .session("echo")
        .transport(Transport::Shm)
        .shape("input", &[plan.in_bytes as u64])
        .shape("output", &[plan.out_bytes as u64])
        .open()?)
}

/// Proportional memory of a process, in bytes; 0 where the system does not tell.
fn pss_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
