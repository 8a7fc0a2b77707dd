//! Contexts that share one engine, as one instance of a model.

use std::collections::BTreeMap;
use std::sync::Arc;

use ferry_core::{BoundSignature, Dim, Signature};
use ferry_engine::{Engine, EngineError, Finished, Job, check_binding};

use crate::native::execution::{Context, Execution};
use crate::native::gpu::Gpu;
use crate::native::lane::Lane;
use crate::options::DimRange;

/// An instance of a model in TensorRT: as many jobs at once as it has contexts, each on a stream
/// of its own. Made by [`TrtModel::instance`](crate::TrtModel::instance).
///
/// Tensors in the device's own memory are used where they lie, if they start at a multiple of 256
/// bytes; but what a peer may write while the model runs is copied if an operator may take it for an
/// index: integers, and floats where the graph takes those for more than numbers. An operator that
/// has checked an index must not find another one when it uses it. Everything else is copied by the
/// device, from and to pinned memory.
///
/// Stages: `infer`, and `copy_in` and `copy_out` where something was copied, by events on the
/// stream; `preprocess` and `postprocess` where the host had to copy to or from pinned memory.
#[derive(Debug)]
pub struct TrtEngine<G: Gpu> {
    lanes: Lanes<G, Context<G>>,
}

impl<G: Gpu> TrtEngine<G> {
    pub(crate) fn new(lanes: Lanes<G, Context<G>>) -> TrtEngine<G> {
        TrtEngine { lanes }
    }
}

impl<G: Gpu> Engine for TrtEngine<G> {
    fn signature(&self) -> &Signature {
        self.lanes.signature()
    }

    fn depth(&self) -> usize {
        self.lanes.depth()
    }

    fn submit(&mut self, job: Job) -> Option<Finished> {
        self.lanes.submit(job)
    }

    fn poll(&mut self, finished: &mut Vec<Finished>) {
        self.lanes.poll(finished);
    }
}

/// The order of work, without TensorRT.
#[derive(Debug)]
pub(crate) struct Lanes<G: Gpu, X: Execution> {
    signature: Signature,
    ranges: BTreeMap<String, DimRange>,
    lanes: Vec<Lane<G, X>>,
    /// Shapes that were found to be this model's, most often those of the next job too.
    known: Option<Arc<BoundSignature>>,
}

impl<G: Gpu, X: Execution> Lanes<G, X> {
    /// A lane for each of `executions`; `floats_are_plain` if the graph takes them for numbers and
    /// nothing else.
    pub(crate) fn new(
        gpu: &Arc<G>,
        signature: Signature,
        ranges: BTreeMap<String, DimRange>,
        floats_are_plain: bool,
        executions: Vec<X>,
    ) -> Result<Lanes<G, X>, EngineError> {
        let tensors = [signature.inputs.len(), signature.outputs.len()];
        let lane = |execution| Lane::new(gpu, execution, tensors, floats_are_plain);
        let lanes = executions.into_iter().map(lane);
        let lanes = lanes.collect::<Result<Vec<_>, _>>();
        let lanes = lanes.map_err(EngineError::from)?;
        Ok(Lanes { signature, ranges, lanes, known: None })
    }

    /// Whether the engine was built for these shapes.
    fn check(&mut self, binding: &Arc<BoundSignature>) -> Result<(), EngineError> {
        if self.known.as_ref().is_some_and(|it| Arc::ptr_eq(it, binding) || it == binding) {
            return Ok(());
        }
        check_binding(&self.signature, binding)?;
        for (spec, tensor) in self.signature.inputs.iter().zip(&binding.inputs) {
            for (dim, &size) in spec.shape.iter().zip(&tensor.shape) {
                let Dim::Named(name) = dim else { continue };
                let Some(range) = self.ranges.get(name) else { continue };
                if !(range.min..=range.max).contains(&size) {
                    return Err(EngineError::Shapes(format!(
                        "dimension {name:?} is {size}, and the engine was built for {} to {}: \
                         widen its range and load the model again",
                        range.min, range.max
                    )));
                }
            }
        }
        self.known = Some(Arc::clone(binding));
        Ok(())
    }
}

impl<G: Gpu, X: Execution> Engine for Lanes<G, X> {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn depth(&self) -> usize {
        self.lanes.len()
    }

    fn submit(&mut self, job: Job) -> Option<Finished> {
        if let Err(error) = self.check(&job.binding) {
            return Some(Finished { job, outcome: Err(error) });
        }
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.is_free()) else {
            let error = EngineError::Run("more jobs at once than there are contexts".to_owned());
            return Some(Finished { job, outcome: Err(error) });
        };
        let (job, error) = lane.start(job).err()?;
        Some(Finished { job, outcome: Err(error) })
    }

    fn poll(&mut self, finished: &mut Vec<Finished>) {
        let done = self.lanes.iter_mut().filter_map(Lane::take_done);
        finished.extend(done.map(|(job, outcome)| Finished { job, outcome }));
    }
}

#[cfg(test)]
mod tests;
