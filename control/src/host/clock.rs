//! The wall clock, in the unit of the store.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970 now. A clock before 1970 counts as 1970.
pub(crate) fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
