//! The limit of descriptors: sessions take some.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that a session may take on its lane, with room.
const PER_SESSION: u64 = 4;

/// Descriptors that the server takes by itself: lanes, store, connections of the control plane.
const OWN: u64 = 256;

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
