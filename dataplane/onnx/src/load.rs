//! One way to load a file, whichever library runs it.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use ferry_core::Signature;
use ferry_engine::{Engine, EngineError, FileDigest};

use crate::ort::{OrtModel, OrtOptions};
use crate::runtime::{self, Search};
use crate::tract::{TRACT_VERSION, TractModel};

/// Which library runs a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EngineChoice {
    /// ONNX Runtime if it was found, else tract.
    #[default]
    Auto,
    /// ONNX Runtime.
    Ort,
    /// tract.
    Tract,
}

/// An engine that this build does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown engine {0:?}; known are \"auto\", \"onnx\" and \"tract\"")]
pub struct UnknownEngine(pub String);

impl FromStr for EngineChoice {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "auto" => Ok(EngineChoice::Auto),
            "onnx" => Ok(EngineChoice::Ort),
            "tract" => Ok(EngineChoice::Tract),
            other => Err(UnknownEngine(other.to_owned())),
        }
    }
}

/// How a file is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Threads that one instance computes with; at least 1. tract always uses one.
    pub threads: usize,
    /// Where ONNX Runtime's library may be.
    pub library: Search,
}

impl Default for Options {
    fn default() -> Self {
        Options { threads: 1, library: Search::default() }
    }
}

/// A loaded file, from which instances are made.
#[derive(Clone, Debug)]
pub struct Model {
    path: PathBuf,
    of: Of,
}

#[derive(Clone, Debug)]
enum Of {
    Ort(Arc<OrtModel>),
    Tract(Arc<TractModel>),
}

/// One instance, and what runs it.
pub struct Loaded {
    /// The instance.
    pub engine: Box<dyn Engine>,
    /// `onnx` or `tract`.
    pub engine_name: &'static str,
    /// Version of the library, such as `1.30.0`.
    pub library_version: String,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded")
            .field("engine_name", &self.engine_name)
            .field("library_version", &self.library_version)
            .finish_non_exhaustive()
    }
}

/// Loads a file. Instances made from the model share its weights, where the library can: see
/// [`OrtModel`] for when it cannot.
///
/// # Errors
/// [`EngineError::Library`] if ONNX Runtime was chosen and is missing, [`EngineError::Model`] if
/// the file is not one that the library can run.
pub fn open(choice: EngineChoice, path: &Path, options: &Options) -> Result<Model, EngineError> {
    let with_ort = match choice {
        EngineChoice::Ort => true,
        EngineChoice::Tract => false,
        EngineChoice::Auto => match runtime::opened(&options.library) {
            Ok(_) => true,
            // Without tract, opening the file says what is missing.
            Err(_) if !cfg!(feature = "tract") => true,
            Err(why) => {
                let why = runtime::missing(&why);
                tracing::info!(model = %path.display(), why, "no ONNX Runtime: tract is used");
                false
            }
        },
    };
    let of = if with_ort {
        let ort = OrtOptions { threads: options.threads };
        Of::Ort(Arc::new(OrtModel::open(path, &options.library, ort)?))
    } else {
        if options.threads > 1 {
            tracing::warn!(model = %path.display(), threads = options.threads,
                "tract uses 1 thread per instance: use more instances");
        }
        Of::Tract(TractModel::open(path)?)
    };
    Ok(Model { path: path.to_owned(), of })
}

/// Loads one instance of a file: [`open`] and [`Model::instance`] in one.
///
/// # Errors
/// As [`open`].
pub fn load(choice: EngineChoice, path: &Path, options: &Options) -> Result<Loaded, EngineError> {
    let model = open(choice, path, options)?;
    Ok(Loaded {
        engine: model.instance()?,
        engine_name: model.engine_name(),
        library_version: model.library_version().to_owned(),
    })
}

impl Model {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the model takes and gives.
    pub fn signature(&self) -> &Signature {
        match &self.of {
            Of::Ort(model) => model.signature(),
            Of::Tract(model) => model.signature(),
        }
    }

    /// What it was loaded from: the file, and those of its weights.
    pub fn files(&self) -> &[FileDigest] {
        match &self.of {
            Of::Ort(model) => model.files(),
            Of::Tract(model) => model.files(),
        }
    }

    /// Why the graph does not show that rows mean nothing to each other; `None` if it does. See
    /// [`ferry_onnx_file::rows`].
    pub fn doubt(&self) -> Option<&str> {
        match &self.of {
            Of::Ort(model) => model.doubt(),
            Of::Tract(model) => model.doubt(),
        }
    }

    /// `onnx` or `tract`.
    pub fn engine_name(&self) -> &'static str {
        match &self.of {
            Of::Ort(_) => "onnx",
            Of::Tract(_) => "tract",
        }
    }

    /// Version of the library that runs it, such as `1.30.0`.
    pub fn library_version(&self) -> &str {
        match &self.of {
            Of::Ort(model) => model.library_version(),
            Of::Tract(_) => TRACT_VERSION,
        }
    }

    /// Makes an instance. Also what a pool needs to replace one that panicked.
    ///
    /// # Errors
    /// [`EngineError::Model`] if the file has to be read again and cannot be.
    pub fn instance(&self) -> Result<Box<dyn Engine>, EngineError> {
        Ok(match &self.of {
            Of::Ort(model) => Box::new(model.instance()?),
            Of::Tract(model) => Box::new(model.instance()),
        })
    }
}
