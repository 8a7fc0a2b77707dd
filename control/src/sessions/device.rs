//! Sessions of models that run on a GPU: where their slots lie.

use std::sync::Arc;

use ferry_core::{HostMemory, MemoryChoice, Placement, Transport};
use ferry_cuda::{CudaPlacer, IpcPlacer};
use ferry_memory::Placer;
use ferry_proto::v1;

use super::Session;
use crate::models::Served;

/// Where the server's slots are to lie, for a model on a device.
pub(super) fn placer(session: &Session) -> Option<Arc<dyn Placer>> {
    let device = session.served.device.as_ref()?;
    match (session.agreed.placement, session.agreed.memory) {
        (Placement::Cuda(_), _) if session.agreed.transport == Transport::CudaIpc => {
            Some(Arc::new(IpcPlacer::new(device)))
        }
        (Placement::Cuda(_), _) if session.agreed.transport == Transport::Gdr => {
            Some(Arc::new(CudaPlacer::exported(device)))
        }
        (Placement::Cuda(_), _) => Some(Arc::new(CudaPlacer::on_device(device))),
        (Placement::Host, MemoryChoice::Always(HostMemory::Pageable)) => None,
        (Placement::Host, _) => Some(Arc::new(CudaPlacer::registered(device))),
    }
}

/// A model, and the device that runs it, as far as they decide on a transport.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gpu<'a> {
    model: &'a str,
    /// Its number, and whether several processes may use it; `None` for a model on the CPU.
    device: Option<(u32, bool)>,
}

/// Why a transport does not fit a session, and what would.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unfit {
    pub(super) why: String,
    pub(super) fix: String,
}

impl Gpu<'_> {
    pub(super) fn of(served: &Served) -> Gpu<'_> {
        let device = served.device.as_ref();
        let device = device.map(|device| (device.ordinal(), device.attributes().shareable));
        Gpu { model: &served.name, device }
    }

    /// The number of its device.
    pub(super) fn ordinal(&self) -> Option<u32> {
        self.device.map(|(ordinal, _)| ordinal)
    }

    /// Whether its slots can lie in memory that its client opens; the device's number.
    pub(super) fn cuda_ipc(&self, is_this_host: bool) -> Result<u32, Unfit> {
        let unfit = |why: &str, fix: String| Err(Unfit { why: why.into(), fix });
        let model = self.model;
        if !is_this_host {
            return unfit(
                "the client's host_id is not the server's, so that they share no device",
                "run both on one host, or ask for rdma or tcp".into(),
            );
        }
        match self.device {
            None => unfit(
                &format!("{model} runs on the CPU"),
                format!("ask for shm, or set device = \"cuda:0\" in {model}.toml"),
            ),
            Some((ordinal, false)) => unfit(
                &format!("cuda:{ordinal} is in a compute mode that lets one process use it"),
                format!("run nvidia-smi -i {ordinal} -c DEFAULT, or ask for shm"),
            ),
            Some((ordinal, true)) => Ok(ordinal),
        }
    }

    /// Why the server chooses cuda-ipc for a client on this host, or why it does not.
    pub(super) fn choice(&self, asked: &v1::OpenSessionRequest) -> Result<String, String> {
        let ordinal = self.cuda_ipc(true).map_err(|unfit| unfit.why)?;
        let placement = asked.placement.as_ref();
        // One with no meaning is refused later.
        let memory = placement.and_then(|it| it.memory_choice().ok().flatten());
        if let Some(memory) = memory {
            return Err(format!("the client asked for memory of the host, {}", memory.name()));
        }
        if !asked.has_cuda {
            return Err("the client sees no CUDA device, or did not say so".into());
        }
        Ok(format!(
            "client and server share a host with cuda:{ordinal}, which runs {}: tensors lie in its \
             memory",
            self.model
        ))
    }
}

#[cfg(test)]
impl Gpu<'_> {
    pub(super) const CPU: Gpu<'static> = Gpu { model: "m", device: None };
    pub(super) const SHARED: Gpu<'static> = Gpu { model: "m", device: Some((1, true)) };
    pub(super) const EXCLUSIVE: Gpu<'static> = Gpu { model: "m", device: Some((1, false)) };
}
