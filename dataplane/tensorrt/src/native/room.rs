//! Where a tensor is on the device: where it lies, or in memory of the lane's own.

use ferry_core::{BoundTensor, Placement};
use ferry_engine::EngineError;
use ferry_memory::{Region, View};

use super::gpu::{Gpu, GpuError, reach};

/// Where tensors must start for TensorRT to use them in place.
const ALIGN_BYTES: u64 = 256;

/// Memory for one tensor, where it cannot be used where it lies. It only grows.
#[derive(Debug, Default)]
pub(super) struct Room {
    device: Option<Region>,
    host: Option<Region>,
}

/// What holds for all tensors of a job.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    /// Nobody can change the inputs meanwhile.
    pub(super) private: bool,
    /// The graph takes floats for numbers and nothing else.
    pub(super) floats_are_plain: bool,
    /// Host memory is copied by the host first, registered or not: the session asked for it.
    pub(super) pageable: bool,
}

impl How {
    fn reach<G: Gpu>(self, gpu: &G, view: &View<'_>) -> Option<u64> {
        let used = !self.pageable || matches!(view.placement(), Placement::Cuda(_));
        reach(gpu, view).filter(|_| used)
    }

    /// Whether a tensor that changes meanwhile only makes the answer wrong.
    fn is_plain(self, tensor: &BoundTensor) -> bool {
        self.floats_are_plain && tensor.dtype.is_float()
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

impl Room {
    /// Pinned memory that the device copies to or from, if it was needed.
    pub(super) fn staging(&self) -> Option<&Region> {
        self.host.as_ref()
    }

    /// Where the device finds an input. Used where it lies if it lies in the device's memory, and
    /// if nobody can change what an operator might use as an index.
    pub(super) fn fill<G: Gpu>(
        &mut self,
        gpu: &G,
        view: &View<'_>,
        tensor: &BoundTensor,
        how: How,
        stream: &G::Stream,
    ) -> Result<(u64, Way), EngineError> {
        let bytes = length(view, tensor)?;
        let reached = how.reach(gpu, view);
        let harmless = how.is_plain(tensor) || how.private;
        if let Some(address) = reached.filter(|&it| harmless && in_place(view, it)) {
            return Ok((address, Way::InPlace));
        }
        let (from, way) = match reached {
            Some(from) => (from, Way::Copied),
            None => {
                let (host, address) = self.host(gpu, bytes)?;
                host.view_mut().copy_from(view, bytes)?;
                (address, Way::Staged)
            }
        };
        let to = self.device(gpu, bytes)?;
        // SAFETY: both are `bytes` long: `to` was allocated so, `from` is the view or pinned
        // memory of at least its length. The job and the lane keep them until the copy is over.
        unsafe { gpu.copy(to, from, bytes, stream) }.map_err(EngineError::from)?;
        Ok((to, way))
    }

    /// Where the device computes an output, and where it copies it to.
    pub(super) fn place<G: Gpu>(
        &mut self,
        gpu: &G,
        view: &View<'_>,
        tensor: &BoundTensor,
        how: How,
    ) -> Result<Place, EngineError> {
        let bytes = length(view, tensor)?;
        let reached = how.reach(gpu, view);
        // A model may go on computing with what is also an output: see `fill`.
        let harmless = how.is_plain(tensor);
        if let Some(run) = reached.filter(|&it| harmless && in_place(view, it)) {
            return Ok(Place { run, copy_to: None, staged: false });
        }
        let run = self.device(gpu, bytes)?;
        let copy_to = match reached {
            Some(to) => to,
            None => self.host(gpu, bytes)?.1,
        };
        Ok(Place { run, copy_to: Some(copy_to), staged: reached.is_none() })
    }

    fn device<G: Gpu>(&mut self, gpu: &G, bytes: usize) -> Result<u64, EngineError> {
        Ok(grown(&mut self.device, gpu, bytes, |bytes| gpu.memory(bytes))?.1)
    }

    fn host<G: Gpu>(&mut self, gpu: &G, bytes: usize) -> Result<(&mut Region, u64), EngineError> {
        grown(&mut self.host, gpu, bytes, |bytes| gpu.pinned(bytes))
    }
}

/// Memory of at least `bytes` bytes, and where the device finds it.
fn grown<'a, G: Gpu>(
    room: &'a mut Option<Region>,
    gpu: &G,
    bytes: usize,
    make: impl FnOnce(usize) -> Result<Region, GpuError>,
) -> Result<(&'a mut Region, u64), EngineError> {
    if room.as_ref().is_none_or(|room| room.bytes() < bytes) {
        // The old one first: the two together might not fit.
        *room = None;
        *room = Some(make(bytes).map_err(EngineError::from)?);
    }
    let region = room
        .as_mut()
        .ok_or_else(|| EngineError::Run("memory that was just taken is gone".to_owned()))?;
    let address = reach(gpu, &region.view());
    Ok((
        region,
        address
            .ok_or_else(|| EngineError::Run("memory that the device cannot reach".to_owned()))?,
    ))
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
