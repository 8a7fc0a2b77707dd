//! A model on a GPU, and its instances.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ferry_core::Signature;
use ferry_engine::library::Search;
use ferry_engine::{EngineError, FileDigest};

use crate::build::{build_source, can_target};
use crate::cache::Cache;
use crate::engine::{Lanes, TrtEngine};
use crate::native::execution::{Context, Weights};
use crate::native::gpu::{self, Gpu};
use crate::options::{BuildOptions, DimRange, Precision};
use crate::plan::About;
use crate::search::required;
use crate::source::Source;

/// How TensorRT runs a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrtOptions {
    /// What it computes with.
    pub precision: Precision,
    /// Sizes of open dimensions by their name; others have [`DimRange::default`].
    pub ranges: BTreeMap<String, DimRange>,
    /// Contexts, each with a stream, of one instance; at least 1.
    pub contexts: usize,
}

impl Default for TrtOptions {
    fn default() -> Self {
        TrtOptions { precision: Precision::default(), ranges: BTreeMap::new(), contexts: 1 }
    }
}

/// A loaded engine, from which instances are made. Its weights are in the GPU's memory once,
/// however many instances there are.
#[derive(Debug)]
pub struct TrtModel<G: Gpu> {
    gpu: Arc<G>,
    weights: Arc<Weights<G>>,
    about: About,
    contexts: usize,
    floats_are_plain: bool,
    files: Vec<FileDigest>,
    /// Why the graph does not show that rows mean nothing to each other; `None` if it does.
    doubt: Option<String>,
}

impl<G: Gpu> TrtModel<G> {
    /// Loads a file on a GPU: from the cache, if there is one and it has the engine, else built.
    ///
    /// # Errors
    /// [`EngineError::Library`] if TensorRT is missing, there is no driver, or TensorRT does not
    /// run on this GPU: it says what does, and what to use instead. Else as [`build`](crate::build()).
    pub fn open(
        path: &Path,
        search: &Search,
        cache: Option<&Cache>,
        options: &TrtOptions,
        gpu: &Arc<G>,
    ) -> Result<TrtModel<G>, EngineError> {
        gpu::check(gpu)?;
        let capability = Some(gpu.capability()).filter(|&it| can_target(it));
        let precision = options.precision;
        let building = BuildOptions { precision, capability, ranges: options.ranges.clone() };
        let library = required(search)?;
        let source = Source::read(path)?;
        let floats_are_plain = source.floats_are_plain()?;
        let doubt = source.doubt();
        let plan = match cache {
            Some(cache) => cache.get_source(&source, library, &building)?.0,
            None => build_source(&source, library, &building)?,
        };
        let weights = Weights::load(&plan.engine, gpu)?;
        let contexts = options.contexts.max(1);
        let (about, files) = (plan.about, vec![source.digest]);
        Ok(TrtModel {
            gpu: Arc::clone(gpu),
            weights,
            about,
            contexts,
            floats_are_plain,
            files,
            doubt,
        })
    }

    /// What the model takes and gives.
    pub fn signature(&self) -> &Signature {
        &self.about.signature
    }

    /// What it was loaded from.
    pub fn files(&self) -> &[FileDigest] {
        &self.files
    }

    /// Why the graph does not show that rows mean nothing to each other; `None` if it does.
    pub fn doubt(&self) -> Option<&str> {
        self.doubt.as_deref()
    }

    /// The version of TensorRT, such as `1.7.1.116`.
    pub fn library_version(&self) -> &str {
        &self.about.library_version
    }

    /// What it computes with.
    pub fn precision(&self) -> Precision {
        self.about.precision
    }

    /// The sizes that each open dimension of the inputs may take.
    pub fn ranges(&self) -> &BTreeMap<String, DimRange> {
        &self.about.ranges
    }

    /// Makes an instance, with contexts of its own.
    ///
    /// # Errors
    /// [`EngineError::Run`] if the GPU has no memory left for them.
    pub fn instance(&self) -> Result<TrtEngine<G>, EngineError> {
        let contexts = (0..self.contexts).map(|_| Context::new(&self.weights));
        let contexts = contexts.collect::<Result<Vec<_>, _>>()?;
        let About { signature, ranges, .. } = self.about.clone();
        let lanes = Lanes::new(&self.gpu, signature, ranges, self.floats_are_plain, contexts);
        lanes.map(TrtEngine::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::fake::Fake;

    fn refused(gpu: &Arc<Fake>) -> String {
        let (nowhere, search) = (Path::new("/nowhere.onnx"), Search::default());
        let opened = TrtModel::open(nowhere, &search, None, &TrtOptions::default(), gpu);
        match opened {
            Err(error @ EngineError::Library { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    #[cfg(not(feature = "enterprise"))]
    fn a_gpu_that_is_not_supported() {
        let mut gpu = Fake::new();
        let hopper = crate::Capability { major: 9, minor: 0 };
        Arc::get_mut(&mut gpu).unwrap().capability = hopper;
        let text = refused(&gpu);
        assert!(text.contains("9.0") && text.contains("8.0, 8.6, 8.9, 12.0 and above"), "{text}");
        assert!(text.contains("engine = \"onnx\""), "{text}");
    }

    /// Where no driver answers TensorRT is not asked: it would end the process. Where one does, it
    /// refuses what is no engine, and the process goes on.
    #[test]
    fn with_or_without_a_gpu_what_cannot_be_loaded_is_an_error() {
        let gpu = Fake::new();
        let error = Weights::load(b"no engine", &gpu).map(drop).unwrap_err();
        assert!(matches!(error, EngineError::Library { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("engine = \"onnx\""), "{text}");
        if let Err(missing) = ferry_cuda::probe() {
            assert!(text.contains(&missing.why) && text.contains("NVIDIA's driver, 580"), "{text}");
            assert_eq!(refused(&gpu), text);
        }
    }
}
