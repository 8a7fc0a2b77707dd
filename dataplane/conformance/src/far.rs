//! A device that is none: links and slots are tested over its memory on a machine without one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use ferry_core::{
    Attachment, DeviceMemory, DeviceUuid, Endpoint, IpcHandle, RegionDescriptor, SessionId, Status,
};
use ferry_memory::{Backing, FarBacking, HeapBacking, Importer, MemoryError, Placer, Region};
use ferry_transport::{
    Admission, AdmitError, Capabilities, Events, Link, Listener, Rejected, Transfer, Waker,
};

/// A device that is none: places memory and opens what it placed, for as long as that lives.
#[derive(Debug, Default)]
pub struct FarDevice {
    placed: Mutex<Placed>,
}

#[derive(Debug, Default)]
struct Placed {
    last: u8,
    live: HashMap<IpcHandle, Weak<HeapBacking>>,
}

impl FarDevice {
    /// What it is called.
    pub const UUID: DeviceUuid = DeviceUuid([0xFA; DeviceUuid::BYTES]);

    fn placed(&self) -> MutexGuard<'_, Placed> {
        self.placed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many allocations live.
    pub fn live(&self) -> usize {
        self.placed().live.values().filter(|it| it.strong_count() > 0).count()
    }
}

impl Placer for FarDevice {
    fn on_device(&self) -> bool {
        true
    }

    fn allocate(&self, bytes: usize) -> Result<Region, MemoryError> {
        let memory = Arc::new(HeapBacking::new(bytes)?);
        let mut placed = self.placed();
        placed.last += 1;
        let handle = IpcHandle([placed.last; IpcHandle::BYTES]);
        placed.live.insert(handle, Arc::downgrade(&memory));
        let described = DeviceMemory { handle, device: Self::UUID, offset: 0, bytes: bytes as u64 };
        Ok(Region::whole(FarBacking::new(memory, described)))
    }

    fn register(&self, _memory: Region) -> Result<Region, MemoryError> {
        Err(MemoryError::Layout { what: "slots lie on the device".into() })
    }
}

impl Importer for FarDevice {
    fn open(&self, described: &DeviceMemory) -> Result<Region, MemoryError> {
        let foreign = |what: &str| MemoryError::Foreign { what: what.into() };
        if described.device != Self::UUID {
            return Err(foreign("another device"));
        }
        let memory = self.placed().live.get(&described.handle).and_then(Weak::upgrade);
        let memory = memory.ok_or_else(|| foreign("no such allocation, or it is gone"))?;
        if (memory.bytes() as u64) < described.bytes {
            return Err(foreign("shorter than described"));
        }
        Ok(Region::whole(FarBacking::new(memory, *described)))
    }
}

/// A listener whose sessions all have slots where a placer puts them.
#[derive(Debug)]
pub struct Placing<L> {
    /// The link.
    pub listener: L,
    /// Where slots go.
    pub placer: Arc<dyn Placer>,
}

impl<L: Listener> Link for Placing<L> {
    fn capabilities(&self) -> Capabilities {
        self.listener.capabilities()
    }

    fn submit(&mut self, transfer: Transfer) -> Result<(), Rejected> {
        self.listener.submit(transfer)
    }

    fn poll(&mut self, events: &mut Events) {
        self.listener.poll(events);
    }

    fn park(&mut self, at_most: Duration) {
        self.listener.park(at_most);
    }

    fn waker(&self) -> Waker {
        self.listener.waker()
    }
}

impl<L: Listener> Listener for Placing<L> {
    fn endpoint(&self) -> Endpoint {
        self.listener.endpoint()
    }

    fn admit(&mut self, admission: Admission) -> Result<RegionDescriptor, AdmitError> {
        let placer = Some(Arc::clone(&self.placer));
        self.listener.admit(Admission { placer, ..admission })
    }

    fn attach(
        &mut self,
        session: SessionId,
        attachment: &Attachment,
    ) -> Result<RegionDescriptor, AdmitError> {
        self.listener.attach(session, attachment)
    }

    fn evict(&mut self, session: SessionId, status: Status) {
        self.listener.evict(session, status);
    }
}
