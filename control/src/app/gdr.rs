//! Whether tensors can go from the network into memory of a GPU: tried once, at the start.

use ferry_core::{Transport, error_text};
use ferry_cuda::{CudaPlacer, Device};
use ferry_proto::v1;
use ferry_rdma::try_device_memory;

use super::findings::finding;
use crate::config::Config;
use crate::serving::lanes::Lanes;
use crate::sessions::gdr_finding;

/// What to do where the card does not reach a device; what is missing says more.
const FIX: &str = "see what is missing, and docs/RDMA.md, section gdr";

/// One finding for each device, and one for the transport as a whole: usable if any device is.
pub(super) fn findings(config: &Config, lanes: &Lanes) -> Vec<v1::Finding> {
    let name = Transport::Gdr.name();
    let no = |why: String, fix: &str| vec![finding("transport", name, Err((why, fix)))];
    if lanes.best(Transport::Rdma).is_none() {
        return no("it needs a lane of rdma, and there is none".into(), "see rdma");
    }
    let driver = match ferry_cuda::probe() {
        Ok(driver) => driver,
        Err(missing) => return no(format!("no CUDA: {}", missing.why), &missing.fix),
    };
    let mut all: Vec<_> = (0..driver.devices()).map(|ordinal| on(config, ordinal)).collect();
    let reached: Vec<_> = all.iter().filter(|it| it.usable).map(|it| it.name.as_str()).collect();
    let whole = if reached.is_empty() {
        finding("transport", name, Err(("the card reaches no GPU's memory".into(), FIX)))
    } else {
        finding("transport", name, Ok(reached.join(", ")))
    };
    all.push(whole);
    all
}

/// A page of the device's memory, allocated, exported and registered, written and read back.
fn on(config: &Config, ordinal: u32) -> v1::Finding {
    let name = gdr_finding(ordinal);
    let device = match Device::open(ordinal) {
        Ok(device) => device,
        Err(error) => {
            return finding("transport", &name, Err((error_text(&error), "see `nvidia-smi`")));
        }
    };
    match try_device_memory(&config.rdma, &CudaPlacer::exported(&device)) {
        Ok(by) => {
            let attributes = device.attributes();
            let detail = format!(
                "{} by {}, flush {}, ordering {}",
                device.name(),
                by.name(),
                attributes.gpudirect_flush,
                attributes.gpudirect_ordering
            );
            finding("transport", &name, Ok(detail))
        }
        Err(why) => finding("transport", &name, Err((error_text(&why), FIX))),
    }
}
