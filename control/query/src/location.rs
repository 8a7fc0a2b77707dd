//! Where a store is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::sqlite::SqliteConnectOptions;

/// Where a store is, parsed from `sqlite:PATH` or `sqlite::memory:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A file.
    File(PathBuf),
    /// In memory of this process, shared by every connection that is made from this value.
    Memory {
        /// Tells stores of one process apart.
        number: u64,
    },
}

/// A store URL that names no store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no store is at {given:?}: write sqlite:PATH or sqlite::memory:")]
pub struct BadLocation {
    /// What was given.
    pub given: String,
}

impl Location {
    /// The file, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Location::File(path) => Some(path),
            Location::Memory { .. } => None,
        }
    }

    /// Options that open it; the caller adds whether it writes.
    pub fn connect_options(&self) -> SqliteConnectOptions {
        match self {
            Location::File(path) => SqliteConnectOptions::new().filename(path),
            Location::Memory { number } => SqliteConnectOptions::new()
                .filename(format!("file:ferry-memory-{number}"))
                .in_memory(true)
                .shared_cache(true),
        }
    }
}

impl FromStr for Location {
    type Err = BadLocation;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        static MEMORY_NUMBER: AtomicU64 = AtomicU64::new(0);
        let bad = || BadLocation { given: url.to_owned() };
        let path = url.strip_prefix("sqlite:").ok_or_else(bad)?;
        if path == ":memory:" {
            let number = MEMORY_NUMBER.fetch_add(1, Ordering::Relaxed);
            return Ok(Location::Memory { number });
        }
        let path = path.strip_prefix("//").unwrap_or(path);
        // SQLite reads a name that starts with file: as a URL whose parameters override ours, and
        // one that starts with a colon is reserved for its own use.
        if path.is_empty() || path.starts_with("file:") || path.starts_with(':') {
            return Err(bad());
        }
        Ok(Location::File(PathBuf::from(path)))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::File(path) => write!(f, "sqlite:{}", path.display()),
            Location::Memory { .. } => f.write_str("sqlite::memory:"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_files_or_memory() {
        let file = |url: &str| url.parse::<Location>().map(|l| l.path().map(Path::to_owned));
        assert_eq!(file("sqlite:a/b.db"), Ok(Some("a/b.db".into())));
        assert_eq!(file("sqlite:///tmp/b.db"), Ok(Some("/tmp/b.db".into())));
        assert_eq!(file("sqlite::memory:"), Ok(None));
        for bad in ["a.db", "sqlite:", "sqlite:file:x?mode=rwc", "postgres://x", "sqlite::x"] {
            let error = file(bad).expect_err("bad").to_string();
            assert!(error.contains("sqlite:PATH"), "{error}");
        }
        let (a, b): (Location, Location) =
            ("sqlite::memory:".parse().unwrap(), "sqlite::memory:".parse().unwrap());
        assert_ne!(a, b);
    }
}
