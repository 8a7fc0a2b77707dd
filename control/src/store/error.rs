//! Why the store could not do something.

use ferry_query::QueryError;

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Its folder does not exist.
    #[error("the store's folder {folder} does not exist: create it, or give another --store")]
    NoFolder {
        /// The folder.
        folder: String,
    },
    /// A newer Tensorferry made it.
    #[error(
        "the store has schema {found}, this binary knows up to {known}: use a newer binary, or \
         another --store"
    )]
    SchemaNewer {
        /// The schema of the store.
        found: i64,
        /// The newest that this binary knows.
        known: i64,
    },
    /// Its schema could not be brought up to date.
    #[error("cannot bring the store's schema up to date")]
    Migration(#[source] sqlx::migrate::MigrateError),
    /// The file was deleted, moved or replaced while it was open.
    #[error("the store's file {path} was removed or replaced: it is opened anew")]
    Gone {
        /// The file.
        path: String,
    },
    /// Another store stands where this one was.
    #[error("{path} now holds another store: restart the server to use it")]
    Replaced {
        /// The file.
        path: String,
    },
    /// Another process holds the lock.
    #[error("the store is locked by another process: end what writes to it")]
    Locked(#[source] sqlx::Error),
    /// The disk is full, or the store has grown to its bound.
    #[error("the store is full: free disk space, or delete rows, or raise store-bytes-max")]
    Full(#[source] sqlx::Error),
    /// The file may not be written.
    #[error("the store is read-only: give the server the right to write to it")]
    ReadOnly(#[source] sqlx::Error),
    /// It is not a store, or the disk fails.
    #[error("the store cannot be opened or used: check the file and its disk")]
    Broken(#[source] sqlx::Error),
    /// The store does not accept these rows, and never will.
    #[error("the store refuses the rows")]
    Rejected(#[source] sqlx::Error),
    /// No run of this id goes on.
    #[error("no run {id} goes on: `ferry runs list` shows those there are")]
    NoSuchRun {
        /// The id.
        id: i64,
    },
    /// The store cannot be read.
    #[error(transparent)]
    Query(#[from] QueryError),
}

impl StoreError {
    /// Whether the same call may succeed later, with nothing changed but the world.
    pub fn may_pass(&self) -> bool {
        !matches!(self, StoreError::Rejected(_) | StoreError::NoSuchRun { .. })
    }
}

impl From<sqlx::Error> for StoreError {
    /// The one place where SQLite's result codes become decisions.
    fn from(error: sqlx::Error) -> StoreError {
        let code = error.as_database_error().and_then(|error| error.code());
        match code.and_then(|code| code.parse::<i32>().ok()).map(|code| code & 0xff) {
            // SQLITE_BUSY, SQLITE_LOCKED
            Some(5 | 6) => StoreError::Locked(error),
            // SQLITE_READONLY
            Some(8) => StoreError::ReadOnly(error),
            // SQLITE_FULL
            Some(13) => StoreError::Full(error),
            // SQLITE_TOOBIG, SQLITE_CONSTRAINT, SQLITE_MISMATCH, SQLITE_RANGE
            Some(18 | 19 | 20 | 25) => StoreError::Rejected(error),
            _ => StoreError::Broken(error),
        }
    }
}
