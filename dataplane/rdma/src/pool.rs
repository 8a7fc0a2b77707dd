//! Where sessions get their memory: registered arenas for what can share a registration, and
//! registrations of their own for what cannot.

use std::sync::Arc;

use ferry_core::Placement;
use ferry_memory::{
    Arena, HeapBacking, MemoryError, Placer, Region, RegionAddress, Registrable, check_range,
};
use ferry_transport::AdmitError;
use ferry_transport::LinkError;

use crate::verbs::{Access, Domain, Part, Registration, VerbsError};

/// Least bytes of one arena: 12 sessions of two 602,112-byte slots. All of it is pinned.
const ARENA_BYTES_MIN: usize = 16 << 20;

/// Where memory lies in the registration that it has: its own, or an arena's. Keeps both.
#[derive(Debug)]
pub(crate) struct Registered {
    place: RegionAddress,
    registration: Arc<Registration>,
}

impl Registered {
    /// The address of the first byte, as work requests and peers name it.
    pub(crate) fn address(&self) -> u64 {
        match self.place.registrable() {
            Some(Registrable::Host(base)) => base.as_ptr() as u64,
            Some(Registrable::Device { address, .. }) => address,
            None => 0,
        }
    }

    /// Length in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.place.bytes()
    }

    /// Where the bytes live.
    pub(crate) fn placement(&self) -> Placement {
        self.place.placement()
    }

    /// Its registration.
    pub(crate) fn registration(&self) -> &Arc<Registration> {
        &self.registration
    }

    /// Bytes of it, for a work request.
    ///
    /// # Errors
    /// [`VerbsError`] if they do not lie inside.
    pub(crate) fn part(&self, at: usize, bytes: usize) -> Result<Part<'_>, VerbsError> {
        let before = self.address().wrapping_sub(self.registration.address(0));
        let from = usize::try_from(before).ok().and_then(|before| before.checked_add(at));
        let inside = check_range(at, bytes, self.bytes()).is_ok();
        // What cannot be lies nowhere.
        self.registration.part(from.filter(|_| inside).unwrap_or(usize::MAX), bytes)
    }
}

/// Memory that a card knows, and the only way to it.
#[derive(Debug)]
pub(crate) struct Room {
    /// The memory.
    pub(crate) region: Region,
    /// Where it is to the card.
    pub(crate) registered: Registered,
}

impl Room {
    fn new(region: Region, registration: Arc<Registration>) -> Room {
        let registered = Registered { place: region.address(), registration };
        Room { region, registered }
    }

    /// The same memory, known to the device that runs the session's model, where there is one.
    ///
    /// # Errors
    /// [`MemoryError`] with what the device says.
    pub(crate) fn known_to(self, placer: Option<&dyn Placer>) -> Result<Room, MemoryError> {
        match placer {
            Some(placer) => {
                Ok(Room::new(placer.register(self.region)?, self.registered.registration))
            }
            None => Ok(self),
        }
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
    pub(crate) fn lease(&mut self, bytes: usize) -> Result<Room, AdmitError> {
        for (arena, registration) in &self.arenas {
            if let Some(region) = arena.part(bytes)? {
                return Ok(Room::new(region, Arc::clone(registration)));
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
pub(crate) fn own(domain: &Arc<Domain>, bytes: usize, access: Access) -> Result<Room, AdmitError> {
    let region = Region::whole(HeapBacking::new(bytes)?);
    let registration = Arc::new(register(domain, region.address(), access)?);
    Ok(Room::new(region, registration))
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
) -> Result<Room, AdmitError> {
    let region = placer.allocate(bytes)?;
    let registration = Arc::new(register(domain, region.address(), access)?);
    Ok(Room::new(region, registration))
}

fn register(
    domain: &Arc<Domain>,
    place: RegionAddress,
    access: Access,
) -> Result<Registration, AdmitError> {
    let (bytes, placement) = (place.bytes(), place.placement());
    Registration::new(domain, place, access).map_err(|error| {
        let limit = error.error.raw_os_error() == Some(12);
        let fix = if limit { "; raise the limit of locked memory (ulimit -l)" } else { "" };
        AdmitError::Attach(LinkError::os(
            format!("register {bytes} bytes of {placement} memory"),
            format!("{error}{fix}"),
        ))
    })
}
