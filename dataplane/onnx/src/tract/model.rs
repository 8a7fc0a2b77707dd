//! An ONNX file in tract, and its instances.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ferry_core::{BoundSignature, DType, Signature, panic_text};
use ferry_engine::{EngineError, FileDigest};
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::InferenceModel;
use tract_onnx::tract_hir::internal::format_err;

use super::engine::TractEngine;
use super::plan::{Plan, PlanOutput};
use super::{declared, half};
use crate::external::Weights;
use crate::file::{EXPORT_AGAIN, ModelFile, one_line, unusable};
use crate::signature::{Declared, DeclaredDim, signature};

/// The version of the library that is built in.
pub(crate) const TRACT_VERSION: &str = "0.23.9";

/// How many plans a model with open dimensions keeps, one per set of shapes. Each may hold a
/// reordered copy of the weights. Sessions of more shapes than these, used in turn, pay for the
/// optimisation (a fraction of a second) again and again.
const PLANS_MAX: usize = 8;

/// What to do about an operator or a shape that tract does not know.
const TRY_ONNX: &str =
    "run dataplane/onnx/fetch-onnxruntime and use engine = \"onnx\", or export the model again";

/// A loaded file, from which instances are made. They share plans, and so the weights.
#[derive(Debug)]
pub struct TractModel {
    path: PathBuf,
    signature: Signature,
    files: Vec<FileDigest>,
    /// Why the graph does not show that rows mean nothing to each other; `None` if it does.
    doubt: Option<String>,
    /// The graph before it is optimised, kept only where there is more than one way to do it.
    graph: Option<InferenceModel>,
    /// The last used first.
    plans: Mutex<Vec<Arc<Plan>>>,
}

impl TractModel {
    /// Loads a file and optimises it, open dimensions taken as 1.
    ///
    /// # Errors
    /// [`EngineError::Model`] if the file is not one that tract can run.
    pub fn open(path: &Path) -> Result<Arc<TractModel>, EngineError> {
        let ModelFile { model, digests, .. } = ModelFile::read(path, Weights::Inside)?;
        let (proto, graph) = read(&model).map_err(|why| unusable(path, why, EXPORT_AGAIN))?;
        let declared = proto.graph.as_ref().map_or(Ok(Vec::new()), declared::inputs);
        let inputs = declared.map_err(|refused| refused.at(path))?;
        // First what is refused whatever the library can do: its name is what people need.
        for output in proto.graph.iter().flat_map(|graph| &graph.output) {
            declared::dtype("output", output).map_err(|refused| refused.at(path))?;
        }
        let shapes = inputs.iter().map(with_ones).collect::<Result<Vec<_>, _>>();
        let shapes = shapes.map_err(|why| unusable(path, why, TRY_ONNX))?;
        let open = inputs.iter().filter_map(|input| input.dims.as_ref()).flatten().any(is_open);
        let halves = proto.graph.as_ref().is_some_and(half::has_halves);
        let fix = if halves { half::TRY_ONNX } else { TRY_ONNX };
        let plan = Plan::build(&graph, &shapes).map_err(|why| unusable(path, why, fix))?;
        let outputs = outputs(path, &proto, &plan, open)?;
        Ok(Arc::new(TractModel {
            path: path.to_owned(),
            signature: signature(&inputs, &outputs),
            files: digests,
            doubt: ferry_onnx_file::rows::doubt(&model),
            graph: open.then_some(graph),
            plans: Mutex::new(vec![Arc::new(plan)]),
        }))
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

    /// Makes an instance; it shares the weights of the others.
    pub fn instance(self: &Arc<Self>) -> TractEngine {
        TractEngine::new(Arc::clone(self))
    }

    /// The plan for the shapes of a session, made if it is not there. Two instances that meet new
    /// shapes at once both make it, which does no harm.
    pub(super) fn plan(&self, binding: &BoundSignature) -> Result<Arc<Plan>, EngineError> {
        let known = {
            let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
            let at = plans.iter().position(|plan| plan.is_for(binding));
            at.and_then(|at| {
                plans[..=at].rotate_right(1);
                plans.first().cloned()
            })
        };
        if let Some(plan) = known {
            return Ok(plan);
        }
        let Some(graph) = &self.graph else {
            let what = format!("{} has fixed shapes only", self.path.display());
            return Err(EngineError::Shapes(what));
        };
        let shapes = binding.inputs.iter().map(|tensor| {
            let shape = tensor.shape.iter().map(|&dim| usize::try_from(dim));
            let shape = shape.collect::<Result<Vec<_>, _>>();
            shape.map(|shape| (tensor.dtype, shape))
        });
        let shapes = shapes
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| EngineError::Shapes(error.to_string()))?;
        let plan = Arc::new(Plan::build(graph, &shapes).map_err(EngineError::Shapes)?);
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        plans.insert(0, Arc::clone(&plan));
        plans.truncate(PLANS_MAX);
        Ok(plan)
    }
}

fn is_open(dim: &DeclaredDim) -> bool {
    !matches!(dim, DeclaredDim::Fixed(_))
}

fn with_ones(input: &Declared) -> Result<(DType, Vec<usize>), String> {
    let size = |dim: &DeclaredDim| match dim {
        DeclaredDim::Fixed(size) => usize::try_from(*size).unwrap_or(usize::MAX),
        DeclaredDim::Named(_) | DeclaredDim::Unnamed => 1,
    };
    let dims = input.dims.as_ref().ok_or_else(|| {
        format!("input {:?} declares no shape, which tract needs before it runs", input.name)
    })?;
    Ok((input.dtype, dims.iter().map(size).collect()))
}

fn read(model: &[u8]) -> Result<(ModelProto, InferenceModel), String> {
    let read = || {
        let mut proto = declared::read(model)?;
        if let Some(graph) = proto.graph.as_mut().filter(|graph| half::has_halves(graph)) {
            half::split_gemms(graph);
        }
        // Without a folder, so that it reads no file: all weights are inside.
        let parsed = tract_onnx::onnx()
            .parse(&proto, None)
            .and_then(|parsed| match parsed.unresolved_inputs.as_slice() {
                [] => Ok(parsed.model),
                names => Err(format_err!("nothing gives {}", names.join(", "))),
            })
            .map_err(|error| format!("{error:#}"))?;
        Ok((proto, parsed))
    };
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(read) => read.map_err(|why: String| one_line(&why)),
        Err(panic) => Err(format!("tract panicked: {}", one_line(&panic_text(&*panic)))),
    }
}

/// The outputs: as computed where all inputs are fixed, else as declared. What depends on the values
/// of the inputs is open.
fn outputs(
    path: &Path,
    proto: &ModelProto,
    plan: &Plan,
    open: bool,
) -> Result<Vec<Declared>, EngineError> {
    let declared = proto.graph.as_ref().map_or(&[][..], |graph| &graph.output);
    if declared.is_empty() {
        return Err(unusable(path, "the model has no outputs", EXPORT_AGAIN));
    }
    let output = |(value, computed): (&tract_onnx::pb::ValueInfoProto, &PlanOutput)| {
        let declared = declared::dtype("output", value).map_err(|refused| refused.at(path))?;
        // tract may compute in another type than the file declares; what it gives is what is sent.
        let dtype = computed.dtype.unwrap_or(declared);
        let named = |(at, size): (usize, &Option<u64>)| match (size, declared::dims(value)) {
            (Some(size), _) if !open => DeclaredDim::Fixed(*size),
            (_, Some(dims)) if dims.len() == computed.shape.len() => match &dims[at] {
                // Computed to be none, whatever is declared.
                DeclaredDim::Fixed(_) if size.is_none() => DeclaredDim::Unnamed,
                declared => declared.clone(),
            },
            _ => DeclaredDim::Unnamed,
        };
        let dims = computed.shape.iter().enumerate().map(named).collect();
        Ok(Declared { name: value.name.clone(), dtype, dims: Some(dims) })
    };
    declared.iter().zip(&plan.outputs).map(output).collect()
}

#[cfg(test)]
mod tests {
    use ferry_core::Dim;

    use super::*;

    /// Whether all dimensions of a model are fixed.
    fn is_fixed(signature: &Signature) -> bool {
        let all = signature.inputs.iter().chain(&signature.outputs);
        all.flat_map(|tensor| &tensor.shape).all(|dim| matches!(dim, Dim::Fixed(_)))
    }

    #[test]
    fn the_version_is_the_one_that_is_locked() {
        let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock");
        let lock = std::fs::read_to_string(lock).unwrap();
        let entry = format!("name = \"tract-onnx\"\nversion = \"{TRACT_VERSION}\"\n");
        assert!(lock.contains(&entry), "set TRACT_VERSION to the version in Cargo.lock");
    }

    #[test]
    fn a_graph_of_fixed_shapes_is_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        let written = ferry_zoo::write("digits", directory.path(), 1, &mut |_| {}).unwrap();
        let model = TractModel::open(&written.model).unwrap();
        assert_eq!(model.graph.is_none(), is_fixed(model.signature()));
    }
}
