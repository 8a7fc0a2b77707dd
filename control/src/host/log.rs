//! What the log has: chosen when the process starts, and changed while it runs.

use std::fmt::Display;
use std::sync::OnceLock;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

/// Beginning of the names of everything that logs here; libraries have others.
const OURS: &str = "ferry";

/// The log of the process, of which there is one.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    /// As it was chosen, and how much that is at most.
    chosen: String,
    most: LevelFilter,
    change: Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
}

/// Tells that the log of this process began with the filter `chosen`, and that `change` gives it another
/// one. The first call counts.
pub fn began<E: Display>(
    chosen: String,
    change: impl Fn(EnvFilter) -> Result<(), E> + Send + Sync + 'static,
) {
    let change = move |filter| change(filter).map_err(|error| error.to_string());
    let log = Log { chosen, most: level(), change: Box::new(change) };
    // A second one would be a second log.
    drop(LOG.set(log));
}

/// The most that is logged of anything.
pub fn level() -> LevelFilter {
    LevelFilter::current()
}

/// Logs up to `level`: of all there is where that is less than was chosen, and of this project's code
/// alone where it is more. At the level that was chosen, the log is as it was.
///
/// # Errors
/// A text that says why the log stays as it is.
pub fn set(level: LevelFilter) -> Result<(), String> {
    if level == self::level() {
        return Ok(());
    }
    let log = LOG.get().ok_or("the program that this server runs in has a log of its own")?;
    let filter = log.filter(level);
    let made = EnvFilter::try_new(&filter).map_err(|error| error.to_string())?;
    (log.change)(made)?;
    tracing::info!(filter, "the log was changed");
    Ok(())
}

impl Log {
    fn filter(&self, level: LevelFilter) -> String {
        match level.cmp(&self.most) {
            std::cmp::Ordering::Less => level.to_string(),
            std::cmp::Ordering::Equal => self.chosen.clone(),
            std::cmp::Ordering::Greater => format!("{},{OURS}={level}", self.chosen),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_of_this_project_and_less_of_all() {
        let chosen = "warn,ferry_engine=info".to_owned();
        let log = Log { chosen, most: LevelFilter::INFO, change: Box::new(|_| Ok(())) };
        for (level, filter) in [
            (LevelFilter::OFF, "off"),
            (LevelFilter::WARN, "warn"),
            (LevelFilter::INFO, "warn,ferry_engine=info"),
            (LevelFilter::TRACE, "warn,ferry_engine=info,ferry=trace"),
        ] {
            assert_eq!(log.filter(level), filter);
            EnvFilter::try_new(filter).unwrap();
        }
    }
}
