//! Why a query gave no answer, or not the whole one.

use std::time::Duration;

/// Why a query failed. The rows that came before it are right, but they are not all.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The statement is not one that reads.
    #[error("only one SELECT, WITH, VALUES or EXPLAIN statement is run here: {reason}")]
    Refused {
        /// What about it was refused.
        reason: String,
    },
    /// SQLite does not accept the statement.
    #[error("the statement failed: {message}")]
    Statement {
        /// What SQLite said.
        message: String,
    },
    /// The statement tried to change the store.
    #[error("the statement writes, and the store is open for reading only: use SELECT")]
    Writes,
    /// The statement ran for too long.
    #[error("the query was stopped after {limit:?}: ask for one run, or raise the time limit")]
    TimeLimit {
        /// The limit.
        limit: Duration,
    },
    /// There are more rows than asked for.
    #[error("the result has more than {limit} rows: add LIMIT, or raise the row limit")]
    RowLimit {
        /// The limit.
        limit: u64,
    },
    /// One value is too long.
    #[error("a value has {bytes} bytes, the limit is {limit}: cut it with substr()")]
    CellTooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// As many queries as allowed run already.
    #[error("{limit} queries run already: try again when one has ended")]
    Busy {
        /// How many may run.
        limit: usize,
    },
    /// SQLite would have to write into the folder to read the store.
    #[error(
        "the store at {path} has changes in {path}-wal, and its folder may not be written here, \
         which reading them needs: copy both files into a folder of your own and read them there"
    )]
    FolderReadOnly {
        /// The store's file.
        path: String,
    },
    /// The store cannot be opened or read.
    #[error("cannot read the store at {path}: check that it exists and may be read")]
    Unavailable {
        /// Where it should be.
        path: String,
        /// What went wrong.
        #[source]
        source: sqlx::Error,
    },
}

impl QueryError {
    /// Sorts what SQLite said while a statement ran into what the caller can do about it.
    pub(crate) fn from_sqlx(error: sqlx::Error) -> QueryError {
        if result_code(&error) == Some(READONLY) {
            return QueryError::Writes;
        }
        let message = error.as_database_error().map(|error| error.message().to_owned());
        QueryError::Statement { message: message.unwrap_or_else(|| error.to_string()) }
    }
}

/// SQLite's result code for a write where it may not.
const READONLY: i32 = 8;

/// The same where a file that it needs cannot be opened or made.
const CANTOPEN: i32 = 14;

/// SQLite's primary result code, without what it adds to it.
fn result_code(error: &sqlx::Error) -> Option<i32> {
    let code = error.as_database_error().and_then(|error| error.code());
    code.and_then(|code| code.parse::<i32>().ok()).map(|code| code & 0xff)
}

/// Whether SQLite would have had to make files beside the store, which it may not.
pub(crate) fn may_not_write_beside(error: &sqlx::Error) -> bool {
    matches!(result_code(error), Some(READONLY | CANTOPEN))
}
