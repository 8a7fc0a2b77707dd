//! The CUDA libraries that ONNX Runtime's CUDA provider and NVRTC need.
//!
//! Python packages and the toolkit put them where the system's loader does not look. Here they are
//! found and opened by path, each before those that need it, with global names: a later request to
//! the loader for `libcudnn.so.9` gets the one that is open. So `LD_LIBRARY_PATH` is not needed.

#[expect(unsafe_code, reason = "the fence around opening native libraries")]
mod open;

use std::path::{Path, PathBuf};

pub use open::{CudnnVersion, OpenedLibraries, cudnn_version, is_loadable, open, opened};

/// Most entries of one folder that are looked at: a site-packages folder has some hundreds.
const ENTRIES_MAX: usize = 4096;

/// Libraries that belong together: all are taken from one place.
#[derive(Debug)]
pub struct Family {
    /// What people call it.
    pub name: &'static str,
    /// Files that it is not complete without, each before what needs it.
    pub files: &'static [&'static str],
    /// The same of CUDA 12, where the names differ.
    pub(crate) older: &'static [&'static str],
    /// How the names of further files begin and end. They are opened first.
    pub(crate) also: Option<(&'static str, &'static str)>,
    /// The Python package that brings it.
    pub package: &'static str,
}

/// All of them, each before what needs it.
pub const FAMILIES: [Family; 6] = [
    Family {
        name: "cudart",
        files: &["libcudart.so.13"],
        older: &["libcudart.so.12"],
        also: None,
        package: "nvidia-cuda-runtime",
    },
    Family {
        name: "cuBLAS",
        files: &["libcublasLt.so.13", "libcublas.so.13"],
        older: &["libcublasLt.so.12", "libcublas.so.12"],
        also: None,
        package: "nvidia-cublas",
    },
    Family {
        name: "cuFFT",
        files: &["libcufft.so.12"],
        older: &["libcufft.so.11"],
        also: None,
        package: "nvidia-cufft",
    },
    Family {
        name: "cuRAND",
        files: &["libcurand.so.10"],
        older: &[],
        also: None,
        package: "nvidia-curand",
    },
    Family {
        name: "NVRTC",
        files: &["libnvrtc.so.13"],
        older: &["libnvrtc.so.12"],
        also: Some(("libnvrtc-builtins.so.13", "")),
        package: "nvidia-cuda-nvrtc",
    },
    Family {
        name: "cuDNN",
        files: &["libcudnn.so.9"],
        older: &[],
        also: Some(("libcudnn_", ".so.9")),
        package: "nvidia-cudnn-cu13",
    },
];

/// Where to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LibrarySearch {
    /// Folders that the operator names: first, and wrong ones are errors. Each holds libraries, or
    /// is above folders that do, such as a `site-packages`.
    pub explicit: Vec<PathBuf>,
    /// The folders of `LD_LIBRARY_PATH`: what somebody set is not passed over.
    pub loader: Vec<PathBuf>,
    /// Roots of Python environments, such as `$VIRTUAL_ENV` and `$CONDA_PREFIX`.
    pub environments: Vec<PathBuf>,
    /// The folder that has `usr`: `/`.
    pub root: PathBuf,
}

impl Default for LibrarySearch {
    fn default() -> Self {
        LibrarySearch {
            explicit: Vec::new(),
            loader: Vec::new(),
            environments: Vec::new(),
            root: "/".into(),
        }
    }
}

/// A family that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundFamily {
    /// Its [`Family::name`].
    pub name: &'static str,
    /// Its files, in the order in which they are opened.
    pub files: Vec<PathBuf>,
}

impl FoundFamily {
    /// The folder of its last file.
    pub fn folder(&self) -> &Path {
        self.files.last().and_then(|file| file.parent()).unwrap_or(Path::new(""))
    }
}

/// A folder that the operator named cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LibrariesError {
    /// It cannot be read.
    #[error("{}: name a folder that is there", folder.display())]
    Unreadable {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It has none of the libraries.
    #[error(
        "{} has no CUDA 13 library, nor have the folders below it (*/lib, nvidia/*/lib); \
         name one with libcudart.so.13 or libcudnn.so.9, or a Python site-packages",
        folder.display()
    )]
    Empty {
        /// The folder.
        folder: PathBuf,
    },
}

impl LibrarySearch {
    /// Finds each family in the first place that has all of it.
    ///
    /// # Errors
    /// [`LibrariesError`] if a folder that the operator named cannot be used. Other places may lack.
    pub fn find(&self) -> Result<Vec<FoundFamily>, LibrariesError> {
        let mut places = vec![self.explicit()?, self.loader.clone()];
        places.extend(self.environments.iter().flat_map(|root| python(root, true)));
        for usr in ["usr/local", "usr"] {
            places.extend(python(&self.root.join(usr), false));
        }
        places.push(vec![self.root.join("usr/local/cuda/lib64")]);
        let find = |family| places.iter().find_map(|place| of_place(family, place));
        Ok(FAMILIES.iter().filter_map(find).collect())
    }

    /// The folders that the operator named, and those below them.
    fn explicit(&self) -> Result<Vec<PathBuf>, LibrariesError> {
        let mut all = Vec::new();
        for folder in &self.explicit {
            let read = std::fs::read_dir(folder);
            read.map_err(|source| LibrariesError::Unreadable { folder: folder.clone(), source })?;
            let mut own = vec![folder.clone()];
            own.extend(libs_below(folder));
            own.extend(libs_below(&folder.join("nvidia")));
            if !FAMILIES.iter().any(|family| of_place(family, &own).is_some()) {
                return Err(LibrariesError::Empty { folder: folder.clone() });
            }
            all.extend(own);
        }
        Ok(all)
    }
}

/// The places of a Python prefix: one for each Python that it has. With
/// `whole`, its own `lib` too, where conda puts libraries.
fn python(prefix: &Path, whole: bool) -> Vec<Vec<PathBuf>> {
    let lib = prefix.join("lib");
    let is_python = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|it| it.starts_with("python3"))
    };
    let pythons = entries(&lib).into_iter().filter(is_python);
    let mut places: Vec<_> = pythons
        .flat_map(|python| ["site-packages", "dist-packages"].map(|it| python.join(it)))
        .map(|packages| libs_below(&packages.join("nvidia")))
        .filter(|place| !place.is_empty())
        .collect();
    if whole {
        places.push(vec![lib]);
    }
    places
}

/// The `lib` folders of all folders in `folder`.
fn libs_below(folder: &Path) -> Vec<PathBuf> {
    let libs = entries(folder).into_iter().map(|entry| entry.join("lib"));
    libs.filter(|lib| lib.is_dir()).collect()
}

/// What a folder holds, in order of names; nothing where it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(read) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut all: Vec<_> =
        read.take(ENTRIES_MAX).filter_map(|entry| Some(entry.ok()?.path())).collect();
    all.sort();
    all
}

/// The files of a family, if its place has all of them.
fn of_place(family: &Family, place: &[PathBuf]) -> Option<FoundFamily> {
    let find = |file: &&str| {
        let mut paths = place.iter().map(|folder| folder.join(file));
        paths.find(|path| path.is_file())
    };
    let own: Vec<PathBuf> = family.files.iter().map(find).collect::<Option<_>>()?;
    let beside = own.last().and_then(|file| file.parent());
    let further = |(start, end): (&str, &str)| {
        let mut files = beside.map(entries).unwrap_or_default();
        files.retain(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with(start) && name.ends_with(end) && path.is_file()
        });
        files
    };
    let mut files = family.also.map(further).unwrap_or_default();
    files.extend(own);
    let absolute = files.into_iter().map(|file| std::path::absolute(&file).unwrap_or(file));
    Some(FoundFamily { name: family.name, files: absolute.collect() })
}

#[cfg(test)]
mod tests;
