//! The store in SQLite: one connection that writes, a fresh one for each query.

mod events;
mod insert;
mod migrations;
mod open;
mod runs;

use std::sync::Arc;
use std::time::Duration;

use ferry_query::{Location, QueryError, QueryLimits, Reader, Rows};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sqlx::Executor;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{Mutex, Semaphore};

use super::{Batch, NewRun, Run, RunEnd, StoreError, TimingStore};
#[cfg(test)]
pub(super) use migrations::migrator;
use open::{Known, Open};

/// Bounds of a store in SQLite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteConfig {
    /// How long a write waits for a lock of another process before it fails and is tried again.
    pub busy_timeout: Duration,
    /// Queries that may run at once.
    pub queries_max: usize,
    /// Most that the file may grow to, in bytes, its log not counted: what comes on top is refused
    /// as on a full disk. `None`: whatever the disk holds.
    pub bytes_max: Option<u64>,
}

impl Default for SqliteConfig {
    fn default() -> Self {
        SqliteConfig { busy_timeout: Duration::from_millis(250), queries_max: 4, bytes_max: None }
    }
}

/// Own statements that read at once.
const OWN_TURNS: usize = 4;

/// A store in SQLite.
#[derive(Debug)]
pub struct SqliteStore {
    location: Location,
    config: SqliteConfig,
    reader: Reader,
    /// Of the server's own statements that read: apart from the queries of people, which may take
    /// long, and short enough to be waited for.
    own_turns: Semaphore,
    insert: Arc<insert::Statements>,
    writing: Mutex<Writing>,
    /// Settings that a test gives each new connection, to make it fail as a disk would.
    #[cfg(test)]
    pub(super) test_pragmas: std::sync::Mutex<Vec<(&'static str, String)>>,
}

/// What the writing side holds.
#[derive(Debug, Default)]
struct Writing {
    /// `None` while the store fails: a connection that failed is never used again, since what
    /// state it is in depends on where it failed.
    open: Option<Open>,
    /// What a file that is made anew has to be told.
    known: Known,
    /// A store in memory ends with its last connection: this one only keeps it.
    anchor: Option<SqliteConnection>,
}

impl SqliteStore {
    /// Opens a store, makes it where there is none, and brings its schema up to date.
    ///
    /// # Errors
    ///
    /// Where it cannot be opened or written, or is not one that this binary knows.
    pub async fn open(location: Location, config: SqliteConfig) -> Result<SqliteStore, StoreError> {
        let store = SqliteStore {
            reader: Reader::new(location.clone(), config.queries_max),
            own_turns: Semaphore::new(OWN_TURNS),
            insert: Arc::new(insert::Statements::new()),
            writing: Mutex::default(),
            location,
            config,
            #[cfg(test)]
            test_pragmas: std::sync::Mutex::default(),
        };
        {
            let mut writing = store.writing.lock().await;
            let open = store.connect(&writing.known).await?;
            if store.location.path().is_none() {
                writing.anchor = Some(store.connect(&writing.known).await?.connection);
            }
            writing.open = Some(open);
        }
        Ok(store)
    }

    /// The writing connection, taken out: whoever fails, or is dropped half-way, does not put it
    /// back, and with it goes the transaction that it was in.
    async fn take(&self, writing: &mut Writing) -> Result<Open, StoreError> {
        match writing.open.take() {
            Some(open) => match open.check(&self.location) {
                Ok(()) => Ok(open),
                Err(error) => {
                    open.close().await;
                    Err(error)
                }
            },
            None => self.connect(&writing.known).await,
        }
    }

    /// Puts the connection back where it served well, and closes it where it did not: before
    /// another is opened, since both would share the log's name.
    async fn settle<T>(
        writing: &mut Writing,
        open: Open,
        outcome: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match outcome {
            Ok(_) => writing.open = Some(open),
            Err(_) => open.close().await,
        }
        outcome
    }

    async fn write_batch(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut writing = self.writing.lock().await;
        let mut open = self.take(&mut writing).await?;
        let outcome = self.transact(&mut open, batch).await;
        Self::settle(&mut writing, open, outcome).await?;
        writing.known.note(batch);
        Ok(())
    }

    async fn transact(&self, open: &mut Open, batch: &Batch) -> Result<(), StoreError> {
        open.bound(!batch.requests.is_empty() || !batch.events.is_empty()).await?;
        let connection = &mut open.connection;
        connection.execute("BEGIN IMMEDIATE").await?;
        events::insert(connection, batch).await?;
        self.insert.requests(connection, batch).await?;
        events::insert_lost(connection, batch).await?;
        connection.execute("COMMIT").await?;
        // What went into a file that was deleted meanwhile is not stored.
        open.check(&self.location)
    }
}

impl TimingStore for SqliteStore {
    fn start_run<'a>(&'a self, run: &'a NewRun) -> BoxFuture<'a, Result<i64, StoreError>> {
        async move {
            let mut writing = self.writing.lock().await;
            let mut open = self.take(&mut writing).await?;
            let outcome = match open.bound(true).await {
                Ok(()) => runs::insert(&mut open.connection, None, run).await,
                Err(error) => Err(error),
            };
            let id = Self::settle(&mut writing, open, outcome).await?;
            writing.known.run_started(id, run);
            Ok(id)
        }
        .boxed()
    }

    fn finish_run<'a>(&'a self, id: i64, end: &'a RunEnd) -> BoxFuture<'a, Result<(), StoreError>> {
        async move {
            let mut writing = self.writing.lock().await;
            let mut open = self.take(&mut writing).await?;
            let outcome = match open.bound(false).await {
                Ok(()) => runs::finish(&mut open.connection, id, end).await,
                Err(error) => Err(error),
            };
            let found = Self::settle(&mut writing, open, outcome).await?;
            writing.known.run_finished(id);
            if found { Ok(()) } else { Err(StoreError::NoSuchRun { id }) }
        }
        .boxed()
    }

    fn list_runs<'a>(
        &'a self,
        tenant: Option<&'a str>,
        runs_max: u32,
    ) -> BoxFuture<'a, Result<Vec<Run>, StoreError>> {
        async move {
            let _turn = self.own_turns.acquire().await;
            let mut connection = self.reader.connect().await?;
            runs::list(&mut connection, tenant, runs_max).await
        }
        .boxed()
    }

    fn count_requests<'a>(
        &'a self,
        runs: &'a [i64],
    ) -> BoxFuture<'a, Result<Vec<(i64, u64)>, StoreError>> {
        async move {
            let _turn = self.own_turns.acquire().await;
            let mut connection = self.reader.connect().await?;
            runs::counts(&mut connection, runs).await
        }
        .boxed()
    }

    fn get_run(&self, id: i64) -> BoxFuture<'_, Result<Option<Run>, StoreError>> {
        async move {
            let _turn = self.own_turns.acquire().await;
            let mut connection = self.reader.connect().await?;
            runs::get(&mut connection, id).await
        }
        .boxed()
    }

    fn write<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Result<(), StoreError>> {
        self.write_batch(batch).boxed()
    }

    fn query<'a>(
        &'a self,
        sql: &'a str,
        limits: QueryLimits,
    ) -> BoxFuture<'a, Result<Rows, QueryError>> {
        self.reader.query(sql, limits).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            if let Some(open) = self.writing.lock().await.open.take() {
                open.close().await;
            }
        }
        .boxed()
    }
}

/// A number as SQLite keeps it. Cut at 2^63-1: as nanoseconds these are 292 years.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
