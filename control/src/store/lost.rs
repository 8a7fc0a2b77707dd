//! Counts lost rows by run, in bounded memory, and without a lock for those that lose often.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Runs that are counted without a lock: those that lose rows are a handful.
const RUNS_MAX: usize = 64;

/// Runs that are counted under a lock, between two looks of the writer. What more runs lose is put
/// down to the server's own, so that it is still counted; quotas allow no tenant so many.
const MORE_RUNS_MAX: usize = 1 << 16;

/// Lost rows by run.
#[derive(Debug)]
pub(crate) struct Lost {
    own: AtomicU64,
    /// A run, or 0 where the place is free, and its count. A place once taken stays so.
    runs: [(AtomicI64, AtomicU64); RUNS_MAX],
    /// Runs that found no place.
    more: Mutex<HashMap<i64, u64>>,
}

impl Lost {
    pub(crate) fn new() -> Lost {
        Lost {
            own: AtomicU64::new(0),
            runs: std::array::from_fn(|_| (AtomicI64::new(0), AtomicU64::new(0))),
            more: Mutex::default(),
        }
    }

    /// Counts rows of a run.
    pub(crate) fn add(&self, run: i64, rows: u64) {
        if run != 0 {
            for (holder, count) in &self.runs {
                let held = holder.compare_exchange(0, run, Ordering::Relaxed, Ordering::Relaxed);
                if held.is_ok() || held == Err(run) {
                    count.fetch_add(rows, Ordering::Relaxed);
                    return;
                }
            }
            let mut more = self.more.lock().unwrap_or_else(PoisonError::into_inner);
            if more.len() < MORE_RUNS_MAX || more.contains_key(&run) {
                let count = more.entry(run).or_default();
                *count = count.saturating_add(rows);
                return;
            }
        }
        self.own.fetch_add(rows, Ordering::Relaxed);
    }

    /// Takes out what was counted since the last call.
    pub(crate) fn take(&self, into: &mut Vec<(i64, u64)>) {
        let mut put = |run: i64, count: &AtomicU64| {
            let rows = count.swap(0, Ordering::Relaxed);
            if rows > 0 {
                into.push((run, rows));
            }
        };
        put(0, &self.own);
        for (holder, count) in &self.runs {
            put(holder.load(Ordering::Relaxed), count);
        }
        let mut more = self.more.lock().unwrap_or_else(PoisonError::into_inner);
        into.extend(more.drain());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_run_and_forgets_none() {
        let lost = Lost::new();
        for run in 0..200 {
            lost.add(run, 1);
            lost.add(run, 2);
        }
        let mut taken = Vec::new();
        lost.take(&mut taken);
        // Every run has its own, also those that found no place.
        taken.sort_unstable();
        assert_eq!(taken, (0..200).map(|run| (run, 3)).collect::<Vec<_>>());
        taken.clear();
        lost.take(&mut taken);
        assert!(taken.is_empty());
    }
}
