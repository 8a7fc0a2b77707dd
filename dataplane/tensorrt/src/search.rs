//! Finding TensorRT's libraries, and opening them once per process.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::native::library::{self, Version};

/// Where the project's script puts TensorRT-RTX, below the folder of the project.
pub const FETCHED: &str = ".cache/tensorrt/1.7.1.116";

/// The library and its parser, as they are named up to the version.
#[cfg(not(feature = "enterprise"))]
const STEMS: [&str; 2] = ["libtensorrt_rtx.so", "libtensorrt_onnxparser_rtx.so"];
#[cfg(feature = "enterprise")]
const STEMS: [&str; 2] = ["libnvinfer.so", "libnvonnxparser.so"];

/// Folders of Python packages that hold the libraries, best first.
#[cfg(not(feature = "enterprise"))]
const PACKAGES: [&str; 2] = ["tensorrt_rtx_libs", "tensorrt_rtx"];
#[cfg(feature = "enterprise")]
const PACKAGES: [&str; 2] = ["tensorrt_libs", "tensorrt"];

/// What to do about missing libraries.
#[cfg(not(feature = "enterprise"))]
const FIX: &str = "run dataplane/tensorrt/fetch-tensorrt, or set TENSORRT_LIB_DIR to the folder of \
                   libtensorrt_rtx.so.1 and libtensorrt_onnxparser_rtx.so.1 of TensorRT-RTX 1.7";
#[cfg(feature = "enterprise")]
const FIX: &str = "install TensorRT 11.4 and set TENSORRT_LIB_DIR to the folder of \
                   libnvinfer.so.11 and libnvonnxparser.so.11, or build without the feature \
                   \"enterprise\" for TensorRT-RTX";

/// More Python versions than that below one prefix are not looked at.
const PYTHONS_MAX: usize = 32;

/// Where to look for the libraries, best first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Search {
    /// A folder, or the main library in it, that somebody chose: if it is set, nothing else is
    /// tried.
    pub explicit: Option<PathBuf>,
    /// Folders to try in this order. Those without the main library are passed over. If none can
    /// be used, the system's loader is asked.
    pub folders: Vec<PathBuf>,
}

impl Search {
    /// Looks where people put the libraries: at `explicit` alone, if it is given; else in
    /// `$TENSORRT_LIB_DIR`, then in `folders`, then in the packages of Python below
    /// `$VIRTUAL_ENV`, `/usr/local` and `/usr`. `variable` reads the environment.
    pub fn standard(
        explicit: Option<PathBuf>,
        folders: impl IntoIterator<Item = PathBuf>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Search {
        let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let mut all: Vec<PathBuf> = set("TENSORRT_LIB_DIR").into_iter().collect();
        all.extend(folders);
        let prefixes = set("VIRTUAL_ENV").into_iter();
        for prefix in prefixes.chain(["/usr/local".into(), "/usr".into()]) {
            all.extend(python_folders(&prefix));
        }
        Search { explicit, folders: all }
    }
}

/// The folders of Python packages below `prefix` that may hold the libraries; newest Python first.
fn python_folders(prefix: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(prefix.join("lib")) else { return Vec::new() };
    let mut pythons: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| as_python(name).is_some()))
        .take(PYTHONS_MAX)
        .collect();
    pythons.sort_by_key(|path| std::cmp::Reverse(path.file_name().and_then(as_python)));
    let sites = pythons.iter().flat_map(|python| {
        ["site-packages", "dist-packages"].map(|packages| python.join(packages))
    });
    let folders = sites.flat_map(|site| PACKAGES.map(|package| site.join(package)));
    folders.filter(|folder| folder.is_dir()).collect()
}

/// The version in `python3.12`; 0 for `python3`.
fn as_python(name: &std::ffi::OsStr) -> Option<u32> {
    let rest = name.to_str()?.strip_prefix("python3")?;
    if rest.is_empty() { Some(0) } else { rest.strip_prefix('.')?.parse().ok() }
}

/// Whether TensorRT can be used in this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It is open.
    Found {
        /// The main library's file, or its name if the system's loader found it.
        path: PathBuf,
        /// As the library says, such as `1.7.1.116`.
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

/// The libraries, opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
}

static OPENED: OnceLock<Opened> = OnceLock::new();
static OPENING: Mutex<()> = Mutex::new(());

/// Opens the libraries, or says why they cannot be opened. A process has one pair: once it is
/// open, every later call finds that one, whatever it searches for. A failure is not remembered.
pub fn probe(search: &Search) -> Probe {
    match opened(search) {
        Ok(opened) => Probe::Found { path: opened.path.clone(), version: opened.version.clone() },
        Err(why) => Probe::Missing { why, fix: FIX.to_owned() },
    }
}

/// The libraries, or the error that says what was tried and what to do.
pub(crate) fn required(search: &Search) -> Result<&'static Opened, ferry_engine::EngineError> {
    opened(search).map_err(|why| ferry_engine::EngineError::Library {
        library: crate::LIBRARY,
        why: format!("{why}: {FIX}"),
    })
}

fn opened(search: &Search) -> Result<&'static Opened, String> {
    if let Some(opened) = OPENED.get() {
        return Ok(opened);
    }
    let _one_at_a_time = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(opened) = OPENED.get() {
        return Ok(opened);
    }
    let mut why = Vec::new();
    for [main, parser] in pairs(search, &mut why) {
        match library::open(&main, &parser) {
            Ok(version) => {
                let version = version.to_string();
                tracing::info!(path = %main.display(), version, "TensorRT opened");
                return Ok(OPENED.get_or_init(|| Opened { path: main, version }));
            }
            Err(error) => why.push(error),
        }
    }
    Err(why.join("; "))
}

/// What is worth opening: a main library and its parser. What is not is noted in `why`.
fn pairs(search: &Search, why: &mut Vec<String>) -> Vec<[PathBuf; 2]> {
    let named = match &search.explicit {
        Some(path) => std::slice::from_ref(path),
        None => search.folders.as_slice(),
    };
    let mut pairs = Vec::new();
    for path in named {
        let absolute = match std::path::absolute(path) {
            Ok(absolute) => absolute,
            Err(error) => {
                why.push(format!("{}: {error}", path.display()));
                continue;
            }
        };
        match pair(&absolute) {
            Ok(pair) => pairs.push(pair),
            Err(error) => why.push(error),
        }
    }
    if search.explicit.is_none() {
        pairs.push(STEMS.map(|stem| format!("{stem}.{}", Version::HEADERS.major).into()));
    }
    pairs
}

/// The two files in a folder, or beside a main library.
fn pair(path: &Path) -> Result<[PathBuf; 2], String> {
    let (folder, main) = if path.is_dir() {
        (path, in_folder(path, STEMS[0]))
    } else {
        (path.parent().unwrap_or(path), path.is_file().then(|| path.to_owned()))
    };
    let Some(main) = main else {
        let what =
            if path.is_dir() { format!("no {} in it", STEMS[0]) } else { "no such file".into() };
        return Err(format!("{}: {what}", path.display()));
    };
    match in_folder(folder, STEMS[1]) {
        Some(parser) => Ok([main, parser]),
        None => Err(format!("{}: no {} beside it", main.display(), STEMS[1])),
    }
}

fn in_folder(folder: &Path, stem: &str) -> Option<PathBuf> {
    let Version { major, minor, patch, .. } = Version::HEADERS;
    let endings = [format!(".{major}"), format!(".{major}.{minor}.{patch}"), String::new()];
    let files = endings.iter().map(|ending| folder.join(format!("{stem}{ending}")));
    files.into_iter().find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_places_in_their_order() {
        let root = tempfile::tempdir().unwrap();
        for python in ["python3", "python3.9", "python3.12", "python3x", "perl"] {
            let site = root.path().join("lib").join(python).join("site-packages");
            std::fs::create_dir_all(site.join(PACKAGES[0])).unwrap();
        }
        let variable = |name: &str| match name {
            "VIRTUAL_ENV" => Some(root.path().as_os_str().to_owned()),
            "TENSORRT_LIB_DIR" => Some("/chosen".into()),
            _ => None,
        };
        let search = Search::standard(None, ["/fetched".into()], variable);
        let site =
            |python| root.path().join("lib").join(python).join("site-packages").join(PACKAGES[0]);
        let first: [PathBuf; 5] = [
            "/chosen".into(),
            "/fetched".into(),
            site("python3.12"),
            site("python3.9"),
            site("python3"),
        ];
        assert_eq!(search.folders[..5], first);
        let none = Search::standard(Some("/only".into()), [], |_| Some("".into()));
        let mut why = Vec::new();
        assert!(pairs(&none, &mut why).is_empty(), "nothing but what was chosen");
        assert_eq!(why, ["/only: no such file"]);
    }

    #[test]
    fn a_folder_needs_both_libraries() {
        let root = tempfile::tempdir().unwrap();
        let main = root.path().join(format!("{}.{}", STEMS[0], Version::HEADERS.major));
        assert!(pair(root.path()).unwrap_err().contains("in it"));
        std::fs::write(&main, "").unwrap();
        assert!(pair(root.path()).unwrap_err().contains("beside it"));
        let parser = root.path().join(STEMS[1]);
        std::fs::write(&parser, "").unwrap();
        assert_eq!(pair(root.path()), Ok([main.clone(), parser.clone()]));
        assert_eq!(pair(&main), Ok([main, parser]));
    }
}
