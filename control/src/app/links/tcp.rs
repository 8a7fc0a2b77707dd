//! Plain TCP.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use ferry_core::{Found, LinkKind, MemoryChoice, Placement, Transport};
use ferry_cuda::Device;
use ferry_memory::Placer;
use ferry_transport::{LinkError, TcpListenerLink, TcpOptions};

use super::{Carried, DATA_ADDRESS_FIX, LinkFactory, Make, SESSIONS_MAX, data_address};
use crate::config::Config;
use crate::serving::lanes::Door;
use crate::sessions::Carrier;
use crate::sessions::carrier::{PassedOver, Wish};

/// The link.
pub(super) struct Tcp {
    address: Result<SocketAddr, String>,
}

impl Tcp {
    pub(super) fn new(config: &Config) -> Tcp {
        Tcp { address: data_address(config) }
    }
}

impl LinkFactory for Tcp {
    fn kind(&self) -> LinkKind {
        LinkKind::Tcp
    }

    fn lanes(&self) -> Option<u32> {
        Some(2)
    }

    fn make(&self, _lane: &str) -> Result<(Make, Option<Arc<dyn Door>>), String> {
        let address = self.address.clone()?;
        let make: Make = Box::new(move || {
            let listener = TcpListener::bind(address)
                .map_err(|error| LinkError::os(format!("bind {address}"), error))?;
            let options = TcpOptions { sessions_max: SESSIONS_MAX, ..TcpOptions::default() };
            Ok(Box::new(TcpListenerLink::new(listener, options)?))
        });
        Ok((make, None))
    }

    fn fix(&self) -> &'static str {
        DATA_ADDRESS_FIX
    }

    fn carried(&self, _lives: bool) -> Carried {
        (vec![Arc::new(OverTcp)], Vec::<Found>::new())
    }
}

/// The transport.
#[derive(Debug)]
struct OverTcp;

impl Carrier for OverTcp {
    fn transport(&self) -> Transport {
        Transport::Tcp
    }

    fn suits(&self, _wish: &Wish<'_>) -> Result<String, PassedOver> {
        Ok("tcp is the fastest that works".to_owned())
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
