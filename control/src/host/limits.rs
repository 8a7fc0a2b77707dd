//! The limit of descriptors: sessions take some.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that a session may take on its lane, with room.
const PER_SESSION: u64 = 4;

/// Descriptors that the server takes by itself: lanes, store, connections of the control plane.
const OWN: u64 = 256;

/// With fewer, the server does not get as far as serving.
const NEEDED: u64 = 128;

/// Of the limit, the part that connections of the control plane may take in any case.
const CONNECTIONS: u64 = 4;

/// What to do where the limit is too low.
const FIX: &str = "raise the hard limit before the start (ulimit -Hn 65536, or LimitNOFILE= of \
                   systemd), or lower quota-sessions";

/// How many descriptors so many sessions need.
fn needed(sessions: u64) -> u64 {
    sessions.saturating_mul(PER_SESSION).saturating_add(OWN)
}

/// Raises the limit of this process to the hard one, and says so; warns where that is not enough
/// for so many sessions. For a process that is the server: the limit is the whole process's.
pub fn raise_descriptors(sessions: u64) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
            Ok(()) => tracing::info!(from = ?current, to = ?maximum, "limit of descriptors raised"),
            Err(error) => tracing::warn!(?current, ?maximum, %error, "descriptors: not raised"),
        }
    }
    if let Err((why, fix)) = descriptors(sessions) {
        tracing::warn!(fix, "{why}");
    }
}

/// Whether the limit is enough to serve anybody at all.
///
/// # Errors
/// What is needed, and what to do.
pub fn enough_to_start() -> Result<(), String> {
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < NEEDED => Err(format!(
            "{limit} descriptors are too few to serve: at least {NEEDED} are needed, and 4 more \
             for each session; {FIX}"
        )),
        _ => Ok(()),
    }
}

/// How many connections the control plane may have beside so many sessions: as many as are wanted,
/// or what the limit has room for, and says so.
pub(crate) fn connections(wanted: usize, sessions: u64) -> usize {
    let room = getrlimit(Resource::Nofile).current.map(|limit| room(limit, sessions));
    let room = room.and_then(|room| usize::try_from(room).ok()).unwrap_or(usize::MAX);
    if room < wanted {
        tracing::warn!(wanted, fix = FIX, "descriptors are enough for {room} connections only");
    }
    wanted.min(room).max(1)
}

/// Of so many descriptors, those for connections: what sessions leave, and a part at least.
fn room(limit: u64, sessions: u64) -> u64 {
    (limit / CONNECTIONS).max(limit.saturating_sub(needed(sessions)))
}

/// The limit as it is: what it allows, or why it is too low for so many sessions and what to do.
///
/// # Errors
/// Where it is too low.
pub fn descriptors(sessions: u64) -> Result<String, (String, &'static str)> {
    match getrlimit(Resource::Nofile).current {
        None => Ok("unlimited descriptors".into()),
        Some(limit) if limit >= needed(sessions) => Ok(format!("{limit} descriptors")),
        Some(limit) => {
            let enough = limit.saturating_sub(OWN) / PER_SESSION;
            let needed = needed(sessions);
            let why = format!(
                "{limit} descriptors are enough for some {enough} sessions; the {sessions} that \
                 quotas allow may need {needed}"
            );
            Err((why, FIX))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_have_what_sessions_leave_and_a_quarter_at_least() {
        assert_eq!(room(20_000, 4096), 5000);
        assert_eq!(room(20_000, 1000), 20_000 - 4256);
        assert_eq!(room(1024, u64::MAX), 256);
    }
}
