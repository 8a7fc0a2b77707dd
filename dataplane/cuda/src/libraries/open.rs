//! Opens libraries.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LAZY, RTLD_LOCAL, RTLD_NOW};

use super::{LibrariesError, LibrarySearch};

/// What was opened. It stays open.
#[derive(Debug, Default)]
pub struct OpenedLibraries {
    /// Files, in the order in which they were opened.
    pub files: Vec<PathBuf>,
    /// Files that could not be, with what the loader said.
    pub failed: Vec<(PathBuf, String)>,
}

impl OpenedLibraries {
    /// The folders of the files that are open, each once.
    pub fn folders(&self) -> Vec<&Path> {
        let mut folders: Vec<_> = self.files.iter().filter_map(|file| file.parent()).collect();
        folders.sort_unstable();
        folders.dedup();
        folders
    }
}

static OPENED: OnceLock<OpenedLibraries> = OnceLock::new();
static OPENING: Mutex<()> = Mutex::new(());

/// What [`open`] opened; `None` if it was not called, or failed.
pub fn opened() -> Option<&'static OpenedLibraries> {
    OPENED.get()
}

/// Opens everything that is found, once per process: later calls get what the first one opened. A
/// library that cannot be opened is told in the log, and whoever needs it says so.
///
/// # Errors
/// [`LibrariesError`] if a folder that the operator named cannot be used.
pub fn open(search: &LibrarySearch) -> Result<&'static OpenedLibraries, LibrariesError> {
    let _one_at_a_time = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(opened) = OPENED.get() {
        return Ok(opened);
    }
    let found = search.find()?;
    let opened = open_all(found.into_iter().flat_map(|family| family.files).collect());
    tracing::info!(files = opened.files.len(), folders = ?opened.folders(), "CUDA libraries opened");
    for (path, why) in &opened.failed {
        tracing::warn!(path = %path.display(), why, "a CUDA library cannot be opened");
    }
    Ok(OPENED.get_or_init(|| opened))
}

/// Opens files in this order; one that needs another behind it is tried again after that.
fn open_all(mut left: Vec<PathBuf>) -> OpenedLibraries {
    let mut opened = OpenedLibraries::default();
    loop {
        let before = opened.files.len();
        opened.failed.clear();
        for path in std::mem::take(&mut left) {
            match keep(&path) {
                Ok(()) => opened.files.push(path),
                Err(why) => {
                    opened.failed.push((path.clone(), why));
                    left.push(path);
                }
            }
        }
        // Each turn opens one more at the least.
        if left.is_empty() || opened.files.len() == before {
            return opened;
        }
    }
}

/// Opens a file, for the whole process and for as long as it lives.
fn keep(path: &Path) -> Result<(), String> {
    // SAFETY: start-up code of the library runs. It is one of NVIDIA's by its name, in a place that
    // the operator or the administrator of this machine filled, and the provider that is loaded
    // next would run the same code.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
    // What the loader said is the cause of what is said to have failed.
    let said = |error: libloading::Error| {
        error.source().map_or(error.to_string(), |cause| cause.to_string())
    };
    let library = library.map_err(said)?;
    // Never closed: its code may be running, and others hold its addresses.
    let _handle = library.into_raw();
    Ok(())
}

/// Whether the system's loader finds a library by its name, or it is open already. It is not kept
/// open.
pub fn is_loadable(name: &str) -> bool {
    // SAFETY: start-up and closing code of the library runs, as it would for anybody who uses it:
    // the names asked for are of NVIDIA's libraries. No address of it is kept.
    unsafe { Library::open(Some(name), RTLD_LAZY | RTLD_LOCAL) }.is_ok()
}

/// A version of cuDNN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudnnVersion(usize);

impl std::fmt::Display for CudnnVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // As cudnn_version.h composes it since cuDNN 9.
        let CudnnVersion(number) = self;
        write!(f, "{}.{}.{}", number / 10_000, number % 10_000 / 100, number % 100)
    }
}

/// The version of the cuDNN that [`open`] opens, or that the system's loader finds. It stays open.
pub fn cudnn_version(search: &LibrarySearch) -> Option<CudnnVersion> {
    const NAME: &str = "libcudnn.so.9";
    let found = search.find().ok()?.into_iter().find(|family| family.name == "cuDNN");
    let path = found.and_then(|family| family.files.last().cloned());
    let path = path.unwrap_or_else(|| NAME.into());
    // SAFETY: as in `keep`.
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) }.ok()?;
    type GetVersion = unsafe extern "C" fn() -> usize;
    // SAFETY: `size_t cudnnGetVersion(void)` in every cuDNN.
    let version = unsafe { library.get::<GetVersion>(b"cudnnGetVersion\0") };
    // SAFETY: it takes nothing and may be called at any time.
    let version = version.ok().map(|call| CudnnVersion(unsafe { call() }));
    let _handle = library.into_raw();
    version
}

#[cfg(test)]
mod tests {
    use super::CudnnVersion;

    #[test]
    fn a_version_of_cudnn_is_read_by_its_digits() {
        assert_eq!(CudnnVersion(91_900).to_string(), "9.19.0");
        assert_eq!(CudnnVersion(90_102).to_string(), "9.1.2");
    }
}
