//! One instance of a model in tract.

use std::path::Path;
use std::sync::Arc;

use ferry_core::{BoundTensor, DType, Signature, Stage, StageTimes};
use ferry_engine::{Engine, EngineError, Finished, Job, StageClock, check_binding};
use ferry_memory::{View, ViewMut};
use tract_onnx::prelude::{DatumType, IntoTValue, TValue, TVec, Tensor};

use super::model::TractModel;
use super::plan::{Plan, datum_type};
use crate::ort::only_true_and_false;

/// An instance of an ONNX file in tract. It computes on the thread that submits, with no others.
///
/// Stages: `preprocess` copies the inputs out of the slot (and, the first time that a session's
/// shapes are met, optimises the graph for them), `infer` computes, `postprocess` copies the
/// outputs into the slot.
#[derive(Debug)]
pub struct TractEngine {
    model: Arc<TractModel>,
    /// The plan of the last request.
    plan: Option<Arc<Plan>>,
}

impl TractEngine {
    /// Loads one instance; see [`TractModel::open`] for several that share their weights.
    ///
    /// # Errors
    /// [`EngineError::Model`] if the file is not one that tract can run.
    pub fn load(path: &Path) -> Result<TractEngine, EngineError> {
        Ok(TractModel::open(path)?.instance())
    }

    pub(super) fn new(model: Arc<TractModel>) -> TractEngine {
        TractEngine { model, plan: None }
    }

    fn run(&mut self, job: &mut Job) -> Result<StageTimes, EngineError> {
        let mut stages = StageClock::since(job.arrival.since());
        let binding = &*Arc::clone(&job.binding);
        check_binding(self.model.signature(), binding)?;
        let plan = match self.plan.take() {
            Some(plan) if plan.is_for(binding) => plan,
            _ => self.model.plan(binding)?,
        };
        let plan = &**self.plan.insert(plan);
        let mut inputs = TVec::new();
        for (index, tensor) in binding.inputs.iter().enumerate() {
            inputs.push(read(tensor, &job.input(index)?)?.into_tvalue());
        }
        stages.end(Stage::Preprocess);
        let outputs = plan.run(inputs)?;
        stages.end(Stage::Infer);
        let shape =
            |value: &TValue| value.shape().iter().map(|&dim| dim as u64).collect::<Vec<_>>();
        job.place_outputs(outputs.iter().map(shape))?;
        for (index, (tensor, value)) in binding.outputs.iter().zip(&outputs).enumerate() {
            write(tensor, value, job.output_mut(index)?)?;
        }
        stages.end(Stage::Postprocess);
        Ok(stages.times())
    }
}

fn read(tensor: &BoundTensor, view: &View<'_>) -> Result<Tensor, EngineError> {
    let failed = |why: String| EngineError::Run(format!("input {:?}: {why}", tensor.name));
    let datum = datum_type(tensor.dtype).ok_or_else(|| failed("no such type".to_owned()))?;
    let shape = tensor.shape.iter().map(|&dim| usize::try_from(dim));
    let shape = shape.collect::<Result<Vec<_>, _>>().map_err(|error| failed(error.to_string()))?;
    let mut own = Tensor::zero_dt(datum, &shape).map_err(|error| failed(format!("{error:#}")))?;
    let bytes = own.as_bytes_mut();
    view.copy_out(0, bytes)?;
    if tensor.dtype == DType::Bool {
        only_true_and_false(bytes);
    }
    Ok(own)
}

fn write(tensor: &BoundTensor, value: &TValue, mut view: ViewMut<'_>) -> Result<(), EngineError> {
    let failed = |why: String| EngineError::Run(format!("output {:?}: {why}", tensor.name));
    let given = if value.datum_type() == DatumType::TDim {
        value.cast_to::<i64>().map_err(|error| failed(format!("{error:#}")))?
    } else {
        std::borrow::Cow::Borrowed(&**value)
    };
    let same = datum_type(tensor.dtype) == Some(given.datum_type().unquantized())
        && given.as_bytes().len() == view.bytes();
    if !same {
        let (datum, shape) = (given.datum_type(), given.shape());
        return Err(failed(format!("tract gave {datum:?} {shape:?}")));
    }
    Ok(view.copy_in(0, given.as_bytes())?)
}

impl Engine for TractEngine {
    fn signature(&self) -> &Signature {
        self.model.signature()
    }

    fn depth(&self) -> usize {
        1
    }

    fn submit(&mut self, mut job: Job) -> Option<Finished> {
        let outcome = self.run(&mut job);
        Some(Finished { job, outcome })
    }

    fn poll(&mut self, _finished: &mut Vec<Finished>) {}
}
