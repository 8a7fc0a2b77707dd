//! What recording adds to a request.

use std::time::Instant;

use ferry_client::blocking::{Client, Session};
use ferry_client::{Transport, WaitPolicy};

use super::pair::quantiles;
use crate::work::pattern;
use crate::{Error, Progress};

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

/// What recording adds to a request over shm, both ends spinning.
#[derive(Clone, Debug)]
pub struct Recording {
    /// Bytes both ways.
    pub bytes: u64,
    /// Requests that each session has in flight.
    pub window: u32,
    /// Rounds of 1,000 requests of each session.
    pub rounds: usize,
    /// Requests of all sessions.
    pub requests: u64,
    /// Nanoseconds a request: the median over the rounds.
    pub on_ns: f64,
    /// The same where nothing is recorded.
    pub off_ns: f64,
    /// Quartiles of the difference.
    pub added_ns: [f64; 3],
    /// Timings that were stored.
    pub stored: u64,
    /// Timings that were not.
    pub lost: u64,
}

/// Measures it with one request in flight, and with several.
///
/// # Errors
/// The first request that fails.
pub fn recording(client: &Client, progress: &mut dyn Progress) -> Result<Vec<Recording>, Error> {
    let one = |window| {
        let before = client.flush();
        let costs = measure(client, window, progress)?;
        let after = client.flush();
        Ok(Recording {
            bytes: BYTES,
            window,
            rounds: ROUNDS,
            requests: RECORDS.len() as u64 * REQUESTS * ROUNDS as u64,
            on_ns: costs.median_of(|round| round.0),
            off_ns: costs.median_of(|round| round.1),
            added_ns: costs.of(|round| round.0 - round.1),
            stored: after.accepted.saturating_sub(before.accepted),
            lost: after.lost.saturating_sub(before.lost),
        })
    };
    WINDOWS.into_iter().map(one).collect()
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

fn measure(client: &Client, window: u32, progress: &mut dyn Progress) -> Result<Costs, Error> {
    let source = pattern(usize::try_from(BYTES).unwrap_or(usize::MAX));
    let mut sessions = Vec::new();
    for records in RECORDS {
        sessions.push((records, open(client, window, records)?));
    }
    for (_, session) in &mut sessions {
        drive(session, &source, window, WARM_UP)?;
    }
    let mut costs = Vec::with_capacity(ROUNDS);
    progress.begin(ROUNDS as u64, &format!("recording, window {window}"));
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
        progress.step();
    }
    progress.end();
    for (_, session) in sessions {
        session.close()?;
    }
    Ok(Costs(costs))
}

fn open(client: &Client, window: u32, records: bool) -> Result<Session, Error> {
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
fn drive(session: &mut Session, source: &[u8], window: u32, requests: u64) -> Result<(), Error> {
    let (mut sent, mut done) = (0, 0);
    while done < requests {
        while sent < requests && sent - done < u64::from(window) {
            let mut slot = session.slot()?;
            slot.input_mut(0)?.copy_from_slice(source);
            session.submit(slot)?;
            sent += 1;
        }
        let Some(reply) = session.next_reply() else { break };
        drop(reply?);
        done += 1;
    }
    Ok(())
}
