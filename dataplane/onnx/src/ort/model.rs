//! An ONNX file in ONNX Runtime, and its instances.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ferry_core::{DType, Signature};
use ferry_engine::{EngineError, FileDigest};
use ferry_onnx_file::{indices, rows};
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{Outlet, TensorElementType, ValueType};

use super::declarations::Declarations;
use super::engine::OrtEngine;
use super::native::commit_from_memory;
use crate::external::Weights;
use crate::file::{EXPORT_AGAIN, ModelFile, one_line, unusable};
use crate::graph;
use crate::runtime::{self, Opened, Search};
use crate::signature::{Declared, DeclaredDim, Refused, signature};

/// How ONNX Runtime runs a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrtOptions {
    /// Threads that one instance computes with, the caller's among them; at least 1.
    pub threads: usize,
}

impl Default for OrtOptions {
    fn default() -> Self {
        OrtOptions { threads: 1 }
    }
}

/// A loaded file, from which instances are made.
///
/// With one thread per instance all instances run the same session, so that the weights are in
/// memory once. A session with more threads owns a pool of them, which two instances would have to
/// share: then each instance is a session of its own, with weights of its own.
#[derive(Debug)]
pub struct OrtModel {
    path: PathBuf,
    options: OrtOptions,
    library: &'static Opened,
    signature: Signature,
    files: Vec<FileDigest>,
    /// The session of all instances, or the one that the first of them will take.
    session: Mutex<Option<Arc<Session>>>,
    /// Whether a run showed that an output has another shape than the file declares.
    declarations: Arc<Declarations>,
    /// Whether its operators take floats for numbers and nothing else.
    floats_are_plain: bool,
    /// Why the graph does not show that rows mean nothing to each other; `None` if it does.
    doubt: Option<String>,
}

impl OrtModel {
    /// Loads and optimises a file.
    ///
    /// # Errors
    /// [`EngineError::Library`] if ONNX Runtime is missing, [`EngineError::Model`] if the file is
    /// not one that it can run.
    pub fn open(
        path: &Path,
        search: &Search,
        options: OrtOptions,
    ) -> Result<OrtModel, EngineError> {
        let library = runtime::opened(search).map_err(|why| EngineError::Library {
            library: "onnxruntime",
            why: runtime::missing(&why),
        })?;
        let file = ModelFile::read(path, Weights::Beside)?;
        let session = load(&file, library, options)?;
        let signature = signature_of(&file, &session)?;
        let floats_are_plain = floats_are_plain(&file)?;
        let doubt = rows::doubt(&file.model);
        let session = Mutex::new(Some(Arc::new(session)));
        Ok(OrtModel {
            path: path.to_owned(),
            options,
            library,
            signature,
            files: file.digests,
            session,
            declarations: Arc::default(),
            floats_are_plain,
            doubt,
        })
    }

    /// What the model takes and gives.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// What it was loaded from.
    pub fn files(&self) -> &[FileDigest] {
        &self.files
    }

    /// Why the graph does not show that rows mean nothing to each other; `None` if it does.
    pub fn doubt(&self) -> Option<&str> {
        self.doubt.as_deref()
    }

    /// The version of ONNX Runtime, such as `1.30.0`.
    pub fn library_version(&self) -> &str {
        &self.library.version
    }

    /// Makes an instance.
    ///
    /// # Errors
    /// [`EngineError::Model`] if the file has to be read again and cannot be.
    pub fn instance(&self) -> Result<OrtEngine, EngineError> {
        let session = self.session()?;
        let declarations = Arc::clone(&self.declarations);
        OrtEngine::new(session, self.signature.clone(), declarations, self.floats_are_plain)
            .map_err(|error| unusable(&self.path, one_line(error.message()), EXPORT_AGAIN))
    }

    fn session(&self) -> Result<Arc<Session>, EngineError> {
        {
            let mut kept = self.session.lock().unwrap_or_else(PoisonError::into_inner);
            let session = if self.options.threads <= 1 { kept.clone() } else { kept.take() };
            if let Some(session) = session {
                return Ok(session);
            }
        }
        let file = ModelFile::read(&self.path, Weights::Beside)?;
        // Instances of one model give one answer: another file is another model.
        if file.digests != self.files {
            let fix = "load the model again";
            return Err(unusable(&self.path, "it was changed since it was loaded", fix));
        }
        Ok(Arc::new(load(&file, self.library, self.options)?))
    }
}

/// Whether the operators of a model take floats for numbers and nothing else.
pub(super) fn floats_are_plain(file: &ModelFile) -> Result<bool, EngineError> {
    let ModelFile { path, model, .. } = file;
    let found = indices::from_floats(model).map_err(|why| unusable(path, why, EXPORT_AGAIN))?;
    if let Some(operator) = &found {
        tracing::debug!(model = %path.display(), operator, "floats are copied before they are used");
    }
    Ok(found.is_none())
}

fn load(file: &ModelFile, library: &Opened, options: OrtOptions) -> Result<Session, EngineError> {
    commit(file, library, options).map_err(|error| {
        let why = one_line(error.message());
        let unknown = ["No Op registered", "is not a registered", "NOT_IMPLEMENTED"];
        let fix = if unknown.iter().any(|text| why.contains(text)) {
            "export the model with operators that ONNX Runtime has, or try engine = \"tract\""
        } else {
            EXPORT_AGAIN
        };
        unusable(&file.path, why, fix)
    })
}

fn commit(file: &ModelFile, library: &Opened, options: OrtOptions) -> ort::Result<Session> {
    let builder = Session::builder(&library.environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(options.threads.max(1))?
        .with_inter_threads(1)?
        // A pool that spins takes the cores that transports and other instances need.
        .with_intra_op_spinning(false)?;
    commit_from_memory(builder, file)
}

/// What a session declares.
pub(super) fn signature_of(file: &ModelFile, session: &Session) -> Result<Signature, EngineError> {
    let path = &file.path;
    let declared = |what, outlets: &[Outlet]| {
        let all = outlets.iter().map(|outlet| declared(what, outlet));
        all.collect::<Result<Vec<_>, _>>().map_err(|refused| refused.at(path))
    };
    let mut inputs = declared("input", session.inputs())?;
    let mut outputs = declared("output", session.outputs())?;
    // The library tells a scalar and a tensor of which nothing is declared alike; the file does not.
    let mut scalars = inputs.iter_mut().chain(&mut outputs).filter(|it| it.is_scalar()).peekable();
    if scalars.peek().is_some() {
        let proto = graph::read(&file.model).map_err(|why| unusable(path, why, EXPORT_AGAIN))?;
        for scalar in scalars.filter(|it| !graph::declares_shape(&proto, &it.name)) {
            scalar.dims = None;
        }
    }
    let signature = signature(&inputs, &outputs);
    if signature.outputs.is_empty() {
        return Err(unusable(path, "the model has no outputs", EXPORT_AGAIN));
    }
    Ok(signature)
}

fn declared(what: &'static str, outlet: &Outlet) -> Result<Declared, Refused> {
    let name = outlet.name().to_owned();
    let ValueType::Tensor { ty, shape, dimension_symbols } = outlet.dtype() else {
        return Err(Refused { what, name, is: outlet.dtype().to_string() });
    };
    let Some(dtype) = dtype(*ty) else {
        return Err(Refused { what, name, is: format!("a tensor of {ty}") });
    };
    let symbols = dimension_symbols.iter().map(String::as_str).chain(std::iter::repeat(""));
    let dims = shape.iter().zip(symbols).map(|(&size, symbol)| {
        u64::try_from(size).map_or_else(|_open| DeclaredDim::open(symbol), DeclaredDim::Fixed)
    });
    Ok(Declared { name, dtype, dims: Some(dims.collect()) })
}

fn dtype(ty: TensorElementType) -> Option<DType> {
    Some(match ty {
        TensorElementType::Bool => DType::Bool,
        TensorElementType::Uint8 => DType::U8,
        TensorElementType::Int8 => DType::I8,
        TensorElementType::Uint16 => DType::U16,
        TensorElementType::Int16 => DType::I16,
        TensorElementType::Uint32 => DType::U32,
        TensorElementType::Int32 => DType::I32,
        TensorElementType::Uint64 => DType::U64,
        TensorElementType::Int64 => DType::I64,
        TensorElementType::Float16 => DType::F16,
        TensorElementType::Bfloat16 => DType::Bf16,
        TensorElementType::Float32 => DType::F32,
        TensorElementType::Float64 => DType::F64,
        _ => return None,
    })
}
