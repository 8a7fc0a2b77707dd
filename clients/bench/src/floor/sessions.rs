//! What a thousand open sessions cost.

use std::fs;
use std::time::{Duration, Instant};

use ferry_client::Transport;
use ferry_client::blocking::{Client, Session};
use ferry_core::nanos;

use super::pair::Plan;
use crate::own_server::OwnServer;
use crate::summary::Distribution;
use crate::{Error, Progress};

const SESSIONS: usize = 1000;

/// How long the server may take to give memory back.
const BACK_WITHIN: Duration = Duration::from_secs(5);

/// What many open sessions cost.
#[derive(Clone, Debug)]
pub struct Sessions {
    /// How many.
    pub sessions: usize,
    /// Slots of each; `None` where no session was opened.
    pub slots: Option<u32>,
    /// How long opening each took, but for the first.
    pub opening: Distribution,
    /// Memory of the server before.
    pub server_before: u64,
    /// Memory of server and client while all are open.
    pub both_open: u64,
    /// Memory of the server once all were closed.
    pub server_after: u64,
}

/// Opens a thousand sessions over shm.
///
/// # Errors
/// The first session that is not opened, or request that fails.
pub fn sessions(
    client: &Client,
    server: &OwnServer,
    plan: &Plan,
    progress: &mut dyn Progress,
) -> Result<Sessions, Error> {
    let pid = server.pid();
    let before = pss_bytes(pid);
    progress.begin(SESSIONS as u64, "sessions");
    let (mut opening, mut open_ones) = (Distribution::new(), Vec::with_capacity(SESSIONS));
    for number in 0..SESSIONS {
        let start = Instant::now();
        let mut session = open(client, plan)?;
        if number > 0 {
            opening.add(nanos(start.elapsed()));
        }
        // Used once, so that its memory is really there.
        let mut slot = session.slot()?;
        slot.input_mut(0)?.fill(1);
        drop(session.infer(slot)?);
        open_ones.push(session);
        progress.step();
    }
    progress.end();
    // Shared pages count half in each of two processes that map them: both halves together are
    // what the machine pays.
    let open_now = pss_bytes(pid) + pss_bytes(std::process::id());
    let layout = open_ones.first().map(|session| session.agreed().layout);
    drop(open_ones);
    let deadline = Instant::now() + BACK_WITHIN;
    let mut after = pss_bytes(pid);
    while after > before + (before >> 1) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
        after = pss_bytes(pid);
    }
    Ok(Sessions {
        sessions: SESSIONS,
        slots: layout.map(|layout| layout.slots),
        opening,
        server_before: before,
        both_open: open_now,
        server_after: after,
    })
}

fn open(client: &Client, plan: &Plan) -> Result<Session, Error> {
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
