//! Bytes that may be spent at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// So many bytes and no more.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    spent: AtomicU64,
}

/// Bytes of a budget. Dropping it gives them back.
#[derive(Debug)]
pub(crate) struct Held {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Arc<Budget> {
        Arc::new(Budget { limit, spent: AtomicU64::new(0) })
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Takes some; `None` if there are not so many left.
    pub(crate) fn take(self: &Arc<Self>, bytes: u64) -> Option<Held> {
        let more = |spent: u64| spent.checked_add(bytes).filter(|&all| all <= self.limit);
        self.spent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Held { budget: Arc::clone(self), bytes })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.spent.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_comes_back_and_no_more_is_given() {
        let budget = Budget::new(10);
        let first = budget.take(6).unwrap();
        assert!(budget.take(5).is_none() && budget.take(u64::MAX).is_none());
        let second = budget.take(4).unwrap();
        drop(first);
        assert!(budget.take(6).is_some());
        drop(second);
        assert!(budget.take(10).is_some());
    }
}
