//! One instance of a model in ONNX Runtime.

use std::path::Path;
use std::sync::Arc;

use ferry_core::{DType, Signature, Stage, StageTimes};
use ferry_engine::{Engine, EngineError, Finished, Job, check_binding};
use ferry_memory::View;
use ort::session::Session;

use super::model::{OrtModel, OrtOptions};
use super::native::{Bindings, usable_in_place};
use super::private::Private;
use crate::runtime::Search;
use crate::stages::Stages;

/// An instance of an ONNX file in ONNX Runtime. It computes on the thread that submits.
///
/// Tensors are used where they lie in the slot, with three exceptions, which are copied to or from
/// memory of the engine's own:
///
/// - integers that a peer may write while the model runs: an operator that has checked an index
///   must not find another one when it uses it. A float can be wrong but is no index. Outputs too,
///   as a model may go on computing with what is also an output;
/// - booleans, because bytes other than 0 and 1 are none;
/// - memory that is not the host's, or not aligned.
///
/// Stages: `infer` is the binding and the run; `preprocess` and `postprocess` happen only where
/// something was copied.
#[derive(Debug)]
pub struct OrtEngine {
    signature: Signature,
    bindings: Bindings,
    inputs: Vec<Private>,
    outputs: Vec<Private>,
}

impl OrtEngine {
    /// Loads one instance; see [`OrtModel::open`] for several that share their weights.
    ///
    /// # Errors
    /// [`EngineError::Library`] if ONNX Runtime is missing, [`EngineError::Model`] if the file is
    /// not one that it can run.
    pub fn load(
        path: &Path,
        search: &Search,
        options: OrtOptions,
    ) -> Result<OrtEngine, EngineError> {
        OrtModel::open(path, search, options)?.instance()
    }

    pub(super) fn new(session: Arc<Session>, signature: Signature) -> ort::Result<OrtEngine> {
        let room = |count| std::iter::repeat_with(Private::default).take(count).collect();
        let (inputs, outputs) = (room(signature.inputs.len()), room(signature.outputs.len()));
        let bindings = Bindings::new(session, signature.clone())?;
        Ok(OrtEngine { signature, bindings, inputs, outputs })
    }

    fn run(&mut self, job: &mut Job) -> Result<StageTimes, EngineError> {
        let mut stages = Stages::start();
        let shapes = &Arc::clone(&job.binding);
        let fit =
            shapes.inputs.len() == self.inputs.len() && shapes.outputs.len() == self.outputs.len();
        if !fit {
            return check_binding(&self.signature, shapes).map(|()| StageTimes::NONE);
        }

        let private = job.inputs_are_private();
        let mut inputs = Vec::with_capacity(self.inputs.len());
        let mut copied_in = false;
        for (index, (room, tensor)) in self.inputs.iter_mut().zip(&shapes.inputs).enumerate() {
            let view = job.input(index)?;
            if in_place(&view, tensor.dtype, private) {
                inputs.push(view);
            } else {
                room.fill(&view, tensor.dtype)?;
                copied_in = true;
                inputs.push(room.view(view.bytes())?);
            }
        }

        let private = job.arrival.slot.reply_bytes().is_some();
        let mut outputs: Vec<View<'_>> = Vec::with_capacity(self.outputs.len());
        let mut copies = Vec::new();
        for (index, (room, tensor)) in self.outputs.iter_mut().zip(&shapes.outputs).enumerate() {
            let view = job.output(index)?;
            if in_place(&view, tensor.dtype, private) {
                outputs.push(view);
            } else {
                room.reserve(view.bytes())?;
                let own = room.view(view.bytes())?;
                copies.push((index, own));
                outputs.push(own);
            }
        }
        if copied_in {
            stages.end(Stage::Preprocess);
        }

        self.bindings.run(shapes, &inputs, &outputs)?;
        stages.end(Stage::Infer);
        if !copies.is_empty() {
            for (index, from) in copies {
                job.output_mut(index)?.copy_from(&from, from.bytes())?;
            }
            stages.end(Stage::Postprocess);
        }
        Ok(stages.times())
    }
}

/// Whether a tensor may be used where it lies.
fn in_place(view: &View<'_>, dtype: DType, private: bool) -> bool {
    let harmless = dtype.is_float() || (private && dtype != DType::Bool);
    harmless && usable_in_place(view, dtype)
}

impl Engine for OrtEngine {
    fn signature(&self) -> &Signature {
        &self.signature
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
