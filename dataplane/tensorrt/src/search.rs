//! Where TensorRT's libraries are.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ferry_engine::library::{Library, Probe, Search};

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

/// Looks where people put the libraries: at `explicit` alone, if it is given (their folder, or the
/// main library in it); else in the folder `$TENSORRT_LIB_DIR`, then in `folders`, then in the
/// packages of Python below `$VIRTUAL_ENV`, `/usr/local` and `/usr`. `variable` reads the
/// environment.
pub fn standard(
    explicit: Option<PathBuf>,
    folders: impl IntoIterator<Item = PathBuf>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Search {
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut candidates: Vec<PathBuf> = set("TENSORRT_LIB_DIR").into_iter().collect();
    candidates.extend(folders);
    let prefixes = set("VIRTUAL_ENV").into_iter();
    for prefix in prefixes.chain(["/usr/local".into(), "/usr".into()]) {
        candidates.extend(python_folders(&prefix));
    }
    Search { explicit, candidates }
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

/// The libraries, opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
}

static LIBRARIES: Library<Opened> = Library::new();

/// Opens the libraries, or says why they cannot be opened. Folders without the main library are
/// passed over.
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
    let by_name = STEMS.map(|stem| format!("{stem}.{}", Version::HEADERS.major).into());
    LIBRARIES.open(
        search,
        by_name,
        |path| pair(&path),
        |[main, parser]| {
            let version = library::open(&main, &parser)?.to_string();
            tracing::info!(path = %main.display(), version, "TensorRT opened");
            Ok(Opened { path: main, version })
        },
    )
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
        let search = standard(None, ["/fetched".into()], variable);
        let site =
            |python| root.path().join("lib").join(python).join("site-packages").join(PACKAGES[0]);
        let first: [PathBuf; 5] = [
            "/chosen".into(),
            "/fetched".into(),
            site("python3.12"),
            site("python3.9"),
            site("python3"),
        ];
        assert_eq!(search.candidates[..5], first);
        let only = standard(Some("/only".into()), [], |_| Some("".into()));
        let why = opened(&only).map(drop);
        assert_eq!(why, Err("/only: no such file".into()), "nothing but what was chosen");
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
