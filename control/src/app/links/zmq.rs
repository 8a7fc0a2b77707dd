//! ZeroMQ.

use std::net::SocketAddr;
use std::sync::Arc;

use ferry_core::{LinkKind, MemoryChoice, Placement, SlotLayout, Transport};
use ferry_cuda::Device;
use ferry_memory::Placer;
use ferry_transport::{ZmqListenerLink, ZmqOptions};

use super::{Carried, DATA_ADDRESS_FIX, LinkFactory, Make, SESSIONS_MAX, data_address};
use crate::config::Config;
use crate::serving::lanes::Door;
use crate::sessions::Carrier;
use crate::sessions::carrier::{PassedOver, Unfit, Wish};

/// The link.
pub(super) struct Zmq {
    address: Result<SocketAddr, String>,
    request_bytes_max: u64,
}

impl Zmq {
    pub(super) fn new(config: &Config) -> Zmq {
        Zmq { address: data_address(config), request_bytes_max: config.request_bytes_max }
    }
}

impl LinkFactory for Zmq {
    fn kind(&self) -> LinkKind {
        LinkKind::Zmq
    }

    fn lanes(&self) -> Option<u32> {
        Some(1)
    }

    fn make(&self, _lane: &str) -> Result<(Make, Option<Arc<dyn Door>>), String> {
        let (address, request_bytes_max) = (self.address.clone()?, self.request_bytes_max);
        let make: Make = Box::new(move || {
            let options = ZmqOptions { sessions_max: SESSIONS_MAX, request_bytes_max };
            Ok(Box::new(ZmqListenerLink::bind(address, options)?))
        });
        Ok((make, None))
    }

    fn fix(&self) -> &'static str {
        DATA_ADDRESS_FIX
    }

    fn carried(&self, _lives: bool) -> Carried {
        (vec![Arc::new(OverZmq { request_bytes_max: self.request_bytes_max })], Vec::new())
    }
}

/// The transport.
#[derive(Debug)]
struct OverZmq {
    request_bytes_max: u64,
}

impl Carrier for OverZmq {
    fn transport(&self) -> Transport {
        Transport::Zmq
    }

    fn suits(&self, _wish: &Wish<'_>) -> Result<String, PassedOver> {
        Ok("zmq is the fastest that works".to_owned())
    }

    fn has_room(&self, layout: &SlotLayout) -> Result<(), Unfit> {
        let (bytes, max) = (layout.request_bytes, self.request_bytes_max);
        if bytes <= max {
            return Ok(());
        }
        let why = format!(
            "a request has {bytes} bytes, and libzmq was told that none has more than {max}"
        );
        Err(Unfit::new(why, "raise request-bytes-max, or ask for tcp or shm"))
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
