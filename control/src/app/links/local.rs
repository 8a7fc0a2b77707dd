//! Both ends in this process.

use std::sync::Arc;

use ferry_core::{Generation, LinkKind, MemoryChoice, Placement, SessionId, Token, Transport};
use ferry_cuda::Device;
use ferry_memory::{Placer, SlotTable};
use ferry_transport::{Link, LocalDoor, local};

use super::{Carried, LinkFactory, Make};
use crate::error::ApiError;
use crate::serving::lanes::Door;
use crate::sessions::Carrier;
use crate::sessions::carrier::{PassedOver, Unfit, Wish};

/// The link.
pub(super) struct Local;

impl LinkFactory for Local {
    fn kind(&self) -> LinkKind {
        LinkKind::Local
    }

    fn lanes(&self) -> Option<u32> {
        Some(1)
    }

    fn make(&self, lane: &str) -> Result<(Make, Option<Arc<dyn Door>>), String> {
        let (listener, door) = local::listener();
        let make: Make = Box::new(move || Ok(Box::new(listener)));
        Ok((make, Some(Arc::new(Entrance { lane: lane.to_owned(), door }))))
    }

    fn carried(&self, _lives: bool) -> Carried {
        (vec![Arc::new(InProcess)], Vec::new())
    }
}

/// The way into a local lane.
#[derive(Debug)]
struct Entrance {
    lane: String,
    door: LocalDoor,
}

impl Door for Entrance {
    fn connect(
        &self,
        session: SessionId,
        generation: Generation,
        token: &Token,
    ) -> Result<(Box<dyn Link>, Arc<SlotTable>), ApiError> {
        let connected = self.door.connect(session, generation, token);
        let (link, table) = connected
            .map_err(|error| ApiError::Lane { lane: self.lane.clone(), why: error.to_string() })?;
        Ok((Box::new(link), table))
    }
}

/// The transport.
#[derive(Debug)]
struct InProcess;

impl Carrier for InProcess {
    fn transport(&self) -> Transport {
        Transport::Local
    }

    fn fits(&self, wish: &Wish<'_>) -> Result<(), Unfit> {
        if wish.is_inside {
            return Ok(());
        }
        Err(Unfit::new(
            "it lives inside the server's process",
            "use `ferry bench --transport local`, which drives it there (service Local)",
        ))
    }

    fn suits(&self, _wish: &Wish<'_>) -> Result<String, PassedOver> {
        Err(None)
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
