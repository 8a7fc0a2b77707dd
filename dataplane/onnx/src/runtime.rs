//! Finding ONNX Runtime's library, and opening it once per process.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ferry_engine::contained;
use ort::environment::Environment;
use ort::logging::LogLevel;

use crate::file::text_of;
use crate::log::Log;
use crate::ort::library_version;

/// What the system's loader is asked for when no file was found.
const LOADER_NAME: &str = "libonnxruntime.so";

/// What to do about a missing library.
const FIX: &str = "run dataplane/onnx/fetch-onnxruntime, or give the path of a libonnxruntime.so \
                   of version 1.24 or newer";

/// Where to look for the library, best first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// A path that somebody chose: if it is set, nothing else is tried.
    pub explicit: Option<PathBuf>,
    /// Paths to try in this order. Those that are no file are passed over. If none can be opened,
    /// the system's loader is asked for `libonnxruntime.so`.
    pub candidates: Vec<PathBuf>,
}

/// Whether ONNX Runtime can be used in this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It is open.
    Found {
        /// The file, or `libonnxruntime.so` if the system's loader found it.
        path: PathBuf,
        /// As the library says, such as `1.30.0`.
        version: String,
    },
    /// It could not be opened.
    Missing {
        /// Every path that was tried, with what was wrong.
        why: String,
        /// What to do.
        fix: String,
    },
}

/// The library, opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
    pub(crate) environment: Environment,
}

static OPENED: OnceLock<Opened> = OnceLock::new();
static OPENING: Mutex<()> = Mutex::new(());

/// Opens the library, or says why it cannot be opened. A process has one: once it is open, every
/// later call finds that one, whatever it searches for. A failure is not remembered.
pub fn probe(search: &Search) -> Probe {
    match opened(search) {
        Ok(opened) => Probe::Found { path: opened.path.clone(), version: opened.version.clone() },
        Err(why) => Probe::Missing { why, fix: FIX.to_owned() },
    }
}

/// The reason and the remedy in one text.
pub(crate) fn missing(why: &str) -> String {
    format!("{why}: {FIX}")
}

/// The library; an error says what was tried.
pub(crate) fn opened(search: &Search) -> Result<&'static Opened, String> {
    if let Some(opened) = OPENED.get() {
        return Ok(opened);
    }
    let _one_at_a_time = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(opened) = OPENED.get() {
        return Ok(opened);
    }
    let mut why = Vec::new();
    for path in paths(search, &mut why) {
        // The library's own start-up code runs here, and ort asserts what it expects of it.
        match catch_unwind(AssertUnwindSafe(|| open(&path))) {
            Ok(Ok(opened)) => {
                tracing::info!(path = %opened.path.display(), version = opened.version,
                    "ONNX Runtime opened");
                return Ok(OPENED.get_or_init(|| opened));
            }
            Ok(Err(error)) => why.push(error),
            Err(panic) => why.push(format!("{}: {}", path.display(), text_of(&*panic))),
        }
    }
    Err(why.join("; "))
}

/// What is worth opening; what is not is noted in `why`.
fn paths(search: &Search, why: &mut Vec<String>) -> Vec<PathBuf> {
    let named = match &search.explicit {
        Some(path) => std::slice::from_ref(path),
        None => search.candidates.as_slice(),
    };
    let mut paths = Vec::new();
    for path in named {
        // ort looks for relative paths beside the executable first: absolute ones are what they
        // say.
        match std::path::absolute(path) {
            Ok(path) if path.is_file() => paths.push(path),
            Ok(path) => why.push(format!("{}: no such file", path.display())),
            Err(error) => why.push(format!("{}: {error}", path.display())),
        }
    }
    if search.explicit.is_none() {
        paths.push(PathBuf::from(LOADER_NAME));
    }
    paths
}

fn open(path: &Path) -> Result<Opened, String> {
    let log = Log::default();
    let builder = ort::init_from(path).map_err(|error| error.to_string())?;
    let version = library_version(path).map_err(|why| format!("{}: {why}", path.display()))?;
    let environment = builder
        .with_name("ferry")
        .with_telemetry(false)
        .with_logger(Arc::new(
            move |level, category: &str, id: &str, location: &str, text: &str| {
                contained((), || log.line(level, category, id, location, text));
            },
        ))
        .build()
        .map_err(|error| format!("{}: {}", path.display(), error.message()))?;
    // ort asks for everything down to `Verbose`, and ONNX Runtime formats what is asked for.
    environment.set_log_level(LogLevel::Warning);
    Ok(Opened { path: path.to_owned(), version, environment })
}
