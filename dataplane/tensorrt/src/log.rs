//! TensorRT's log, in ours, and what it said while a call failed.

use std::cell::RefCell;
use std::sync::OnceLock;

use ferry_engine::library::one_line;
use ferry_engine::{EngineError, contained};
use trtx::{LogHandler, Logger, Severity};

/// Errors of one call that are kept: the first say why, the rest are what follows from it.
const KEPT_MAX: usize = 4;

thread_local! {
    /// What was logged as an error on this thread, while somebody listens.
    static HEARD: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

struct Handler;

impl LogHandler for Handler {
    fn log(&self, severity: Severity, message: &str) {
        contained((), || line(severity, message));
    }
}

fn line(severity: Severity, message: &str) {
    match severity {
        Severity::InternalError | Severity::Error => {
            tracing::debug!("tensorrt: {message}");
            HEARD.with_borrow_mut(|heard| {
                if let Some(heard) = heard.as_mut().filter(|heard| heard.len() < KEPT_MAX) {
                    heard.push(message.to_owned());
                }
            });
        }
        Severity::Warning => tracing::warn!("tensorrt: {message}"),
        Severity::Info => tracing::debug!("tensorrt: {message}"),
        Severity::Verbose => tracing::trace!("tensorrt: {message}"),
    }
}

/// The one logger of the process: TensorRT keeps the first that it is given, whatever it is given
/// later.
pub(crate) fn logger() -> Result<&'static Logger, EngineError> {
    static LOGGER: OnceLock<Logger> = OnceLock::new();
    if let Some(logger) = LOGGER.get() {
        return Ok(logger);
    }
    let logger = Logger::new(Handler).map_err(|error| EngineError::Library {
        library: crate::LIBRARY,
        why: format!("{error}: restart the server"),
    })?;
    Ok(LOGGER.get_or_init(|| logger))
}

/// Runs `call`; if it fails, the error comes with what TensorRT logged meanwhile on this thread.
pub(crate) fn listen<T>(call: impl FnOnce() -> trtx::Result<T>) -> Result<T, String> {
    HEARD.set(Some(Vec::new()));
    let outcome = call();
    let heard = HEARD.take().unwrap_or_default();
    outcome.map_err(|error| reason(&error.to_string(), &heard))
}

/// Why a call failed: the node that the parser stopped at, if it says one, and what it says of it;
/// else what was logged; else the error.
fn reason(error: &str, heard: &[String]) -> String {
    let error = error.strip_prefix("Runtime error: ").unwrap_or(error);
    let node = heard.iter().find_map(|text| text.split_once("While parsing node number "));
    if let Some((_, node)) = node {
        return one_line(&format!("at node {} {error}", node.trim_end()));
    }
    if heard.is_empty() {
        return one_line(error);
    }
    heard.iter().map(|text| one_line(text)).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_comes_first() {
        let heard = ["ModelImporter.cpp:140: While parsing node number 3 [Foo -> \"y\"]:\n".into()];
        let text = reason("Runtime error: Assertion failed:\n no plugin", &heard);
        assert_eq!(text, "at node 3 [Foo -> \"y\"]: Assertion failed: no plugin");
        assert_eq!(reason("Runtime error: Failed", &["a\nb".into(), "c".into()]), "a b; c");
        assert_eq!(reason("Runtime error: Failed", &[]), "Failed");
    }
}
