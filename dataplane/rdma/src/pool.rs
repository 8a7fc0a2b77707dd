//! Where sessions get their memory: registered arenas for what can share a registration, and
//! registrations of their own for what cannot.

use std::sync::Arc;

use ferry_memory::{Arena, HeapBacking, MemoryError, Placer, Region, Registrable};
use ferry_transport::AdmitError;
use ferry_transport::LinkError;

use crate::verbs::{Access, Domain, Registration};

/// Least bytes of one arena: 12 sessions of two 602,112-byte slots. All of it is pinned.
const ARENA_BYTES_MIN: usize = 16 << 20;

/// Memory with the registration that it lies in.
#[derive(Debug)]
pub(crate) struct Registered {
    /// The session's part.
    pub(crate) region: Region,
    /// Its registration: the part's own, or an arena's.
    pub(crate) registration: Arc<Registration>,
}

impl Registered {
    /// The address of the first byte, as work requests name it.
    pub(crate) fn address(&self) -> u64 {
        match self.region.registrable() {
            Some(Registrable::Host(base)) => base.as_ptr() as u64,
            Some(Registrable::Device { address, .. }) => address,
            None => 0,
        }
    }

    /// Makes the memory known to the device that runs the session's model.
    ///
    /// # Errors
    /// [`MemoryError`] with what the device says.
    pub(crate) fn make_known(&mut self, placer: &dyn Placer) -> Result<(), MemoryError> {
        // A region of a pool is all of its backing too: a part of the arena that is its own.
        let known = placer.register(Arc::clone(self.region.backing()))?;
        self.region = Region::whole(known);
        Ok(())
    }
}

/// Arenas with one registration each.
#[derive(Debug)]
pub(crate) struct Pool {
    domain: Arc<Domain>,
    access: Access,
    arenas: Vec<(Arena, Arc<Registration>)>,
}

impl Pool {
    /// Without any memory yet.
    pub(crate) fn new(domain: &Arc<Domain>, access: Access) -> Pool {
        Pool { domain: Arc::clone(domain), access, arenas: Vec::new() }
    }

    /// A part of an arena, which is made if none has room.
    ///
    /// # Errors
    /// [`AdmitError`] if memory is short, or the limit of what may be pinned is reached.
    pub(crate) fn lease(&mut self, bytes: usize) -> Result<Registered, AdmitError> {
        for (arena, registration) in &self.arenas {
            if let Some(region) = arena.part(bytes)? {
                let registration = Arc::clone(registration);
                return Ok(Registered { region, registration });
            }
        }
        let arena = Arena::new(bytes.max(ARENA_BYTES_MIN))?;
        let registration = Arc::new(register(&self.domain, arena.whole(), self.access)?);
        self.arenas.push((arena, registration));
        self.lease(bytes)
    }

    /// Gives back arenas that nobody uses.
    pub(crate) fn trim(&mut self) {
        self.arenas.retain(|(arena, _)| arena.free_bytes() < arena.bytes());
    }
}

/// Memory with a registration of its own.
///
/// # Errors
/// [`AdmitError`] if memory is short, or the limit of what may be pinned is reached.
pub(crate) fn own(
    domain: &Arc<Domain>,
    bytes: usize,
    access: Access,
) -> Result<Registered, AdmitError> {
    let region = Region::whole(Arc::new(HeapBacking::new(bytes)?));
    let registration = Arc::new(register(domain, region.clone(), access)?);
    Ok(Registered { region, registration })
}

/// Memory of a device, with a registration of its own.
///
/// # Errors
/// [`AdmitError`] if the device has no more, or the card does not find it; which of kernel, driver
/// and module is missing.
pub(crate) fn of_device(
    domain: &Arc<Domain>,
    placer: &dyn Placer,
    bytes: usize,
    access: Access,
) -> Result<Registered, AdmitError> {
    let region = Region::whole(placer.allocate(bytes)?);
    let registration = Arc::new(register(domain, region.clone(), access)?);
    Ok(Registered { region, registration })
}

fn register(
    domain: &Arc<Domain>,
    region: Region,
    access: Access,
) -> Result<Registration, AdmitError> {
    let (bytes, placement) = (region.bytes(), region.view().placement());
    Registration::new(domain, region, access).map_err(|error| {
        let limit = error.error.raw_os_error() == Some(12);
        let fix = if limit { "; raise the limit of locked memory (ulimit -l)" } else { "" };
        AdmitError::Attach(LinkError::os(
            format!("register {bytes} bytes of {placement} memory"),
            format!("{error}{fix}"),
        ))
    })
}
