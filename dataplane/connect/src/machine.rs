//! What this machine has that a server may choose a transport by.

use crate::Options;

/// Whether this process sees a CUDA device. Loads the driver's library.
#[must_use]
pub fn has_cuda() -> bool {
    ferry_cuda::probe().is_ok()
}

/// Whether this host has an RDMA device that could be used: one with an active port.
#[cfg(feature = "rdma")]
#[must_use]
pub fn has_rdma(options: &Options) -> bool {
    use ferry_rdma::verbs::Device;

    let wanted = options.rdma.device.as_ref();
    let is_wanted = |name: &String| wanted.is_none_or(|wanted| wanted == name);
    let is_active = |name: String| {
        let looked = Device::open(&name).and_then(|device| {
            let ports = 1..=device.facts()?.ports;
            Ok(ports.into_iter().any(|port| device.port(port).is_ok_and(|now| now.active)))
        });
        looked.unwrap_or(false)
    };
    // An error means that there is no library or no driver: there is no device either.
    Device::names().unwrap_or_default().into_iter().filter(is_wanted).any(is_active)
}

/// Without the link no device is of use.
#[cfg(not(feature = "rdma"))]
#[must_use]
pub fn has_rdma(_options: &Options) -> bool {
    false
}

#[cfg(all(test, feature = "rdma"))]
mod tests {
    use ferry_rdma::RdmaOptions;

    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_none() {
        let device = Some("no-such-device".to_owned());
        assert!(!has_rdma(&Options { rdma: RdmaOptions { device, ..RdmaOptions::default() } }));
    }
}
