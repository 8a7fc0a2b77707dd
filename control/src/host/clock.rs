//! The wall clock, in the unit of the store.

use std::time::{SystemTime, UNIX_EPOCH};

use ferry_core::nanos;

/// Nanoseconds since 1970 now. A clock before 1970 counts as 1970.
pub(crate) fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    nanos(since)
}
