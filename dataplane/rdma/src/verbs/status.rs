//! What a completion can end with.

use std::fmt;

/// The status of a completion, as a number: a device or a later libibverbs may know more of them
/// than this list.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CompletionStatus(pub u32);

/// By number, from 0. Names and meaning: the manual page `ibv_poll_cq(3)`.
const NAMES: [&str; 24] = [
    "success",
    "local length error",
    "local QP operation error",
    "local EE context operation error",
    "local protection error",
    "work request flushed",
    "memory window bind error",
    "bad response",
    "local access error",
    "remote invalid request",
    "remote access error",
    "remote operation error",
    "transport retries exceeded",
    "receiver-not-ready retries exceeded",
    "local RDD violation",
    "remote invalid RD request",
    "remote aborted",
    "invalid EE context number",
    "invalid EE context state",
    "fatal error",
    "response timeout",
    "general error",
    "tag matching error",
    "tag matching rendezvous incomplete",
];

impl CompletionStatus {
    /// Done.
    pub const SUCCESS: CompletionStatus = CompletionStatus(0);
    /// The queue pair had failed before, or was told to stop.
    pub const FLUSHED: CompletionStatus = CompletionStatus(5);
    /// The key, the address or the right to write did not fit.
    pub const REMOTE_ACCESS: CompletionStatus = CompletionStatus(10);
    /// The peer did not acknowledge: it is gone, or the network is.
    pub const RETRIES_EXCEEDED: CompletionStatus = CompletionStatus(12);

    /// Whether the work was done.
    pub fn is_success(self) -> bool {
        self == CompletionStatus::SUCCESS
    }
}

impl fmt::Display for CompletionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = usize::try_from(self.0).ok().and_then(|at| NAMES.get(at));
        write!(f, "{} (completion status {})", name.unwrap_or(&"unknown status"), self.0)
    }
}

impl fmt::Debug for CompletionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use crate::verbs::sys::ibv_wc_status as raw;

    use super::*;

    #[test]
    fn numbers_are_those_of_verbs_and_unknown_ones_stay_numbers() {
        assert_eq!(CompletionStatus::FLUSHED.0, raw::IBV_WC_WR_FLUSH_ERR);
        assert_eq!(CompletionStatus::REMOTE_ACCESS.0, raw::IBV_WC_REM_ACCESS_ERR);
        assert_eq!(CompletionStatus::RETRIES_EXCEEDED.0, raw::IBV_WC_RETRY_EXC_ERR);
        assert_eq!(NAMES.len(), raw::IBV_WC_TM_RNDV_INCOMPLETE as usize + 1);
        let text = |status| CompletionStatus(status).to_string();
        assert_eq!(
            text(raw::IBV_WC_RNR_RETRY_EXC_ERR),
            "receiver-not-ready retries exceeded (completion status 13)"
        );
        assert_eq!(text(4711), "unknown status (completion status 4711)");
        assert_eq!(text(u32::MAX), "unknown status (completion status 4294967295)");
    }
}
