//! ONNX Runtime's library.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ferry_core::panic_text;
use ferry_engine::contained;
use ferry_engine::library::Library;
use ort::environment::Environment;
use ort::logging::LogLevel;

pub use ferry_engine::library::{Probe, Search};

use crate::log::Log;
use crate::ort::library_version;

/// What the system's loader is asked for when no file was found.
const LOADER_NAME: &str = "libonnxruntime.so";

/// What to do about a missing library.
const FIX: &str = "run dataplane/onnx/fetch-onnxruntime, or give the path of a libonnxruntime.so \
                   of version 1.24 or newer";

/// The library, opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
    pub(crate) environment: Environment,
}

static LIBRARY: Library<Opened> = Library::new();

/// Opens the library, or says why it cannot be opened. Candidates that are no file are passed over.
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
    // ort looks for relative paths beside the executable first: absolute ones are what they say.
    let find = |path: PathBuf| match path.is_file() {
        true => Ok(path),
        false => Err(format!("{}: no such file", path.display())),
    };
    LIBRARY.open(search, PathBuf::from(LOADER_NAME), find, |path| {
        // The library's own start-up code runs here, and ort asserts what it expects of it.
        let opened = catch_unwind(AssertUnwindSafe(|| open(&path)))
            .unwrap_or_else(|panic| Err(format!("{}: {}", path.display(), panic_text(&*panic))))?;
        let (path, version) = (opened.path.display(), &opened.version);
        tracing::info!(%path, version, "ONNX Runtime opened");
        Ok(opened)
    })
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
