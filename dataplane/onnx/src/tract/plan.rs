//! A graph optimised for one set of input shapes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ferry_core::{BoundSignature, BoundTensor, DType, panic_text};
use ferry_engine::EngineError;
use tract_onnx::prelude::{
    DatumType, InferenceFact, InferenceModel, InferenceModelExt, IntoRunnable, TValue, TVec,
    TractError, TractResult, TypedRunnableModel,
};
use tract_onnx::tract_hir::internal::{DimLike, TDim, format_err};

use super::half;
use crate::file::one_line;

/// An optimised graph and the shapes that it is for.
#[derive(Debug)]
pub(crate) struct Plan {
    inputs: Vec<Vec<usize>>,
    pub(crate) outputs: Vec<PlanOutput>,
    runnable: Arc<TypedRunnableModel>,
}

/// What an output of a plan is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PlanOutput {
    pub(crate) dtype: Option<DType>,
    /// A dimension is `None` if it depends on the values of the inputs.
    pub(crate) shape: Vec<Option<u64>>,
}

impl Plan {
    /// Optimises `model` for these input shapes.
    pub(crate) fn build(
        model: &InferenceModel,
        inputs: &[(DType, Vec<usize>)],
    ) -> Result<Plan, String> {
        let build = || -> TractResult<Plan> {
            let mut model = model.clone();
            for (index, (dtype, shape)) in inputs.iter().enumerate() {
                let datum =
                    datum_type(*dtype).ok_or_else(|| format_err!("tract has no {dtype}"))?;
                model = model.with_input_fact(index, InferenceFact::dt_shape(datum, shape))?;
            }
            let model = model.into_typed()?;
            let types = half::output_types(&model)?;
            let model = half::widened(model)?.into_optimized()?;
            let outputs = model.outputs.iter().zip(types).map(|(&outlet, datum)| {
                let fact = model.outlet_fact(outlet)?;
                let size = |dim: &TDim| dim.to_usize().ok().map(|size| size as u64);
                let shape = fact.shape.iter().map(size).collect();
                Ok(PlanOutput { dtype: dtype_of(datum), shape })
            });
            let outputs = outputs.collect::<TractResult<Vec<_>>>()?;
            let inputs = inputs.iter().map(|(_, shape)| shape.clone()).collect();
            Ok(Plan { inputs, outputs, runnable: model.into_runnable()? })
        };
        // tract asserts much of what a file may get wrong.
        match catch_unwind(AssertUnwindSafe(build)) {
            Ok(plan) => plan.map_err(|error| one_line(&format!("{error:#}"))),
            Err(panic) => Err(format!("tract panicked: {}", one_line(&panic_text(&*panic)))),
        }
    }

    /// Whether this is the plan for the input shapes of `binding`.
    pub(crate) fn is_for(&self, binding: &BoundSignature) -> bool {
        let same = |(own, tensor): (&Vec<usize>, &BoundTensor)| {
            own.len() == tensor.shape.len()
                && own.iter().zip(&tensor.shape).all(|(&own, &dim)| own as u64 == dim)
        };
        self.inputs.len() == binding.inputs.len()
            && self.inputs.iter().zip(&binding.inputs).all(same)
    }

    /// Computes.
    pub(crate) fn run(&self, inputs: TVec<TValue>) -> Result<TVec<TValue>, EngineError> {
        // The plan does not change while it runs: what a panic leaves behind is dropped with it.
        let run = || {
            let mut outputs = self.runnable.run(half::wide(inputs)?)?;
            for (value, declared) in outputs.iter_mut().zip(&self.outputs) {
                if declared.dtype == Some(DType::F16) {
                    half::round(value)?;
                }
            }
            Ok(outputs)
        };
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(outputs) => outputs
                .map_err(|error: TractError| EngineError::Run(one_line(&format!("{error:#}")))),
            Err(panic) => {
                let why = one_line(&panic_text(&*panic));
                Err(EngineError::Run(format!("tract panicked: {why}")))
            }
        }
    }
}

/// tract's name for an element type; it has no bfloat16.
pub(crate) fn datum_type(dtype: DType) -> Option<DatumType> {
    Some(match dtype {
        DType::Bool => DatumType::Bool,
        DType::U8 => DatumType::U8,
        DType::I8 => DatumType::I8,
        DType::U16 => DatumType::U16,
        DType::I16 => DatumType::I16,
        DType::U32 => DatumType::U32,
        DType::I32 => DatumType::I32,
        DType::U64 => DatumType::U64,
        DType::I64 => DatumType::I64,
        DType::F16 => DatumType::F16,
        DType::F32 => DatumType::F32,
        DType::F64 => DatumType::F64,
        DType::Bf16 => return None,
    })
}

fn dtype_of(datum: DatumType) -> Option<DType> {
    // Shapes that a graph computes with are dimensions to tract and INT64 to ONNX.
    let datum = if datum == DatumType::TDim { DatumType::I64 } else { datum.unquantized() };
    DType::ALL.into_iter().find(|&dtype| datum_type(dtype) == Some(datum))
}
