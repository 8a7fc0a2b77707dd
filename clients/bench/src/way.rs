//! What is measured in turn: sessions over one transport, or clients of the Open Inference Protocol.

use std::sync::Arc;

use ferry_client::{SlotPlace, Transport};

use crate::oip::{Carrier, OipWork};
use crate::work::Work;

/// One of the things that take turns, and what its requests send.
#[derive(Clone, Debug)]
pub enum Way {
    /// Sessions of the SDK.
    Session {
        /// How their tensors travel.
        transport: Transport,
        /// Where their slots lie; the server's choice if not said.
        place: Option<SlotPlace>,
        /// What they send.
        work: Arc<Work>,
    },
    /// Clients of the Open Inference Protocol.
    Oip {
        /// How their tensors travel.
        carrier: Carrier,
        /// What they send.
        work: Arc<OipWork>,
    },
}

impl Way {
    /// How it is called in tables and runs.
    pub fn label(&self) -> String {
        match self {
            Way::Session { transport, place: None, .. } => transport.to_string(),
            Way::Session { transport, place: Some(place), .. } => format!("{transport}/{place}"),
            Way::Oip { carrier, .. } => format!("oip/{carrier}"),
        }
    }

    /// The protocol's name.
    pub fn protocol(&self) -> &'static str {
        match self {
            Way::Session { .. } => "ferry",
            Way::Oip { .. } => "oip",
        }
    }

    /// The transport's name.
    pub fn transport(&self) -> &'static str {
        match self {
            Way::Session { transport, .. } => transport.name(),
            Way::Oip { carrier, .. } => carrier.name(),
        }
    }

    /// Where the slots lie, if that was asked for.
    pub fn place(&self) -> Option<SlotPlace> {
        match self {
            Way::Session { place, .. } => *place,
            Way::Oip { .. } => None,
        }
    }

    /// The model.
    pub fn model(&self) -> &str {
        match self {
            Way::Session { work, .. } => &work.model,
            Way::Oip { work, .. } => &work.model,
        }
    }

    /// `local` is driven inside the server.
    pub(crate) fn is_inside(&self) -> bool {
        matches!(self, Way::Session { transport: Transport::Local, .. })
    }
}

/// Every transport with every memory; memory of a device only where the transport carries it.
#[must_use]
pub fn sessions(transports: &[Transport], memory: &[SlotPlace], work: &Arc<Work>) -> Vec<Way> {
    let mut ways = Vec::new();
    for &transport in transports {
        let way = |place| Way::Session { transport, place, work: Arc::clone(work) };
        let is_own = transport.is_device() || transport == Transport::Grpc;
        if memory.is_empty() || is_own {
            ways.push(way(None));
            continue;
        }
        let carries = |place: &&SlotPlace| {
            matches!(place, SlotPlace::Host(_)) || transport == Transport::Local
        };
        ways.extend(memory.iter().filter(carries).map(|&place| way(Some(place))));
    }
    ways
}
