//! ONNX Runtime's log, in ours. It writes a line for each request that it cannot run, so that a
//! client could flood the log: of one kind a line a second is told, and how many were not.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ort::logging::LogLevel;

/// How often one kind of line is told at most; those between are counted in the next.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Kinds that are told apart. A kind is a place in the library's source, and a few dozen of those
/// write warnings or errors; what more there are count as one.
const KINDS_MAX: usize = 256;

/// Stands for the kinds beyond [`KINDS_MAX`].
const OTHERS: &str = "";

/// Who was told what, when.
#[derive(Debug, Default)]
pub(crate) struct Log {
    kinds: Mutex<HashMap<String, Kind>>,
}

#[derive(Debug)]
struct Kind {
    told: Instant,
    left_out: u64,
}

impl Log {
    /// One line of the library.
    pub(crate) fn line(
        &self,
        level: LogLevel,
        category: &str,
        id: &str,
        location: &str,
        message: &str,
    ) {
        match level {
            LogLevel::Verbose => tracing::trace!(category, id, location, "onnxruntime: {message}"),
            LogLevel::Info => tracing::debug!(category, id, location, "onnxruntime: {message}"),
            LogLevel::Warning => {
                if let Some(left_out) = self.note(location, Instant::now()) {
                    tracing::warn!(category, id, location, left_out, "onnxruntime: {message}");
                }
            }
            LogLevel::Error | LogLevel::Fatal => {
                if let Some(left_out) = self.note(location, Instant::now()) {
                    tracing::error!(category, id, location, left_out, "onnxruntime: {message}");
                }
            }
        }
    }

    /// Whether a line of this kind is to be told now; if so, how many were left out before it.
    fn note(&self, kind: &str, now: Instant) -> Option<u64> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = kinds.contains_key(kind);
        let kind = if is_known || kinds.len() < KINDS_MAX { kind } else { OTHERS };
        match kinds.get_mut(kind) {
            Some(known) if now.saturating_duration_since(known.told) < TELL_EVERY => {
                known.left_out += 1;
                None
            }
            Some(known) => {
                known.told = now;
                Some(std::mem::take(&mut known.left_out))
            }
            None => {
                kinds.insert(kind.to_owned(), Kind { told: now, left_out: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_told_once_a_second_with_what_was_left_out() {
        let (log, start) = (Log::default(), Instant::now());
        assert_eq!(log.note("a", start), Some(0));
        assert_eq!(log.note("b", start), Some(0), "another kind is not held back");
        for _ in 0..1000 {
            assert_eq!(log.note("a", start + TELL_EVERY / 2), None);
        }
        assert_eq!(log.note("a", start + TELL_EVERY), Some(1000));
        assert_eq!(log.note("a", start + TELL_EVERY), None);
        assert_eq!(log.note("a", start + 3 * TELL_EVERY), Some(1), "counted anew");
    }

    #[test]
    fn kinds_beyond_the_bound_count_as_one() {
        let (log, now) = (Log::default(), Instant::now());
        let told = (0..1000).filter(|kind| log.note(&kind.to_string(), now).is_some()).count();
        assert_eq!(told, KINDS_MAX + 1);
        assert_eq!(log.kinds.lock().unwrap().len(), KINDS_MAX + 1);
        assert_eq!(log.note("new", now + TELL_EVERY), Some(1000 - KINDS_MAX as u64 - 1));
    }
}
