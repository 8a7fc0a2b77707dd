//! Slots in memory of a GPU that client and server share, over the doorbell of shm.

use std::sync::Arc;

use ferry_core::{Found, MemoryChoice, Placement, SlotLayout, Transport};
use ferry_cuda::{Device, IpcPlacer, exported_bytes};
use ferry_memory::{MemoryError, Placer, SlotTable};

use crate::sessions::Carrier;
use crate::sessions::carrier::{PassedOver, Unfit, Wish};

/// Whether a device's memory can hold slots. Whether a session's can is told when it is opened: its
/// model has to run on one, and its client to see it.
pub(super) fn look(has_lane: bool) -> (Option<Arc<dyn Carrier>>, Found) {
    let name = Transport::CudaIpc.name();
    let driver = match ferry_cuda::probe() {
        Ok(driver) => driver,
        Err(missing) => {
            return (None, Found::bad(name, format!("no CUDA: {}", missing.why), missing.fix));
        }
    };
    if !has_lane {
        let found =
            Found::bad(name, "its doorbell needs a lane of shm", "start with --lanes shm=1");
        return (None, found);
    }
    let detail = format!(
        "for models on a GPU, of which there are {} (CUDA {}); its doorbell is shm's",
        driver.devices(),
        driver.version()
    );
    (Some(Arc::new(OnSharedDevice)), Found::good(name, detail))
}

/// The transport cuda-ipc.
#[derive(Debug)]
struct OnSharedDevice;

impl Carrier for OnSharedDevice {
    fn transport(&self) -> Transport {
        Transport::CudaIpc
    }

    fn fits(&self, wish: &Wish<'_>) -> Result<(), Unfit> {
        if !wish.is_this_host {
            return Err(Unfit::new(
                "the client's host_id is not the server's, so that they share no device",
                "run both on one host, or ask for rdma or tcp",
            ));
        }
        let model = wish.model;
        match wish.device {
            None => Err(Unfit::new(
                format!("{model} runs on the CPU"),
                format!("ask for shm, or set device = \"cuda:0\" in {model}.toml"),
            )),
            Some(device) if !device.is_shareable => {
                let ordinal = device.ordinal;
                Err(Unfit::new(
                    format!("cuda:{ordinal} is in a compute mode that lets one process use it"),
                    format!("run nvidia-smi -i {ordinal} -c DEFAULT, or ask for shm"),
                ))
            }
            Some(_) => Ok(()),
        }
    }

    fn suits(&self, wish: &Wish<'_>) -> Result<String, PassedOver> {
        let Some(device) = wish.device.filter(|_| wish.is_this_host) else { return Err(None) };
        if let Some(memory) = wish.spec.placement.memory {
            return Err(Some(format!(
                "the client asked for memory of the host, {}",
                memory.name()
            )));
        }
        if !wish.spec.has_cuda {
            return Err(Some("the client sees no CUDA device, or did not say so".to_owned()));
        }
        Ok(format!(
            "client and server share a host with cuda:{}, which runs {}: tensors lie in its memory",
            device.ordinal, wish.model
        ))
    }

    /// Whole blocks of the device's memory.
    fn bytes(&self, layout: &SlotLayout) -> Result<usize, MemoryError> {
        exported_bytes(SlotTable::bytes(layout)?).ok_or_else(|| MemoryError::Layout {
            what: format!("{layout:?}: more than a device can have"),
        })
    }

    fn placer(
        &self,
        device: &Arc<Device>,
        placement: Placement,
        memory: MemoryChoice,
    ) -> Option<Arc<dyn Placer>> {
        match placement {
            Placement::Cuda(_) => Some(Arc::new(IpcPlacer::new(device))),
            Placement::Host => super::slots(device, placement, memory),
        }
    }
}

#[cfg(test)]
mod tests {
    use ferry_core::{HostMemory, PlacementWish, SessionSpec};

    use super::*;
    use crate::sessions::carrier::ModelDevice;

    const SHARED: Option<ModelDevice> = Some(ModelDevice { ordinal: 1, is_shareable: true });
    const EXCLUSIVE: Option<ModelDevice> = Some(ModelDevice { ordinal: 1, is_shareable: false });

    fn wish(spec: &SessionSpec, device: Option<ModelDevice>) -> Wish<'_> {
        Wish { spec, model: "m", device, is_this_host: true, is_inside: false }
    }

    #[test]
    fn cuda_ipc_by_name_needs_one_host_and_a_model_on_a_device_that_both_can_use() {
        // Who names it need not say that it can.
        let spec = SessionSpec::default();
        assert_eq!(OnSharedDevice.fits(&wish(&spec, SHARED)), Ok(()));
        let far = Wish { is_this_host: false, ..wish(&spec, SHARED) };
        for (wish, hints) in [
            (far, ["host_id", "ask for rdma or tcp"]),
            (wish(&spec, None), ["m runs on the CPU", "m.toml"]),
            (wish(&spec, EXCLUSIVE), ["compute mode", "nvidia-smi -i 1 -c DEFAULT"]),
        ] {
            let Unfit { why, fix } = OnSharedDevice.fits(&wish).unwrap_err();
            assert!(why.contains(hints[0]) && fix.contains(hints[1]), "{why}; {fix}");
        }
    }

    #[test]
    fn auto_takes_memory_of_the_models_device_where_both_ends_have_it() {
        let sees = SessionSpec { has_cuda: true, ..SessionSpec::default() };
        let why = OnSharedDevice.suits(&wish(&sees, SHARED)).unwrap();
        assert!(why.contains("cuda:1"), "{why}");
        let memory = Some(MemoryChoice::Always(HostMemory::Pinned));
        let placement = PlacementWish { memory, ..PlacementWish::default() };
        let pinned = SessionSpec { placement, ..sees.clone() };
        let blind = SessionSpec::default();
        let passed_over = |wish: &Wish<'_>| OnSharedDevice.suits(wish).unwrap_err();
        let told = |wish: &Wish<'_>| passed_over(wish).unwrap();
        assert!(told(&wish(&blind, SHARED)).contains("sees no CUDA device"));
        assert!(told(&wish(&pinned, SHARED)).contains("pinned"));
        assert_eq!(passed_over(&wish(&sees, None)), None, "nobody expects it on the CPU");
        assert_eq!(passed_over(&Wish { is_this_host: false, ..wish(&sees, SHARED) }), None);
    }

    #[test]
    fn slots_on_a_device_count_as_the_blocks_that_they_take() {
        let layout = SlotLayout { slots: 2, request_bytes: 602_112, reply_bytes: 4000 };
        assert_eq!(OnSharedDevice.bytes(&layout).unwrap(), 2 << 20);
        let most = SlotLayout { slots: 64, request_bytes: u64::MAX / 2, reply_bytes: 1 };
        assert!(OnSharedDevice.bytes(&most).is_err());
    }
}
