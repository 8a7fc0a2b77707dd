//! What recording adds to a request.

use std::time::Instant;

use ferry_client::blocking::{Client, Session};
use ferry_client::{Transport, WaitPolicy};
use serde_json::json;

use super::pair::quantiles;
use crate::bench::pattern;
use crate::failure::Failure;
use crate::printer::{Printer, human_ns};

/// Bytes both ways: small, so that nothing hides what recording costs.
const BYTES: u64 = 4_000;
const WINDOWS: [u32; 2] = [1, 8];
const ROUNDS: usize = 200;
/// Requests of each session in a round.
const REQUESTS: u64 = 1_000;
const WARM_UP: u64 = 5_000;

/// Two sessions that record and two that do not. The server's lanes take sessions in turn, so that
/// in this order each of two lanes has one of either kind.
const RECORDS: [bool; 4] = [true, false, false, true];

pub(super) fn run(client: &Client, printer: &Printer) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for window in WINDOWS {
        let before = client.flush();
        let costs = measure(client, window, printer)?;
        let after = client.flush();
        let stored = after.accepted.saturating_sub(before.accepted);
        let lost = after.lost.saturating_sub(before.lost);
        let (on, off) = (costs.median_of(|round| round.0), costs.median_of(|round| round.1));
        let added = costs.of(|round| round.0 - round.1);
        if printer.is_json() {
            printer.json(&json!({
                "link": "shm",
                "wait": "spin",
                "kind": "recording",
                "bytes": BYTES,
                "window": window,
                "rounds": ROUNDS,
                "requests": 4 * REQUESTS * ROUNDS as u64,
                "on_ns": on,
                "off_ns": off,
                "added_ns": added[1],
                "added_ns_p25": added[0],
                "added_ns_p75": added[2],
                "records_stored": stored,
                "records_lost": lost,
            }))?;
        }
        rows.push(vec![
            window.to_string(),
            human_ns(on),
            human_ns(off),
            format!("{:.0} ns", added[1]),
            format!("{:.0}–{:.0} ns", added[0], added[2]),
            format!("{stored} / {lost}"),
        ]);
    }
    if printer.is_json() {
        return Ok(());
    }
    let head = ["window", "recorded", "not recorded", "added", "p25–p75", "rows stored / lost"];
    printer.table(&head, &rows)
}

/// Nanoseconds per request of each round: recorded, and not.
struct Costs(Vec<(f64, f64)>);

impl Costs {
    /// Quartiles over the rounds.
    fn of(&self, what: impl Fn(&(f64, f64)) -> f64) -> [f64; 3] {
        quantiles(self.0.iter().map(what).collect(), [25, 50, 75])
    }

    fn median_of(&self, what: impl Fn(&(f64, f64)) -> f64) -> f64 {
        self.of(what)[1]
    }
}

fn measure(client: &Client, window: u32, printer: &Printer) -> Result<Costs, Failure> {
    let source = pattern(usize::try_from(BYTES).unwrap_or(usize::MAX));
    let mut sessions = Vec::new();
    for records in RECORDS {
        sessions.push((records, open(client, window, records)?));
    }
    for (_, session) in &mut sessions {
        drive(session, &source, window, WARM_UP)?;
    }
    let mut costs = Vec::with_capacity(ROUNDS);
    let bar = printer.bar(ROUNDS as u64, &format!("recording, window {window}"));
    for _ in 0..ROUNDS {
        let (mut on, mut off) = (0.0, 0.0);
        for (records, session) in &mut sessions {
            let start = Instant::now();
            drive(session, &source, window, REQUESTS)?;
            let per_request = start.elapsed().as_secs_f64() * 1e9 / REQUESTS as f64;
            // Two sessions of either kind.
            *(if *records { &mut on } else { &mut off }) += per_request / 2.0;
        }
        costs.push((on, off));
        // Each kind goes first every other round.
        sessions.reverse();
        sessions.rotate_left(1);
        bar.inc(1);
    }
    bar.finish_and_clear();
    for (_, session) in sessions {
        session.close()?;
    }
    Ok(Costs(costs))
}

fn open(client: &Client, window: u32, records: bool) -> Result<Session, Failure> {
    Ok(client
        .session("echo")
        .transport(Transport::Shm)
        .wait(WaitPolicy::Spin)
        .slots(window)
        .shape("input", &[BYTES])
        .shape("output", &[BYTES])
        .record(records)
        .open()?)
}

/// Keeps `window` requests in flight until `requests` are answered.
fn drive(session: &mut Session, source: &[u8], window: u32, requests: u64) -> Result<(), Failure> {
    let (mut sent, mut done) = (0, 0);
    while done < requests {
        while sent < requests && sent - done < u64::from(window) {
            let mut slot = session.slot()?;
            slot.input_mut(0)?.copy_from_slice(source);
            session.submit(slot)?;
            sent += 1;
        }
        let Some(reply) = session.next() else { break };
        drop(reply?);
        done += 1;
    }
    Ok(())
}
