//! How far the models of the folder are loaded.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts models while they are loaded at the start; others read it.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicUsize,
    of: AtomicUsize,
}

impl Progress {
    pub(super) fn begin(&self, of: usize) {
        self.of.store(of, Ordering::Relaxed);
    }

    /// Another one is loaded, or failed.
    pub(super) fn one_more(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// How many are done, and of how many; 0 of 0 before the folder was looked at.
    pub fn seen(&self) -> (usize, usize) {
        (self.done.load(Ordering::Relaxed), self.of.load(Ordering::Relaxed))
    }
}
