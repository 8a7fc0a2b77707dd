//! Where every timing ends up: runs, sessions and one row per request, in SQL.
//!
//! The hot path only puts a record into a bounded queue ([`Recorder::record`]); one [`Writer`]
//! takes them out in batches and gives them to a [`TimingStore`]. What could not be stored is
//! counted and shown, never hidden: in [`StoreHealth`] at once, and in `runs.lost` as soon as a
//! number can be written, which finds room in a store that is full. A store that fails never stops
//! serving.

mod error;
mod health;
mod lost;
mod recorder;
mod rows;
mod sqlite;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;

use futures_util::future::BoxFuture;

pub use ferry_query::{Cell, Location, QueryError, QueryLimits, Rows};

pub use error::StoreError;
pub use health::{StoreHealth, StoreState};
pub use recorder::{FlushError, Recorder};
pub use rows::{
    Batch, Connection, Event, Machine, ModelRow, NewRun, Refusal, ResourceSample, Run, RunEnd,
    SessionRow,
};
pub use sqlite::{SqliteConfig, SqliteStore};
pub use writer::{Writer, WriterConfig};

/// A database that keeps runs and timings.
///
/// One writer calls [`TimingStore::write`]; everything else may be called from anywhere. An
/// implementation opens its connection again by itself: the caller only repeats what failed.
pub trait TimingStore: Send + Sync + fmt::Debug {
    /// Notes that a run began, and gives its id, which is never 0.
    fn start_run<'a>(&'a self, run: &'a NewRun) -> BoxFuture<'a, Result<i64, StoreError>>;

    /// Notes that a run ended. [`StoreError::NoSuchRun`] where none of this id goes on.
    fn finish_run<'a>(&'a self, id: i64, end: &'a RunEnd) -> BoxFuture<'a, Result<(), StoreError>>;

    /// The latest runs of a tenant, or of all, newest first, at most `runs_max`.
    fn list_runs<'a>(
        &'a self,
        tenant: Option<&'a str>,
        runs_max: u32,
    ) -> BoxFuture<'a, Result<Vec<Run>, StoreError>>;

    /// One run; `None` where there is none of this id.
    fn get_run(&self, id: i64) -> BoxFuture<'_, Result<Option<Run>, StoreError>>;

    /// How many requests of each of these runs are stored.
    fn count_requests<'a>(
        &'a self,
        runs: &'a [i64],
    ) -> BoxFuture<'a, Result<Vec<(i64, u64)>, StoreError>>;

    /// Stores a batch wholly or not at all, its events before its requests.
    fn write<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Runs one statement that reads.
    fn query<'a>(
        &'a self,
        sql: &'a str,
        limits: QueryLimits,
    ) -> BoxFuture<'a, Result<Rows, QueryError>>;

    /// Lets go of the database. What is called later opens it again.
    fn close(&self) -> BoxFuture<'_, ()>;
}
