//! Opens the file, notices when it is no longer there, and tells a new one what it has to know.

use std::collections::{BTreeMap, HashMap};
use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use ferry_core::SessionId;
use ferry_query::Location;
use sqlx::sqlite::{SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, SqlSafeStr};

use super::{SqliteStore, events, migrations, runs};
use crate::store::{Batch, Event, NewRun, SessionRow, StoreError};

/// Unfinished runs kept for a file that is made anew; more are not known to it.
const RUNS_MAX: usize = 1024;
/// Open sessions kept for a file that is made anew; more are not known to it.
const SESSIONS_MAX: usize = 1 << 16;
/// The write-ahead log is copied into the file whenever it has grown by this many pages (16 MiB):
/// seldom enough that it costs little, often enough that reading stays fast.
const CHECKPOINT_PAGES: &str = "4096";
/// What a file made by SQLite has by default; one with larger pages is bounded later, by as much.
const PAGE_BYTES: u64 = 4096;
/// Pages that rows leave free, of a bounded file: 128 KiB.
const PAGES_KEPT: u64 = 32;
/// A log that a long query kept from being reused is cut back to this.
const LOG_BYTES_MAX: &str = "67108864";

/// An open store.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) connection: SqliteConnection,
    /// Device and inode of the file; `None` in memory.
    file: Option<(u64, u64)>,
    /// Most pages for rows, and in all.
    pages_max: Option<(u64, u64)>,
}

impl Open {
    /// Makes sure that the file is still the one that was opened: SQLite goes on writing into a
    /// deleted one without a word.
    pub(crate) fn check(&self, location: &Location) -> Result<(), StoreError> {
        match location.path() {
            Some(path) if identity(path) != self.file => {
                Err(StoreError::Gone { path: path.display().to_string() })
            }
            _ => Ok(()),
        }
    }

    /// Sets how far the file may grow by what is stored next. The last pages are kept for what
    /// tells of the rest: ends of runs, and how many of their rows are lost.
    pub(crate) async fn bound(&mut self, is_for_rows: bool) -> Result<(), StoreError> {
        let Some((rows, all)) = self.pages_max else { return Ok(()) };
        let pages = if is_for_rows { rows } else { all };
        let sql = AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
        self.connection.execute(sql.into_sql_str()).await?;
        Ok(())
    }

    /// Closes the connection, whatever state it is in, and waits until it is.
    pub(crate) async fn close(self) {
        if let Err(error) = sqlx::Connection::close(self.connection).await {
            tracing::warn!(%error, "the store was not closed cleanly");
        }
    }
}

/// Makes a file that only its owner reads, where there is none: timings of all tenants stand in it.
/// SQLite gives its log the same rights. What it cannot make, SQLite says why.
fn keep_private(path: &Path) {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    drop(made);
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

impl SqliteStore {
    /// Opens a connection that writes.
    pub(super) async fn connect(&self, known: &Known) -> Result<Open, StoreError> {
        let path = self.location.path();
        let folder = path.and_then(Path::parent).filter(|f| !f.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            return Err(StoreError::NoFolder { folder: folder.display().to_string() });
        }
        let options = self
            .location
            .connect_options()
            .create_if_missing(true)
            .busy_timeout(self.config.busy_timeout)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(false)
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
            .pragma("journal_size_limit", LOG_BYTES_MAX)
            .disable_statement_logging();
        let pages_max = self.config.bytes_max.map(|bytes| {
            let all = (bytes / PAGE_BYTES).max(1);
            (all.saturating_sub(PAGES_KEPT.min(all / 4)).max(1), all)
        });
        let options = match pages_max {
            // SQLite takes less than there is as "no page more".
            Some((_, all)) => options.pragma("max_page_count", all.to_string()),
            None => options,
        };
        if let Some(path) = path {
            keep_private(path);
        }
        #[cfg(test)]
        let options = self
            .test_pragmas
            .lock()
            .unwrap()
            .iter()
            .cloned()
            .fold(options, |options, (key, value)| options.pragma(key, value));
        let mut connection = options.connect().await?;
        migrations::migrate(&mut connection).await?;
        known.restore(&mut connection, &self.location).await?;
        Ok(Open { connection, file: path.and_then(identity), pages_max })
    }
}

/// Runs and sessions that go on: where the file is deleted and made anew, the requests that follow
/// refer to them.
#[derive(Debug, Default)]
pub(crate) struct Known {
    runs: BTreeMap<i64, NewRun>,
    sessions: HashMap<SessionId, SessionRow>,
}

impl Known {
    pub(crate) fn run_started(&mut self, id: i64, run: &NewRun) {
        if self.runs.len() < RUNS_MAX {
            self.runs.insert(id, run.clone());
        }
    }

    pub(crate) fn run_finished(&mut self, id: i64) {
        self.runs.remove(&id);
    }

    /// Notes which sessions a stored batch opened and closed.
    pub(crate) fn note(&mut self, batch: &Batch) {
        for event in &batch.events {
            match event {
                Event::Opened(session) if self.sessions.len() < SESSIONS_MAX => {
                    let mut session = session.as_ref().clone();
                    session.run = batch.run(session.run);
                    self.sessions.insert(session.id, session);
                }
                Event::Closed { id, .. } => {
                    self.sessions.remove(id);
                }
                _ => {}
            }
        }
    }

    /// Adds to a file what it lacks.
    async fn restore(
        &self,
        connection: &mut SqliteConnection,
        location: &Location,
    ) -> Result<(), StoreError> {
        let mut is_new = false;
        for (&id, run) in &self.runs {
            match runs::get(connection, id).await? {
                None => {
                    runs::insert(connection, Some(id), run).await?;
                    is_new = true;
                }
                Some(found) if found.new.started_unix_ns == run.started_unix_ns => {}
                Some(_) => return Err(StoreError::Replaced { path: location.to_string() }),
            }
        }
        if is_new {
            for session in self.sessions.values() {
                events::insert_session(connection, session.run, session).await?;
            }
        }
        Ok(())
    }
}
