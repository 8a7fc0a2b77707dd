//! Where a tensor is on the device: where it lies, or in memory of the lane's own.

use ferry_core::{BoundTensor, Placement};
use ferry_engine::EngineError;
use ferry_memory::{Region, View};

use super::gpu::Gpu;
use super::lane::failed;

/// Where tensors must start for TensorRT to use them in place.
const ALIGN_BYTES: u64 = 256;

/// Memory for one tensor, where it cannot be used where it lies. It only grows.
#[derive(Debug)]
pub(super) struct Room<G: Gpu> {
    device: Option<(usize, G::Buffer)>,
    host: Option<Region>,
}

impl<G: Gpu> Default for Room<G> {
    fn default() -> Self {
        Room { device: None, host: None }
    }
}

/// How an input reached the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    InPlace,
    Copied,
    /// By the host into pinned memory, and then copied.
    Staged,
}

/// Where an output is computed, and where it goes from there.
pub(super) struct Place {
    pub(super) run: u64,
    pub(super) copy_to: Option<u64>,
    pub(super) staged: bool,
}

impl<G: Gpu> Room<G> {
    /// Pinned memory that the device copies to or from, if it was needed.
    pub(super) fn staging(&self) -> Option<&Region> {
        self.host.as_ref()
    }

    /// Where the device finds an input. Used where it lies if it lies in the device's memory, and
    /// if nobody can change what an operator might use as an index.
    pub(super) fn fill(
        &mut self,
        gpu: &G,
        view: &View<'_>,
        tensor: &BoundTensor,
        private: bool,
        stream: &G::Stream,
    ) -> Result<(u64, Way), EngineError> {
        let bytes = length(view, tensor)?;
        let reach = gpu.reach(view);
        let harmless = tensor.dtype.is_float() || private;
        if let Some(address) = reach.filter(|&it| harmless && in_place(view, it)) {
            return Ok((address, Way::InPlace));
        }
        let (from, way) = match reach {
            Some(from) => (from, Way::Copied),
            None => {
                let (host, address) = self.host(gpu, bytes)?;
                host.view().copy_from(view, bytes)?;
                (address, Way::Staged)
            }
        };
        let to = self.device(gpu, bytes)?;
        // SAFETY: both are `bytes` long: `to` was allocated so, `from` is the view or pinned
        // memory of at least its length. The job and the lane keep them until the copy is over.
        unsafe { gpu.copy(to, from, bytes, stream) }.map_err(failed)?;
        Ok((to, way))
    }

    /// Where the device computes an output, and where it copies it to.
    pub(super) fn place(
        &mut self,
        gpu: &G,
        view: &View<'_>,
        tensor: &BoundTensor,
    ) -> Result<Place, EngineError> {
        let bytes = length(view, tensor)?;
        let reach = gpu.reach(view);
        // A model may go on computing with what is also an output: see `fill`.
        let harmless = tensor.dtype.is_float();
        if let Some(run) = reach.filter(|&it| harmless && in_place(view, it)) {
            return Ok(Place { run, copy_to: None, staged: false });
        }
        let run = self.device(gpu, bytes)?;
        let copy_to = match reach {
            Some(to) => to,
            None => self.host(gpu, bytes)?.1,
        };
        Ok(Place { run, copy_to: Some(copy_to), staged: reach.is_none() })
    }

    fn device(&mut self, gpu: &G, bytes: usize) -> Result<u64, EngineError> {
        if self.device.as_ref().is_none_or(|(room, _)| *room < bytes) {
            // The old one first: the two together might not fit.
            self.device = None;
            self.device = Some((bytes, gpu.buffer(bytes).map_err(failed)?));
        }
        let none = || failed("device memory that was just taken is gone");
        self.device.as_ref().map(|(_, buffer)| gpu.address(buffer)).ok_or_else(none)
    }

    fn host(&mut self, gpu: &G, bytes: usize) -> Result<(&Region, u64), EngineError> {
        if self.host.as_ref().is_none_or(|room| room.bytes() < bytes) {
            self.host = None;
            self.host = Some(gpu.pinned(bytes).map_err(failed)?);
        }
        let region = self.host.as_ref().ok_or_else(|| failed("pinned memory is gone"))?;
        let address = gpu.reach(&region.view());
        Ok((region, address.ok_or_else(|| failed("pinned memory that the device cannot reach"))?))
    }
}

fn in_place(view: &View<'_>, address: u64) -> bool {
    matches!(view.placement(), Placement::Cuda(_)) && address.is_multiple_of(ALIGN_BYTES)
}

/// The length of a view, which must be the tensor's.
fn length(view: &View<'_>, tensor: &BoundTensor) -> Result<usize, EngineError> {
    if view.bytes() as u64 == tensor.bytes {
        return Ok(view.bytes());
    }
    let what = format!("{}: {} bytes for {}", tensor.name, view.bytes(), tensor.bytes);
    Err(EngineError::Shapes(what))
}
