//! What SQLite itself must not exceed on behalf of a query. sqlx has no way to say it, so that this
//! is the one module of the crate that calls SQLite by hand.

use libsqlite3_sys::{SQLITE_LIMIT_COLUMN, SQLITE_LIMIT_LENGTH, sqlite3_limit};
use sqlx::sqlite::LockedSqliteHandle;

/// Longest text, blob or stored row that a query may make on its way, in bytes: four times the
/// longest cell that is given out.
const LENGTH_MAX: i32 = 4 << 20;

/// Most columns of a result; the widest view has some forty.
const COLUMNS_MAX: i32 = 256;

/// Sets the bounds of one connection.
pub(crate) fn set(handle: &mut LockedSqliteHandle<'_>) {
    for (limit, most) in [(SQLITE_LIMIT_LENGTH, LENGTH_MAX), (SQLITE_LIMIT_COLUMN, COLUMNS_MAX)] {
        let raw = handle.as_raw_handle().as_ptr();
        // SAFETY: `raw` is an open connection, since `handle` borrows the one that it is of, and
        // holds its lock: nobody else calls SQLite on it meanwhile. The limits are known numbers,
        // and the call only stores one of them.
        unsafe { sqlite3_limit(raw, limit, most) };
    }
}
