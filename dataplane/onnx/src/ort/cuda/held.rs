//! What a request under way holds, and where its tensors are.

use std::sync::Arc;

use ferry_core::Placement;
use ferry_cuda::Arena;
use ferry_engine::{EngineError, Job};
use ferry_memory::View;

use super::context::{Context, Staging};
use super::model::CudaModel;

/// All that the device uses while a request runs.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) job: Job,
    _workspace: Arc<Arena>,
    _model: Arc<CudaModel>,
}

impl Held {
    pub(super) fn new(job: Job, model: &Arc<CudaModel>, workspace: &Arc<Arena>) -> Held {
        Held { job, _workspace: Arc::clone(workspace), _model: Arc::clone(model) }
    }

    pub(super) fn into_job(self) -> Job {
        self.job
    }
}

/// How bytes come to the model, or from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// They are used where they are.
    InPlace,
    /// A copy engine, or for pageable memory the driver, moves them.
    Copy,
}

/// Where the model finds its tensors.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) request: Way,
    pub(super) reply: Way,
    pub(super) staging: Staging,
    addresses: Vec<u64>,
}

impl Places {
    /// Decides for one request.
    pub(super) fn of(
        model: &CudaModel,
        context: &mut Context,
        job: &Job,
    ) -> Result<Places, EngineError> {
        let staging = context.staging(&job.binding)?;
        let here = Placement::Cuda(model.device().ordinal());
        let on_device = |view: &View<'_>| view.placement() == here;
        // Integers are copied before they are used as an index: a peer may write them at any time.
        let floats = job.binding.inputs.iter().all(|tensor| tensor.dtype.is_float());
        let slot = job.arrival.slot.request();
        let request = if job.prepared.is_none() && floats && on_device(&slot) {
            Way::InPlace
        } else {
            Way::Copy
        };
        let reply = if on_device(&job.arrival.slot.reply()) { Way::InPlace } else { Way::Copy };
        let mut places = Places { request, reply, staging, addresses: Vec::new() };
        places.addresses = places.find(job)?;
        Ok(places)
    }

    fn find(&self, job: &Job) -> Result<Vec<u64>, EngineError> {
        let (inputs, outputs) = (&job.binding.inputs, &job.binding.outputs);
        let mut addresses = Vec::with_capacity(inputs.len() + outputs.len());
        let unreachable = || EngineError::Run("memory that the device cannot reach".to_owned());
        let part = |view: View<'_>, offset: u64, bytes: u64| {
            let (at, len) = (usize::try_from(offset), usize::try_from(bytes));
            let (Ok(at), Ok(len)) = (at, len) else { return Err(unreachable()) };
            Ok(view.part(at, len)?.device().ok_or_else(unreachable)?.address)
        };
        for (index, tensor) in inputs.iter().enumerate() {
            addresses.push(match self.request {
                Way::InPlace => job.input(index)?.device().ok_or_else(unreachable)?.address,
                Way::Copy => part(self.staging.request(), tensor.offset, tensor.bytes)?,
            });
        }
        for (index, tensor) in outputs.iter().enumerate() {
            addresses.push(match self.reply {
                Way::InPlace => job.output(index)?.device().ok_or_else(unreachable)?.address,
                Way::Copy => part(self.staging.reply(), tensor.offset, tensor.bytes)?,
            });
        }
        Ok(addresses)
    }

    /// One address per tensor, inputs first.
    pub(super) fn addresses(&self) -> &[u64] {
        &self.addresses
    }
}
