//! Shared memory of one host; its doorbell serves cuda-ipc, too.

use std::sync::Arc;

use ferry_core::{LinkKind, MemoryChoice, Placement, Transport};
use ferry_cuda::Device;
use ferry_memory::Placer;
use ferry_transport::ShmListener;

use super::{Carried, LinkFactory, Make, cuda_ipc};
use crate::config::Config;
use crate::serving::lanes::Door;
use crate::sessions::Carrier;
use crate::sessions::carrier::{PassedOver, Unfit, Wish};

/// The link.
pub(super) struct Shm {
    /// The users that may connect; `None`: everybody.
    uids: Option<Vec<u32>>,
}

impl Shm {
    pub(super) fn new(config: &Config) -> Shm {
        Shm { uids: config.shm_uids.clone() }
    }
}

impl LinkFactory for Shm {
    fn kind(&self) -> LinkKind {
        LinkKind::Shm
    }

    fn lanes(&self) -> Option<u32> {
        Some(2)
    }

    fn make(&self, _lane: &str) -> Result<(Make, Option<Arc<dyn Door>>), String> {
        let mut random = [0_u8; 16];
        getrandom::fill(&mut random).map_err(|error| format!("no randomness: {error}"))?;
        let socket = format!("ferry-{:032x}", u128::from_ne_bytes(random));
        let uids = self.uids.clone();
        let make: Make = Box::new(move || {
            let listener = ShmListener::bind(&socket)?;
            Ok(match uids {
                Some(uids) => Box::new(listener.only(uids)),
                None => Box::new(listener),
            })
        });
        Ok((make, None))
    }

    fn carried(&self, lives: bool) -> Carried {
        let (on_device, found) = cuda_ipc::look(lives);
        let shared: Arc<dyn Carrier> = Arc::new(OnHost);
        (std::iter::once(shared).chain(on_device).collect(), vec![found])
    }
}

/// The transport shm.
#[derive(Debug)]
struct OnHost;

impl Carrier for OnHost {
    fn transport(&self) -> Transport {
        Transport::Shm
    }

    fn fits(&self, wish: &Wish<'_>) -> Result<(), Unfit> {
        if wish.is_this_host {
            return Ok(());
        }
        Err(Unfit::new(
            "the client's host_id is not the server's, so that they cannot share memory",
            "run both on one host and in one network namespace, or ask for tcp",
        ))
    }

    fn suits(&self, wish: &Wish<'_>) -> Result<String, PassedOver> {
        if wish.is_this_host {
            Ok("client and server share a host: shared memory is the fastest".to_owned())
        } else {
            Err(Some("client and server share no host".to_owned()))
        }
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
