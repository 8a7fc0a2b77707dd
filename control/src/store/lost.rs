//! Counts lost rows by run, without a lock and in constant memory.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Runs that are told apart: those that lose rows are a handful. What more runs lose is put down to
/// the server's own, so that it is still counted.
const RUNS_MAX: usize = 64;

/// Lost rows by run.
#[derive(Debug)]
pub(crate) struct Lost {
    own: AtomicU64,
    /// A run, or 0 where the place is free, and its count. A place once taken stays so.
    runs: [(AtomicI64, AtomicU64); RUNS_MAX],
}

impl Lost {
    pub(crate) fn new() -> Lost {
        Lost {
            own: AtomicU64::new(0),
            runs: std::array::from_fn(|_| (AtomicI64::new(0), AtomicU64::new(0))),
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
        assert_eq!(taken.len(), RUNS_MAX + 1);
        assert_eq!(taken.iter().map(|(_, rows)| rows).sum::<u64>(), 600);
        assert_eq!(taken[1], (1, 3));
        taken.clear();
        lost.take(&mut taken);
        assert!(taken.is_empty());
    }
}
