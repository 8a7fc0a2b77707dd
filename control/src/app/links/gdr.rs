//! RDMA into memory of a GPU: whether the card reaches it is tried once, at the start.

use std::sync::Arc;

use ferry_core::{Found, MemoryChoice, Placement, SlotLayout, Transport, error_text};
use ferry_cuda::{CudaPlacer, Device};
use ferry_memory::{MemoryError, Placer};
use ferry_rdma::areas::Areas;
use ferry_rdma::{RdmaOptions, try_device_memory};

use super::rdma;
use crate::sessions::Carrier;
use crate::sessions::carrier::{PassedOver, Unfit, Wish};

/// What to do where the card does not reach a device; what is missing says more.
const FIX: &str = "see what is missing, and docs/RDMA.md, section gdr";

/// The transport, if there is any device, and a finding for each device and one for all.
pub(super) fn look(
    options: &RdmaOptions,
    has_lane: bool,
) -> (Option<Arc<dyn Carrier>>, Vec<Found>) {
    let name = Transport::Gdr.name();
    if !has_lane {
        let why = "it needs a lane of rdma, and there is none";
        return (None, vec![Found::bad(name, why, "see rdma")]);
    }
    let driver = match ferry_cuda::probe() {
        Ok(driver) => driver,
        Err(missing) => {
            let why = format!("no CUDA: {}", missing.why);
            return (None, vec![Found::bad(name, why, missing.fix)]);
        }
    };
    let devices: Vec<_> = (0..driver.devices()).map(|ordinal| on(options, ordinal)).collect();
    let reached: Vec<_> = devices.iter().filter(|it| it.usable).map(|it| &*it.name).collect();
    let whole = if reached.is_empty() {
        Found::bad(name, "the card reaches no GPU's memory", FIX)
    } else {
        Found::good(name, reached.join(", "))
    };
    // One that is not reached says so when a session would have it.
    let on_device = || Arc::new(OnDevice { devices: devices.clone() }) as Arc<dyn Carrier>;
    let carrier = (!devices.is_empty()).then(on_device);
    (carrier, devices.into_iter().chain([whole]).collect())
}

/// The name of what was found about one device.
fn name_of(ordinal: u32) -> String {
    format!("{} cuda:{ordinal}", Transport::Gdr)
}

/// A page of the device's memory, allocated, exported and registered, written and read back.
fn on(options: &RdmaOptions, ordinal: u32) -> Found {
    let name = name_of(ordinal);
    let device = match Device::open(ordinal) {
        Ok(device) => device,
        Err(error) => return Found::bad(name, error_text(&error), "see `nvidia-smi`"),
    };
    match try_device_memory(options, &CudaPlacer::exported(&device)) {
        Ok(by) => {
            let attributes = device.attributes();
            let detail = format!(
                "{} by {}, flush {}, ordering {}",
                device.name(),
                by.name(),
                attributes.gpudirect_flush,
                attributes.gpudirect_ordering
            );
            Found::good(name, detail)
        }
        Err(why) => Found::bad(name, error_text(&why), FIX),
    }
}

/// The transport gdr.
#[derive(Debug)]
struct OnDevice {
    /// What was found about each device.
    devices: Vec<Found>,
}

impl Carrier for OnDevice {
    fn transport(&self) -> Transport {
        Transport::Gdr
    }

    fn fits(&self, wish: &Wish<'_>) -> Result<(), Unfit> {
        let model = wish.model;
        let Some(device) = wish.device else {
            return Err(Unfit::new(
                format!("{model} runs on the CPU, and has no memory of a GPU to write to"),
                format!("ask for rdma, or set device = \"cuda:0\" in {model}.toml"),
            ));
        };
        let name = name_of(device.ordinal);
        let (why, fix) = match self.devices.iter().find(|it| it.name == name) {
            Some(found) if found.usable => return Ok(()),
            Some(found) => (found.detail.clone(), found.fix.clone()),
            None => {
                let why = format!("cuda:{} was not there when the server started", device.ordinal);
                (why, "restart the server".to_owned())
            }
        };
        Err(Unfit::new(
            why,
            format!("{fix}; or ask for rdma, which carries tensors in host memory"),
        ))
    }

    fn suits(&self, wish: &Wish<'_>) -> Result<String, PassedOver> {
        let (Some(reason), Some(device)) = (rdma::reason(wish), wish.device) else {
            return Err(None);
        };
        if let Some(MemoryChoice::Always(memory)) = wish.spec.placement.memory {
            let why = format!("the client asked for {} memory of the host", memory.name());
            return Err(Some(why));
        }
        let (ordinal, model) = (device.ordinal, wish.model);
        Ok(format!("{reason}; the server's reaches memory of cuda:{ordinal}, which runs {model}"))
    }

    fn bytes(&self, layout: &SlotLayout) -> Result<usize, MemoryError> {
        rdma::bytes(layout, Areas::apart)
    }

    fn placer(
        &self,
        device: &Arc<Device>,
        placement: Placement,
        memory: MemoryChoice,
    ) -> Option<Arc<dyn Placer>> {
        match placement {
            Placement::Cuda(_) => Some(Arc::new(CudaPlacer::exported(device))),
            Placement::Host => super::slots(device, placement, memory),
        }
    }
}

#[cfg(test)]
mod tests {
    use ferry_core::{HostMemory, PlacementWish, SessionSpec};

    use super::*;
    use crate::sessions::carrier::ModelDevice;

    fn carrier() -> OnDevice {
        let reached = Found::good(name_of(0), "by dma-buf");
        let not =
            Found::bad(name_of(1), "the driver of rxe0 takes no dma-bufs", "take another card");
        OnDevice { devices: vec![reached, not] }
    }

    fn wish(spec: &SessionSpec, ordinal: Option<u32>) -> Wish<'_> {
        let device = ordinal.map(|ordinal| ModelDevice { ordinal, is_shareable: true });
        Wish { spec, model: "resnet", device, is_this_host: false, is_inside: false }
    }

    #[test]
    fn gdr_needs_a_model_on_a_device_that_the_card_reached_at_the_start() {
        let spec = SessionSpec::default();
        let said = |ordinal| carrier().fits(&wish(&spec, ordinal));
        assert_eq!(said(Some(0)), Ok(()));
        let on_cpu = said(None).unwrap_err();
        assert!(on_cpu.why.contains("resnet runs on the CPU"), "{on_cpu:?}");
        let unreached = said(Some(1)).unwrap_err();
        assert!(unreached.why.contains("takes no dma-bufs"), "{unreached:?}");
        assert!(unreached.fix.contains("take another card; or ask for rdma"), "{unreached:?}");
        let late = said(Some(2)).unwrap_err();
        assert!(late.why.contains("cuda:2 was not there"), "{late:?}");
    }

    #[test]
    fn auto_takes_gdr_in_place_of_rdma_only_for_a_model_on_a_device() {
        let plain = SessionSpec { has_rdma: true, ..SessionSpec::default() };
        let suits = |spec: &SessionSpec, ordinal| carrier().suits(&wish(spec, ordinal));
        let reason = suits(&plain, Some(0)).unwrap();
        assert!(reason.contains("reaches memory of cuda:0"), "{reason}");
        assert_eq!(suits(&plain, None), Err(None));
        assert_eq!(suits(&SessionSpec::default(), Some(0)), Err(None), "the client has no device");
        let memory = Some(MemoryChoice::Always(HostMemory::Pinned));
        let placement = PlacementWish { memory, ..PlacementWish::default() };
        let pinned = SessionSpec { placement, ..plain };
        let why = suits(&pinned, Some(0)).unwrap_err().unwrap();
        assert!(why.contains("pinned memory of the host"), "{why}");
    }
}
