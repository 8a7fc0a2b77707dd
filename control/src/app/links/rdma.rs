//! RDMA into memory of the host; its lanes carry gdr, too.

use std::sync::Arc;

use ferry_core::{LinkKind, MemoryChoice, Placement, SlotLayout, Transport};
use ferry_cuda::{Device, DeviceBacking};
use ferry_memory::{MemoryError, Placer};
use ferry_rdma::areas::Areas;
use ferry_rdma::{RdmaListener, RdmaOptions};

use super::{Carried, LinkFactory, Make, gdr};
use crate::config::Config;
use crate::serving::lanes::Door;
use crate::sessions::Carrier;
use crate::sessions::carrier::{PassedOver, Wish};

/// The link.
pub(super) struct Rdma {
    options: RdmaOptions,
}

impl Rdma {
    pub(super) fn new(config: &Config) -> Rdma {
        Rdma { options: config.rdma.clone() }
    }
}

impl LinkFactory for Rdma {
    fn kind(&self) -> LinkKind {
        LinkKind::Rdma
    }

    fn lanes(&self) -> Option<u32> {
        Some(1)
    }

    fn make(&self, _lane: &str) -> Result<(Make, Option<Arc<dyn Door>>), String> {
        let options = self.options.clone();
        let make: Make = Box::new(move || Ok(Box::new(RdmaListener::open(options)?)));
        Ok((make, None))
    }

    fn fix(&self) -> &'static str {
        "see `ferry doctor` for what RDMA needs on this machine"
    }

    fn may_be_missing(&self) -> bool {
        true
    }

    fn carried(&self, lives: bool) -> Carried {
        let (on_device, found) = gdr::look(&self.options, lives);
        let on_host: Arc<dyn Carrier> = Arc::new(OnHost);
        (std::iter::once(on_host).chain(on_device).collect(), found)
    }
}

/// Why auto takes RDMA; `None` where it does not.
pub(super) fn reason(wish: &Wish<'_>) -> Option<&'static str> {
    let suits = !wish.is_this_host && wish.spec.has_rdma;
    suits.then_some("client and server share no host, and both have an RDMA device")
}

/// The transport rdma.
#[derive(Debug)]
struct OnHost;

impl Carrier for OnHost {
    fn transport(&self) -> Transport {
        Transport::Rdma
    }

    fn suits(&self, wish: &Wish<'_>) -> Result<String, PassedOver> {
        reason(wish).map(str::to_owned).ok_or(None)
    }

    fn bytes(&self, layout: &SlotLayout) -> Result<usize, MemoryError> {
        bytes(layout, Areas::new)
    }

    fn placer(
        &self,
        device: &Arc<Device>,
        placement: Placement,
        memory: MemoryChoice,
    ) -> Option<Arc<dyn Placer>> {
        super::slots(device, placement, memory)
    }
}

/// Each half has room for a header in front, and each direction an area for frames without a slot.
/// Of gdr, headers and payloads lie apart, and payloads in whole pages of the device.
pub(super) fn bytes(
    layout: &SlotLayout,
    divide: impl Fn(u32, u64) -> Result<Areas, MemoryError>,
) -> Result<usize, MemoryError> {
    let too_long =
        || MemoryError::Layout { what: format!("{layout:?}: more than this machine can address") };
    [layout.request_bytes, layout.reply_bytes].into_iter().try_fold(0_usize, |sum, bytes| {
        let areas = divide(layout.slots, bytes)?;
        let payloads = areas.payloads_bytes().map_or(Some(0), DeviceBacking::exported_bytes);
        let both = payloads.and_then(|payloads| payloads.checked_add(areas.bytes()));
        both.and_then(|both| sum.checked_add(both)).ok_or_else(too_long)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_of_gdr_count_as_the_pages_of_the_device_that_they_take() {
        let layout = SlotLayout { slots: 2, request_bytes: 602_112, reply_bytes: 4000 };
        let host = OnHost.bytes(&layout).unwrap();
        assert_eq!(host, 2 * (602_112 + 4096) + 4096 + 2 * 8192 + 4096);
        // 2 × 602,112 in 19 pages of 64 KiB and 2 × 4,096 in one, each with one to begin at a
        // boundary; 3 headers of 2 KiB, tails included, each way.
        let device = bytes(&layout, Areas::apart).unwrap();
        assert_eq!(device, (19 + 1 + 1 + 1) * 65_536 + 2 * 3 * 2048);
        let most = SlotLayout { slots: 64, request_bytes: u64::MAX / 2, reply_bytes: 1 };
        assert!(bytes(&most, Areas::apart).is_err());
    }
}
