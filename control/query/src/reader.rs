//! Runs one statement on a read-only connection of its own, within limits.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Column, ConnectOptions, Connection, Executor, SqlSafeStr, Statement};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use crate::cell::cells;
use crate::error::may_not_write_beside;
use crate::{Cell, Location, QueryError, bounds, check};

/// Rows that wait between SQLite and a slow caller; more would only hold memory.
const ROWS_WAITING_MAX: usize = 16;
/// SQLite instructions between two looks at the clock: well below a millisecond.
const STEPS_PER_CHECK: i32 = 10_000;
/// How long to wait for a lock that another process holds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// What one query may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryLimits {
    /// Most rows; one more is an error.
    pub rows: u64,
    /// Longest time from the start to the last row.
    pub time: Duration,
    /// Longest text or blob, in bytes.
    pub cell_bytes: usize,
}

impl Default for QueryLimits {
    fn default() -> Self {
        QueryLimits { rows: 100_000, time: Duration::from_secs(30), cell_bytes: 1 << 20 }
    }
}

/// Runs queries on one store. Each gets a connection of its own, so that one which is stopped
/// leaves nothing behind, and a store that was replaced is seen.
#[derive(Clone, Debug)]
pub struct Reader {
    location: Location,
    permits: Arc<Semaphore>,
    queries_max: usize,
}

impl Reader {
    /// A reader that runs at most `queries_max` queries at once.
    pub fn new(location: Location, queries_max: usize) -> Reader {
        Reader { location, permits: Arc::new(Semaphore::new(queries_max)), queries_max }
    }

    /// Opens a connection that cannot write.
    ///
    /// # Errors
    ///
    /// [`QueryError::Unavailable`] where there is no store or it cannot be read,
    /// [`QueryError::FolderReadOnly`] where that takes a folder that can be written.
    pub async fn connect(&self) -> Result<SqliteConnection, QueryError> {
        let options = self.location.connect_options().busy_timeout(BUSY_TIMEOUT);
        match &self.location {
            Location::File(path) => self.connect_file(options.read_only(true), path).await,
            // Connections to one store in memory share locks; without this a slow reader would
            // make the writer wait.
            Location::Memory { .. } => self.open(options.pragma("read_uncommitted", "ON")).await,
        }
    }

    /// A store in WAL mode is read through files beside it, which SQLite makes where they are
    /// missing. Where the folder may not be written, a store that was closed in order can still be
    /// read: all of it is in its one file, which nobody changes as long as there is no `-wal`.
    async fn connect_file(
        &self,
        options: SqliteConnectOptions,
        path: &Path,
    ) -> Result<SqliteConnection, QueryError> {
        // Whichever reads the file first is told: opening, or a look.
        match self.open(options.clone()).await {
            Err(QueryError::Unavailable { source, .. }) if may_not_write_beside(&source) => {}
            Err(error) => return Err(error),
            Ok(mut connection) => {
                let looked = sqlx::query("SELECT 1 FROM sqlite_schema LIMIT 1");
                match looked.fetch_optional(&mut connection).await {
                    Err(error) if may_not_write_beside(&error) => {}
                    // What else is wrong with the file is told by the statement itself.
                    _ => return Ok(connection),
                }
            }
        }
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        if std::fs::metadata(log).is_ok_and(|log| log.len() > 0) {
            return Err(QueryError::FolderReadOnly { path: path.display().to_string() });
        }
        self.open(options.immutable(true)).await
    }

    async fn open(&self, options: SqliteConnectOptions) -> Result<SqliteConnection, QueryError> {
        options
            .pragma("query_only", "ON")
            .pragma("trusted_schema", "OFF")
            // What is sorted goes to a file beyond this, in KiB.
            .pragma("cache_size", "-8192")
            .pragma("temp_store", "FILE")
            // Rows that sqlx holds ready; the longest have megabytes.
            .row_buffer_size(4)
            .disable_statement_logging()
            .connect()
            .await
            .map_err(|source| QueryError::Unavailable { path: self.location.to_string(), source })
    }

    /// Runs one statement.
    ///
    /// # Errors
    ///
    /// Here what can be told before the first row; in the stream what happens later.
    pub async fn query(&self, sql: &str, limits: QueryLimits) -> Result<Rows, QueryError> {
        check(sql)?;
        let permit = Arc::clone(&self.permits)
            .try_acquire_owned()
            .map_err(|_closed_or_full| QueryError::Busy { limit: self.queries_max })?;
        let deadline = Instant::now() + limits.time;
        let stop = Arc::new(AtomicBool::new(false));
        let opened = tokio::time::timeout_at(deadline, async {
            let mut connection = self.connect().await?;
            watch(&mut connection, deadline, Arc::clone(&stop), permit).await?;
            let statement = connection
                .prepare(AssertSqlSafe(sql.to_owned()).into_sql_str())
                .await
                .map_err(QueryError::from_sqlx)?;
            let columns = statement.columns().iter().map(|column| column.name().to_owned());
            Ok((columns.collect::<Vec<_>>(), connection))
        });
        let late = |_elapsed| QueryError::TimeLimit { limit: limits.time };
        let (columns, connection) = opened.await.map_err(late)??;
        let (sender, receiver) = mpsc::channel(ROWS_WAITING_MAX);
        let running = Running { connection, deadline, limits, stop };
        tokio::spawn(running.run(sql.to_owned(), sender));
        Ok(Rows { columns: columns.into(), receiver })
    }
}

/// Makes SQLite itself look at the deadline: it may compute for ever without giving a row. The
/// permit goes along, so that it is held until the connection is really closed.
async fn watch(
    connection: &mut SqliteConnection,
    deadline: Instant,
    stop: Arc<AtomicBool>,
    permit: OwnedSemaphorePermit,
) -> Result<(), QueryError> {
    let mut handle = connection.lock_handle().await.map_err(QueryError::from_sqlx)?;
    bounds::set(&mut handle);
    handle.set_progress_handler(STEPS_PER_CHECK, move || {
        let _held = &permit;
        !stop.load(Ordering::Relaxed) && Instant::now() < deadline
    });
    Ok(())
}

/// A statement under way.
struct Running {
    connection: SqliteConnection,
    deadline: Instant,
    limits: QueryLimits,
    stop: Arc<AtomicBool>,
}

impl Running {
    async fn run(mut self, sql: String, sender: mpsc::Sender<Result<Vec<Cell>, QueryError>>) {
        let late = || QueryError::TimeLimit { limit: self.limits.time };
        let mut rows =
            sqlx::query(AssertSqlSafe(sql)).persistent(false).fetch(&mut self.connection);
        let mut count = 0_u64;
        let end = loop {
            let row = tokio::select! {
                () = sender.closed() => break None,
                row = tokio::time::timeout_at(self.deadline, rows.next()) => row,
            };
            let row = match row {
                Err(_elapsed) => break Some(late()),
                Ok(None) => break None,
                Ok(Some(Err(_))) if Instant::now() >= self.deadline => break Some(late()),
                Ok(Some(Err(error))) => break Some(QueryError::from_sqlx(error)),
                Ok(Some(Ok(row))) => row,
            };
            count += 1;
            if count > self.limits.rows {
                break Some(QueryError::RowLimit { limit: self.limits.rows });
            }
            let cells = match cells(&row, self.limits.cell_bytes) {
                Ok(cells) => cells,
                Err(error) => break Some(error),
            };
            match tokio::time::timeout_at(self.deadline, sender.send(Ok(cells))).await {
                Err(_elapsed) => break Some(late()),
                Ok(Err(_caller_left)) => break None,
                Ok(Ok(())) => {}
            }
        };
        self.stop.store(true, Ordering::Relaxed);
        drop(rows);
        // Waited for, so that nothing has the store open once the rows have ended: a writer that
        // closes it while a reader has it open leaves its log behind.
        self.connection.close().await.ok();
        if let Some(error) = end {
            // A caller that left needs no error.
            sender.send(Err(error)).await.ok();
        }
    }
}

/// The rows of a result, as they come. Dropping it stops the query.
#[derive(Debug)]
pub struct Rows {
    columns: Arc<[String]>,
    receiver: mpsc::Receiver<Result<Vec<Cell>, QueryError>>,
}

impl Rows {
    /// The names of the columns, known before the first row and where there is none.
    pub fn columns(&self) -> &Arc<[String]> {
        &self.columns
    }

    /// The next row; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Vec<Cell>, QueryError>> {
        self.receiver.recv().await
    }

    /// Every row.
    ///
    /// # Errors
    ///
    /// The first error, and then no row at all.
    pub async fn all(mut self) -> Result<Vec<Vec<Cell>>, QueryError> {
        let mut rows = Vec::new();
        while let Some(row) = self.next().await {
            rows.push(row?);
        }
        Ok(rows)
    }
}

impl Stream for Rows {
    type Item = Result<Vec<Cell>, QueryError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(context)
    }
}
