//! Sessions, endpoints and regions, to the wire and back.

use bytes::Bytes;
use ferry_core::{
    DeviceMemory, DeviceUuid, Endpoint, Generation, IpcHandle, QueuePair, RegionDescriptor,
    SessionId, SlotLayout, Token,
};

use crate::error::WireError;
use crate::v1;

impl v1::SessionRef {
    /// What a client presents.
    pub fn new(session: SessionId, token: &Token, generation: Generation) -> v1::SessionRef {
        v1::SessionRef {
            session_id: session.0,
            token: Bytes::copy_from_slice(token.reveal()),
            generation: generation.0,
        }
    }

    /// The session, its secret and its lease.
    ///
    /// # Errors
    /// [`WireError`] if the token has another length.
    pub fn parts(&self) -> Result<(SessionId, Token, Generation), WireError> {
        let Ok(token) = <[u8; Token::BYTES]>::try_from(self.token.as_ref()) else {
            let why = format!("{} bytes, a token has {}", self.token.len(), Token::BYTES);
            return Err(WireError::invalid("session.token", why));
        };
        Ok((SessionId(self.session_id), Token::new(token), Generation(self.generation)))
    }
}

impl From<SlotLayout> for v1::SlotLayout {
    fn from(layout: SlotLayout) -> Self {
        v1::SlotLayout {
            slots: layout.slots,
            request_bytes: layout.request_bytes,
            reply_bytes: layout.reply_bytes,
        }
    }
}

impl From<v1::SlotLayout> for SlotLayout {
    fn from(layout: v1::SlotLayout) -> Self {
        SlotLayout {
            slots: layout.slots,
            request_bytes: layout.request_bytes,
            reply_bytes: layout.reply_bytes,
        }
    }
}

impl v1::Endpoint {
    /// The endpoint on the wire; that of `rdma` is the region's queue pair.
    pub fn of(endpoint: &Endpoint, region: &RegionDescriptor) -> v1::Endpoint {
        let queue_pair = match region {
            RegionDescriptor::Remote { queue_pair, .. } => Some(queue_pair.into()),
            _ => None,
        };
        let link = endpoint.link.name().to_owned();
        v1::Endpoint { link, address: endpoint.address.clone(), queue_pair }
    }

    /// The endpoint, and the queue pair where it has one.
    ///
    /// # Errors
    /// [`WireError`] for what is missing or makes no sense.
    pub fn parts(self) -> Result<(Endpoint, Option<QueuePair>), WireError> {
        let link = self.link.parse().map_err(|why| WireError::invalid("endpoint.link", why))?;
        let queue_pair = self.queue_pair.map(TryInto::try_into).transpose()?;
        Ok((Endpoint::new(link, self.address), queue_pair))
    }
}

impl v1::RegionDescriptor {
    /// The descriptors on the wire; none for memory that is not reachable yet, two where payloads
    /// lie apart from their headers, which come first.
    pub fn of(region: &RegionDescriptor) -> Vec<v1::RegionDescriptor> {
        use v1::region_descriptor::Kind;
        let memfd = |bytes: &u64| Kind::Memfd(v1::Memfd { bytes: *bytes });
        let kinds = match region {
            RegionDescriptor::Framed => vec![Kind::Framed(true)],
            RegionDescriptor::Memfd { bytes, .. } => vec![memfd(bytes)],
            RegionDescriptor::Remote { key, payloads, .. } => {
                let keys = key.iter().chain(payloads.iter().filter(|_| key.is_some()));
                keys.map(|key| Kind::MemoryKey((*key).into())).collect()
            }
            RegionDescriptor::Device(memory) => vec![Kind::GpuHandle(memory.into())],
            RegionDescriptor::OnDevice { bytes, slots, .. } => {
                vec![memfd(bytes), Kind::GpuHandle(slots.into())]
            }
        };
        kinds.into_iter().map(|kind| v1::RegionDescriptor { kind: Some(kind) }).collect()
    }

    /// How a session's memory is reached: what was told of it, completed by the session's layout
    /// and the endpoint's queue pair.
    ///
    /// # Errors
    /// [`WireError`] for what is missing, makes no sense, or does not go together.
    pub fn read(
        told: &[v1::RegionDescriptor],
        layout: SlotLayout,
        queue_pair: Option<&QueuePair>,
    ) -> Result<RegionDescriptor, WireError> {
        use v1::region_descriptor::Kind;
        let remote = |key: Option<&v1::MemoryKey>, payloads: Option<&v1::MemoryKey>| {
            Ok(RegionDescriptor::Remote {
                queue_pair: queue_pair.ok_or(WireError::Missing("endpoint.queue_pair"))?.clone(),
                key: key.map(|key| (*key).try_into()).transpose()?,
                payloads: payloads.map(|key| (*key).try_into()).transpose()?,
            })
        };
        let kinds = told.iter().map(|it| it.kind.as_ref().ok_or(WireError::Missing("region.kind")));
        let kinds = kinds.collect::<Result<Vec<_>, _>>()?;
        match (kinds.as_slice(), queue_pair) {
            ([], None) | ([Kind::Framed(_)], _) => Ok(RegionDescriptor::Framed),
            ([], Some(_)) => remote(None, None),
            ([Kind::Memfd(memfd)], _) => Ok(RegionDescriptor::Memfd { bytes: memfd.bytes, layout }),
            ([Kind::MemoryKey(key)], _) => remote(Some(key), None),
            ([Kind::MemoryKey(key), Kind::MemoryKey(payloads)], _) => {
                remote(Some(key), Some(payloads))
            }
            ([Kind::Memfd(memfd), Kind::GpuHandle(slots)], _) => Ok(RegionDescriptor::OnDevice {
                bytes: memfd.bytes,
                layout,
                slots: slots.try_into()?,
            }),
            (others, _) => {
                let why = format!(
                    "{}, which do not go together: one, two keys, or a memfd and a GPU handle",
                    others.len()
                );
                Err(WireError::invalid("regions", why))
            }
        }
    }
}

impl From<&DeviceMemory> for v1::GpuHandle {
    fn from(memory: &DeviceMemory) -> Self {
        v1::GpuHandle {
            cuda_ipc_handle: Bytes::copy_from_slice(&memory.handle.0),
            offset: memory.offset,
            bytes: memory.bytes,
            device_uuid: Bytes::copy_from_slice(&memory.device.0),
        }
    }
}

impl TryFrom<&v1::GpuHandle> for DeviceMemory {
    type Error = WireError;

    fn try_from(told: &v1::GpuHandle) -> Result<Self, WireError> {
        fn exactly<const N: usize>(
            field: &'static str,
            bytes: &Bytes,
        ) -> Result<[u8; N], WireError> {
            let wrong = |_| WireError::invalid(field, format!("{} bytes; it has {N}", bytes.len()));
            <[u8; N]>::try_from(bytes.as_ref()).map_err(wrong)
        }
        let (offset, bytes) = (told.offset, told.bytes);
        if bytes == 0 || offset.checked_add(bytes).is_none() {
            let why = format!("{bytes} bytes from {offset} on: no range of memory");
            return Err(WireError::invalid("gpu_handle.bytes", why));
        }
        Ok(DeviceMemory {
            handle: IpcHandle(exactly("gpu_handle.cuda_ipc_handle", &told.cuda_ipc_handle)?),
            device: DeviceUuid(exactly("gpu_handle.device_uuid", &told.device_uuid)?),
            offset,
            bytes,
        })
    }
}
