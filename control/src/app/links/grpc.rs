//! Tensors inside calls of the control plane: no lane, and nothing to make.

use std::sync::Arc;

use ferry_core::{LinkKind, MemoryChoice, Placement, Transport};
use ferry_cuda::Device;
use ferry_memory::Placer;

use super::{Carried, LinkFactory, Make};
use crate::serving::lanes::Door;
use crate::sessions::Carrier;
use crate::sessions::carrier::{PassedOver, Wish};

/// The link.
pub(super) struct Grpc;

impl LinkFactory for Grpc {
    fn kind(&self) -> LinkKind {
        LinkKind::Grpc
    }

    fn lanes(&self) -> Option<u32> {
        None
    }

    fn make(&self, _lane: &str) -> Result<(Make, Option<Arc<dyn Door>>), String> {
        Err("its requests come in calls, on no lane".to_owned())
    }

    fn carried(&self, _lives: bool) -> Carried {
        (vec![Arc::new(InCalls)], Vec::new())
    }
}

/// The transport.
#[derive(Debug)]
struct InCalls;

impl Carrier for InCalls {
    fn transport(&self) -> Transport {
        Transport::Grpc
    }

    fn suits(&self, _wish: &Wish<'_>) -> Result<String, PassedOver> {
        Ok("there is no other lane than gRPC".to_owned())
    }

    /// Requests lie in the messages that bring them.
    fn placer(
        &self,
        _device: &Arc<Device>,
        _placement: Placement,
        _memory: MemoryChoice,
    ) -> Option<Arc<dyn Placer>> {
        None
    }
}
