//! What server and client agree on when a session is opened.

use std::sync::Arc;

use ferry_core::frame::VERSION;
use ferry_core::session::SLOTS_MAX;
use ferry_core::{
    BoundSignature, HostMemory, MemoryChoice, Placement, SessionSpec, SlotLayout, SlotPlace, Slots,
    Transport, WaitPolicy,
};
use ferry_memory::is_this_host;

use super::carrier::{Carrier, ModelDevice, Wish};
use super::carriers::{Carriers, unusable};
use crate::error::ApiError;
use crate::models::Served;
use crate::serving::inline::REPLY_BYTES_MIN;

/// Slots of a session whose client asks for none: one is filled while the other one is served.
pub const SLOTS_DEFAULT: u32 = 2;

/// Shortest request half, in bytes: a model without inputs has nothing in it.
const REQUEST_BYTES_MIN: u64 = 64;

/// Longest text that a client may call itself by, in bytes.
const CLIENT_BYTES_MAX: usize = 256;

/// What was agreed.
#[derive(Clone, Debug)]
pub struct Agreed {
    /// The frame's version.
    pub protocol: u8,
    /// The transport.
    pub transport: Transport,
    /// What is specific to it.
    pub carrier: Arc<dyn Carrier>,
    /// Why this one.
    pub reason: String,
    /// How the client waits.
    pub wait: WaitPolicy,
    /// Where the slots lie.
    pub placement: Placement,
    /// What host memory is to the device that runs the model.
    pub memory: MemoryChoice,
    /// Shapes and places of all tensors.
    pub binding: Arc<BoundSignature>,
    /// The slots.
    pub layout: SlotLayout,
}

impl Agreed {
    /// Where the slots lie, as people name it.
    pub fn place(&self) -> SlotPlace {
        match self.placement {
            Placement::Host => SlotPlace::Host(self.memory),
            Placement::Cuda(ordinal) => SlotPlace::Cuda(ordinal),
        }
    }
}

/// What the server can offer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer<'a> {
    /// The transports.
    pub(super) carriers: &'a Carriers,
    /// Those that refused this session already.
    pub(super) refused: &'a [Transport],
    /// Largest request half beyond the tensors, in bytes.
    pub(super) request_bytes_max: u64,
    /// The caller is the server itself: it may use `local`.
    pub(super) is_inside: bool,
}

impl Offer<'_> {
    /// Finds what serves `asked` with `served`.
    ///
    /// # Errors
    /// [`ApiError`] says what does not fit, and what would.
    pub(super) fn agree(&self, asked: &SessionSpec, served: &Served) -> Result<Agreed, ApiError> {
        let protocol = protocol(asked.protocol_min, asked.protocol_max)?;
        if asked.client.len() > CLIENT_BYTES_MAX {
            let why = format!("{} bytes; at most {CLIENT_BYTES_MAX}", asked.client.len());
            return Err(ApiError::field("client", why));
        }
        let wish = Wish {
            spec: asked,
            model: &served.name,
            device: ModelDevice::of(served),
            is_this_host: is_this_host(&asked.host_id),
            is_inside: self.is_inside,
        };
        let (carrier, reason) = self.carriers.choose(&wish, self.refused)?;
        let transport = carrier.transport();
        let (placement, memory) = placement(asked, served, transport)?;
        let binding = served.bind(&asked.shapes)?;
        let reply_bytes = served.reply_room(&binding, &asked.shapes, asked.reply_bytes_min)?;
        let layout = self.layout(asked, &binding, reply_bytes)?;
        carrier.has_room(&layout).map_err(|unfit| unusable(transport, unfit))?;
        Ok(Agreed {
            protocol,
            transport,
            carrier: Arc::clone(carrier),
            reason,
            wait: asked.wait,
            placement,
            memory,
            binding: Arc::new(binding),
            layout,
        })
    }

    fn layout(
        &self,
        asked: &SessionSpec,
        binding: &BoundSignature,
        reply_bytes: u64,
    ) -> Result<SlotLayout, ApiError> {
        let slots = if asked.slots == 0 { SLOTS_DEFAULT } else { asked.slots };
        if slots > SLOTS_MAX {
            let why = format!("{slots}; a session has 1 to {SLOTS_MAX}");
            return Err(ApiError::field("slots", why));
        }
        if asked.request_bytes_min > self.request_bytes_max {
            let why = format!(
                "{}; the server allows {} (request-bytes-max)",
                asked.request_bytes_min, self.request_bytes_max
            );
            return Err(ApiError::field("request_bytes_min", why));
        }
        let tensors = binding.request_bytes().max(REQUEST_BYTES_MIN);
        let request_bytes = tensors.max(asked.request_bytes_min);
        Ok(SlotLayout { slots, request_bytes, reply_bytes: reply_bytes.max(REPLY_BYTES_MIN) })
    }
}

fn protocol(min: u32, max: u32) -> Result<u8, ApiError> {
    if min > max {
        return Err(ApiError::field("protocol_min", format!("{min}, above protocol_max {max}")));
    }
    let ours = u32::from(VERSION);
    if (min..=max).contains(&ours) {
        return Ok(VERSION);
    }
    let older = if max < ours { "the client" } else { "the server" };
    Err(ApiError::Protocol { min, max, ours: VERSION, older })
}

/// Where the slots lie, and what host memory is to the model's device.
fn placement(
    asked: &SessionSpec,
    served: &Served,
    transport: Transport,
) -> Result<(Placement, MemoryChoice), ApiError> {
    let wish = asked.placement;
    let kind = wish.memory;
    let refuse = |why: String| Err(ApiError::field("placement", why));
    let Some(device) = &served.device else {
        let name = &served.name;
        if let Some(ordinal) = wish.cuda_ordinal {
            return refuse(format!(
                "cuda:{ordinal}, but {name} runs on the CPU: leave it out, or set device = \
                 \"cuda:{ordinal}\" in {name}.toml"
            ));
        }
        return match kind {
            None | Some(MemoryChoice::Auto | MemoryChoice::Always(HostMemory::Pageable)) => {
                Ok((Placement::Host, MemoryChoice::Always(HostMemory::Pageable)))
            }
            Some(kind) => refuse(format!(
                "{} memory, but {name} runs on the CPU, where there is nothing to pin it for: \
                 leave it out",
                kind.name()
            )),
        };
    };
    let own = device.ordinal();
    let may_be_device = matches!(transport.facts().slots, Slots::Either | Slots::Device);
    match wish.cuda_ordinal {
        Some(ordinal) if ordinal != own => {
            refuse(format!("cuda:{ordinal}, but {} runs on cuda:{own}", served.name))
        }
        Some(ordinal) if !may_be_device => refuse(format!(
            "cuda:{ordinal} over {transport}, which carries tensors in host memory: ask for \
             cuda-ipc on one host, gdr between two, or leave the placement out"
        )),
        Some(_) => Ok((Placement::Cuda(own), MemoryChoice::Always(HostMemory::Pinned))),
        None if transport.is_device() => match kind {
            None | Some(MemoryChoice::Auto) => {
                Ok((Placement::Cuda(own), MemoryChoice::Always(HostMemory::Pinned)))
            }
            Some(kind) => refuse(format!(
                "{} memory over {transport}, whose tensors lie in memory of cuda:{own}: leave it \
                 out, or ask for another transport",
                kind.name()
            )),
        },
        None if transport.facts().slots == Slots::Message => match kind {
            None | Some(MemoryChoice::Auto) => Ok((Placement::Host, MemoryChoice::Auto)),
            Some(pageable @ MemoryChoice::Always(HostMemory::Pageable)) => {
                Ok((Placement::Host, pageable))
            }
            Some(kind) => refuse(format!(
                "{} memory over grpc, whose tensors lie where gRPC puts them: ask for another \
                 transport",
                kind.name()
            )),
        },
        None => Ok((Placement::Host, kind.unwrap_or_default())),
    }
}
