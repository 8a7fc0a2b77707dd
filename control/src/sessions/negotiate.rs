//! What server and client agree on when a session is opened.

use std::sync::Arc;

use ferry_core::frame::VERSION;
use ferry_core::session::SLOTS_MAX;
use ferry_core::{
    BoundSignature, HostMemory, MemoryChoice, Placement, SlotLayout, SlotPlace, Transport,
    WaitPolicy,
};
use ferry_proto::{WireError, v1};

use super::device::{Gpu, Unfit};
use super::gdr::GdrFit;
use crate::error::ApiError;
use crate::models::Served;

/// Slots of a session whose client asks for none: one is filled while the other one is served.
pub const SLOTS_DEFAULT: u32 = 2;

/// Shortest request half, in bytes: a model without inputs has nothing in it.
const REQUEST_BYTES_MIN: u64 = 64;

/// Shortest reply half, in bytes: the texts of errors fit. Halves are whole pages.
pub const REPLY_BYTES_MIN: u64 = 4096;

/// Longest text that a client may call itself by, in bytes.
const CLIENT_BYTES_MAX: usize = 256;

/// What was agreed.
#[derive(Clone, Debug)]
pub struct Agreed {
    /// The frame's version.
    pub protocol: u8,
    /// The transport.
    pub transport: Transport,
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
pub struct Offer<'a> {
    /// Transports with a lane that lives; `grpc` needs none.
    pub transports: &'a [Transport],
    /// What was found on this machine: why a transport is not among those.
    pub findings: &'a [v1::Finding],
    /// Largest request half beyond the tensors, in bytes.
    pub request_bytes_max: u64,
    /// The caller is the server itself: it may use `local`.
    pub is_inside: bool,
}

impl Offer<'_> {
    /// Finds what serves `asked` with `served`.
    ///
    /// # Errors
    /// [`ApiError`] says what does not fit, and what would.
    pub fn agree(
        &self,
        asked: &v1::OpenSessionRequest,
        served: &Served,
    ) -> Result<Agreed, ApiError> {
        let protocol = protocol(asked.protocol_min, asked.protocol_max)?;
        if asked.client.len() > CLIENT_BYTES_MAX {
            let why = format!("{} bytes; at most {CLIENT_BYTES_MAX}", asked.client.len());
            return Err(ApiError::field("client", why));
        }
        let wish = v1::Transport::try_from(asked.transport)
            .map_err(|why| WireError::invalid("transport", why))?;
        let (transport, reason) = self.transport(wish.named(), asked, &Gpu::of(served))?;
        let (transport, reason) = match transport {
            Transport::Gdr => (transport, self.gdr(served).check().map(|_| reason)?),
            Transport::Rdma if wish.named().is_none() => self.gdr(served).prefer(asked, reason),
            _ => (transport, reason),
        };
        let (placement, memory) = placement(asked, served, transport)?;
        let wait = v1::WaitPolicy::try_from(asked.wait)
            .map_err(|why| WireError::invalid("wait", why))?
            .into();
        let shapes: Vec<(String, Vec<u64>)> =
            asked.shapes.iter().map(|it| (it.name.clone(), it.shape.clone())).collect();
        let binding = served.bind(&shapes)?;
        let reply_bytes = served.reply_room(&binding, &shapes, asked.reply_bytes_min)?;
        let layout = self.layout(asked, &binding, reply_bytes, transport)?;
        let binding = Arc::new(binding);
        Ok(Agreed { protocol, transport, reason, wait, placement, memory, binding, layout })
    }

    fn gdr<'s>(&'s self, served: &'s Served) -> GdrFit<'s> {
        GdrFit::of(served, self.findings)
    }

    fn layout(
        &self,
        asked: &v1::OpenSessionRequest,
        binding: &BoundSignature,
        reply_bytes: u64,
        transport: Transport,
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
        if transport == Transport::Zmq && request_bytes > self.request_bytes_max {
            let why = format!(
                "a request has {request_bytes} bytes, and libzmq was told that none has more than \
                 {}",
                self.request_bytes_max
            );
            let fix = "raise request-bytes-max, or ask for tcp or shm".to_owned();
            return Err(ApiError::Transport { transport, why, fix });
        }
        Ok(SlotLayout { slots, request_bytes, reply_bytes: reply_bytes.max(REPLY_BYTES_MIN) })
    }

    fn transport(
        &self,
        wish: Option<Transport>,
        asked: &v1::OpenSessionRequest,
        model: &Gpu<'_>,
    ) -> Result<(Transport, String), ApiError> {
        let has = |transport| self.transports.contains(&transport);
        let Some(transport) = wish else {
            return Ok(self.choose(asked, model));
        };
        let refuse = |why: &str, fix: &str| {
            let (why, fix) = (why.to_owned(), fix.to_owned());
            Err(ApiError::Transport { transport, why, fix })
        };
        match transport {
            Transport::Local if !self.is_inside => refuse(
                "it lives inside the server's process",
                "use `ferry bench --transport local`, which drives it there (service Local)",
            ),
            Transport::CudaIpc if has(transport) => {
                match model.cuda_ipc(is_this_host(&asked.host_id)) {
                    Ok(_) => Ok((transport, "asked for".into())),
                    Err(Unfit { why, fix }) => Err(ApiError::Transport { transport, why, fix }),
                }
            }
            Transport::Grpc => Ok((transport, "asked for".into())),
            Transport::Shm if has(transport) && !is_this_host(&asked.host_id) => refuse(
                "the client's host_id is not the server's, so that they cannot share memory",
                "run both on one host and in one network namespace, or ask for tcp",
            ),
            _ if has(transport) => Ok((transport, "asked for".into())),
            _ => Err(self.no_lane(transport)),
        }
    }

    /// Why a transport of this build has no lane here, as far as it was found at the start.
    fn no_lane(&self, transport: Transport) -> ApiError {
        let name = transport.name();
        let found =
            self.findings.iter().find(|it| it.area == "transport" && it.name == name && !it.usable);
        // A lane that started and died is told in the log alone.
        let (why, fix) = match found {
            Some(found) => (found.detail.as_str(), found.fix.as_str()),
            None => ("it has ended", "see the server's log"),
        };
        let why = format!("it has no lane on this server ({why})");
        let fix = format!("{fix}; `ferry doctor` shows all that was found; auto chooses another");
        ApiError::Transport { transport, why, fix }
    }

    /// Memory of the model's device on one host, where both ends have it; else shared memory.
    /// Between two, RDMA where both ends have a device: whether their devices reach each other shows
    /// when the client attaches. Else the fastest of the rest.
    fn choose(&self, asked: &v1::OpenSessionRequest, model: &Gpu<'_>) -> (Transport, String) {
        let has = |transport| self.transports.contains(&transport);
        let same = is_this_host(&asked.host_id);
        let mut without = String::new();
        if same && has(Transport::CudaIpc) && model.ordinal().is_some() {
            match model.choice(asked) {
                Ok(reason) => return (Transport::CudaIpc, reason),
                Err(why) => without = format!(" (cuda-ipc: {why})"),
            }
        }
        if same && has(Transport::Shm) {
            let reason = "client and server share a host: shared memory is the fastest";
            return (Transport::Shm, format!("{reason}{without}"));
        }
        if !same && asked.has_rdma && has(Transport::Rdma) {
            let reason = "client and server share no host, and both have an RDMA device";
            return (Transport::Rdma, reason.into());
        }
        let not_shm = if same { "shm has no lane here" } else { "client and server share no host" };
        let next = [Transport::Tcp, Transport::Zmq].into_iter().find(|&it| has(it));
        match next {
            Some(next) => (next, format!("{not_shm}: {next} is the fastest that works")),
            None => (Transport::Grpc, format!("{not_shm}, and there is no other lane than gRPC")),
        }
    }
}

/// Whether a client that calls its host `id` can share memory with this process. It may lie about
/// it and gains nothing: the socket is where it is.
fn is_this_host(id: &str) -> bool {
    ferry_memory::host_id().is_some_and(|own| own == id)
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
    asked: &v1::OpenSessionRequest,
    served: &Served,
    transport: Transport,
) -> Result<(Placement, MemoryChoice), ApiError> {
    let wish = asked.placement.clone().unwrap_or_default();
    let kind = wish.memory_choice()?;
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
    let may_be_device = matches!(transport, Transport::Local) || transport.is_device();
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
        None if transport == Transport::Grpc => match kind {
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

#[cfg(test)]
mod tests;
