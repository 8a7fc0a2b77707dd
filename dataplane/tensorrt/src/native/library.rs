//! Opening the libraries, and asking them who they are.

use std::fmt;
use std::path::Path;

use ferry_core::error_text;
use libloading::Library;
use libloading::os::unix::{Library as UnixLibrary, RTLD_LAZY, RTLD_LOCAL};

/// A version of the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) major: i32,
    pub(crate) minor: i32,
    pub(crate) patch: i32,
    pub(crate) build: i32,
}

impl Version {
    /// That of the headers which `trtx` was made from.
    #[cfg(not(feature = "enterprise"))]
    pub(crate) const HEADERS: Version = Version { major: 1, minor: 7, patch: 1, build: 116 };
    #[cfg(feature = "enterprise")]
    pub(crate) const HEADERS: Version = Version { major: 11, minor: 4, patch: 0, build: 106 };
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.{}", self.major, self.minor, self.patch, self.build)
    }
}

/// Opens the main library and its parser, checks that both are of the headers' version, and gives
/// them to `trtx`, which keeps them open for as long as the process lives.
pub(crate) fn open(main: &Path, parser: &Path) -> Result<Version, String> {
    let with_path = |path: &Path, why: String| format!("{}: {why}", path.display());
    let main_library = load(main).map_err(|why| with_path(main, why))?;
    let version = version(&main_library).map_err(|why| with_path(main, why))?;
    let wanted = Version::HEADERS;
    if (version.major, version.minor) != (wanted.major, wanted.minor) {
        let why = format!("version {version}, but {}.{} is needed", wanted.major, wanted.minor);
        return Err(with_path(main, why));
    }
    let parser_library = load(parser).map_err(|why| with_path(parser, why))?;
    check_parser(&parser_library).map_err(|why| with_path(parser, why))?;

    trtx::dynamically_load_tensorrt(Some(main)).map_err(|error| error_text(&error))?;
    trtx::dynamically_load_tensorrt_onnxparser(Some(parser)).map_err(|error| error_text(&error))?;
    Ok(version)
}

fn load(path: &Path) -> Result<Library, String> {
    // SAFETY: the file was chosen by who runs this process, or is one that the system's loader
    // trusts; its start-up code is that of NVIDIA's library, which has no preconditions. A file
    // that is no library is refused by the loader before any of it runs.
    let library = unsafe { UnixLibrary::open(Some(path), RTLD_LAZY | RTLD_LOCAL) };
    library.map(Library::from).map_err(|error| error_text(&error))
}

fn version(library: &Library) -> Result<Version, String> {
    Ok(Version {
        major: number(library, "getInferLibMajorVersion")?,
        minor: number(library, "getInferLibMinorVersion")?,
        patch: number(library, "getInferLibPatchVersion")?,
        build: number(library, "getInferLibBuildVersion")?,
    })
}

/// The parser counts its versions by itself, and tells the one of its interface.
fn check_parser(library: &Library) -> Result<(), String> {
    let found = number(library, "getNvOnnxParserVersion")?;
    // SAFETY: it takes nothing and returns a constant that is compiled in.
    let wanted = unsafe { trtx::trtx_sys::get_nvonnxparser_version() };
    if u32::try_from(found) == Ok(wanted) {
        return Ok(());
    }
    Err(format!("a parser of version {found}, but {wanted} is needed"))
}

fn number(library: &Library, name: &str) -> Result<i32, String> {
    // SAFETY: all functions that are asked for here are declared `int32_t NAME() noexcept` with C
    // linkage in NvInferRuntime.h and NvOnnxParser.h. A library without the name is refused.
    let function = unsafe { library.get::<unsafe extern "C" fn() -> i32>(name) };
    let function =
        function.map_err(|error| format!("not TensorRT: no {name}: {}", error_text(&error)))?;
    // SAFETY: it takes nothing and returns a constant of the library, which is open.
    Ok(unsafe { function() })
}
