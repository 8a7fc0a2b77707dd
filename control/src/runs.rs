//! Runs that clients started, as far as a server must remember them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::ApiError;
use crate::store::TimingStore;

/// Most runs whose numbers are remembered; further ones are looked up in the store each time.
const KNOWN_MAX: usize = 65_536;

/// The runs that are known to exist, and what their clients lost.
#[derive(Debug, Default)]
pub struct RunBook {
    inner: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    known: HashSet<i64>,
    /// Timings that clients had to drop, by run, until the run is finished.
    lost: HashMap<i64, u64>,
    /// Runs that are not finished: their resources are sampled.
    going_on: HashSet<i64>,
}

impl RunBook {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run was started.
    pub fn started(&self, run: i64) {
        let mut book = self.book();
        if book.known.len() < KNOWN_MAX {
            book.known.insert(run);
            book.going_on.insert(run);
        }
    }

    /// A run is finished; how many timings its clients had to drop.
    pub fn finished(&self, run: i64) -> u64 {
        let mut book = self.book();
        book.going_on.remove(&run);
        book.lost.remove(&run).unwrap_or(0)
    }

    /// Every run that goes on, with what its clients lost; none does afterwards.
    pub fn take_going_on(&self) -> Vec<(i64, u64)> {
        let runs = self.going_on();
        runs.into_iter().map(|run| (run, self.finished(run))).collect()
    }

    /// Notes timings that a client had to drop.
    pub fn lost(&self, run: i64, rows: u64) {
        if rows > 0 {
            let mut book = self.book();
            let lost = book.lost.entry(run).or_default();
            *lost = lost.saturating_add(rows);
        }
    }

    /// The runs that go on.
    pub fn going_on(&self) -> Vec<i64> {
        self.book().going_on.iter().copied().collect()
    }

    /// Checks that a client may name `run`: 0, the server's own, or one that exists.
    ///
    /// # Errors
    /// [`ApiError::NotFound`], or what the store says.
    pub async fn check(&self, store: &Arc<dyn TimingStore>, run: i64) -> Result<(), ApiError> {
        if run == 0 || self.book().known.contains(&run) {
            return Ok(());
        }
        if store.get_run(run).await?.is_none() {
            let hint = "start one with Runs.Start, or use 0 for the server's own".to_owned();
            return Err(ApiError::NotFound { kind: "run", name: run.to_string(), hint });
        }
        let mut book = self.book();
        if book.known.len() < KNOWN_MAX {
            book.known.insert(run);
        }
        Ok(())
    }
}
