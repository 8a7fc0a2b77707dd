//! Answers of a model that are kept for requests that ask the same again.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ferry_core::{OutputShapes, nanos};

/// What an answer takes beside its bytes: its key twice, its shapes, and what the tables need. So
/// that no number of empty answers takes more than the bound.
const ENTRY_BYTES: u64 = 512;

/// The hash of all that an answer depends on, and of the tenant that asked.
pub type Key = [u8; 32];

/// An answer.
#[derive(Clone, Debug)]
pub struct Cached {
    /// All outputs, one after the other.
    pub payload: Bytes,
    /// Their shapes; `None` where they are as was known before.
    pub shapes: Option<Box<OutputShapes>>,
}

impl Cached {
    fn bytes(&self) -> u64 {
        (self.payload.len() as u64).saturating_add(ENTRY_BYTES)
    }
}

/// The answers of one loaded model: one that takes its place begins with none. What was not asked for
/// longest goes first.
#[derive(Debug)]
pub struct Cache {
    bytes_max: u64,
    kept: Mutex<Kept>,
    hits: Counter,
    misses: Counter,
}

#[derive(Debug, Default)]
struct Kept {
    by_key: HashMap<Key, (u64, Cached)>,
    /// By when they were asked for last.
    by_use: BTreeMap<u64, Key>,
    uses: u64,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Counter {
    count: AtomicU64,
    ns: AtomicU64,
}

/// How often an answer was there or not, and what that took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Requests whose answers were there.
    pub hits: u64,
    /// What looking for these took.
    pub hit_ns: u64,
    /// Requests whose answers were not.
    pub misses: u64,
    /// What looking for these, and keeping their answers, took.
    pub miss_ns: u64,
}

impl Counter {
    fn add(&self, count: u64, took: Duration) {
        self.count.fetch_add(count, Ordering::Relaxed);
        self.ns.fetch_add(nanos(took), Ordering::Relaxed);
    }
}

impl Cache {
    /// An empty one that keeps at most so many bytes.
    pub fn new(bytes_max: u64) -> Cache {
        let (hits, misses) = (Counter::default(), Counter::default());
        Cache { bytes_max, kept: Mutex::default(), hits, misses }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer, if it is there.
    pub fn get(&self, key: &Key) -> Option<Cached> {
        let mut kept = self.kept();
        let Kept { by_key, by_use, uses, .. } = &mut *kept;
        let (used, cached) = by_key.get_mut(key)?;
        by_use.remove(used);
        *uses += 1;
        *used = *uses;
        by_use.insert(*uses, *key);
        Some(cached.clone())
    }

    /// Keeps an answer, in place of those that were not asked for longest. One that is larger than
    /// all that may be kept is not.
    pub fn put(&self, key: Key, cached: Cached) {
        let bytes = cached.bytes();
        if bytes > self.bytes_max {
            return;
        }
        let mut gone = Vec::new();
        let mut kept = self.kept();
        kept.uses += 1;
        let uses = kept.uses;
        if let Some((used, old)) = kept.by_key.insert(key, (uses, cached)) {
            kept.by_use.remove(&used);
            kept.bytes = kept.bytes.saturating_sub(old.bytes());
            gone.push(old);
        }
        kept.by_use.insert(uses, key);
        kept.bytes = kept.bytes.saturating_add(bytes);
        while kept.bytes > self.bytes_max {
            let Some((_, oldest)) = kept.by_use.pop_first() else { break };
            let Some((_, old)) = kept.by_key.remove(&oldest) else { continue };
            kept.bytes = kept.bytes.saturating_sub(old.bytes());
            gone.push(old);
        }
        // Memory is given back while nobody waits.
        drop(kept);
    }

    /// Notes that an answer was there, and what finding it took.
    pub fn note_hit(&self, took: Duration) {
        self.hits.add(1, took);
    }

    /// Notes that an answer was not there, and what looking for it took.
    pub fn note_miss(&self, took: Duration) {
        self.misses.add(1, took);
    }

    /// Notes what keeping an answer took that was not there before.
    pub fn note_kept(&self, took: Duration) {
        self.misses.add(0, took);
    }

    /// What was counted.
    pub fn stats(&self) -> CacheStats {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        CacheStats {
            hits: load(&self.hits.count),
            hit_ns: load(&self.hits.ns),
            misses: load(&self.misses.count),
            miss_ns: load(&self.misses.ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(bytes: usize) -> Cached {
        Cached { payload: vec![7; bytes].into(), shapes: None }
    }

    #[test]
    fn what_was_not_asked_for_longest_goes_first() {
        let cache = Cache::new(3 * (ENTRY_BYTES + 100));
        for name in 0..3 {
            cache.put([name; 32], answer(100));
        }
        assert!(cache.get(&[0; 32]).is_some());
        cache.put([3; 32], answer(100));
        let there: Vec<bool> = (0..4).map(|name| cache.get(&[name; 32]).is_some()).collect();
        assert_eq!(there, [true, false, true, true]);
        assert_eq!(cache.get(&[3; 32]).unwrap().payload, vec![7; 100]);
    }

    #[test]
    fn bytes_are_bounded_whatever_is_kept() {
        let cache = Cache::new(10_000);
        for round in 0..200_u8 {
            // Of all sizes, empty ones and the same ones again among them.
            cache.put([round % 23; 32], answer(usize::from(round) * 37 % 4000));
            let kept = cache.kept();
            let bytes: u64 = kept.by_key.values().map(|(_, cached)| cached.bytes()).sum();
            assert_eq!(bytes, kept.bytes);
            assert!(bytes <= 10_000, "{bytes}");
            assert_eq!(kept.by_key.len(), kept.by_use.len());
        }
        cache.put([99; 32], answer(10_000));
        assert!(cache.get(&[99; 32]).is_none(), "larger than all that may be kept");
        assert!(cache.kept().bytes > 0, "and nothing went for it");
    }
}
