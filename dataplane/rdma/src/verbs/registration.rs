//! Memory that a device knows.

use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::verbs::sys;
use ferry_memory::{DmaBuf, RegionAddress, Registrable, check_range};

use super::peer_memory::{Found, missing};
use super::{Domain, VerbsError};

/// Who may do what with a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The device reads it for this process: what is sent. Relaxed ordering where offered.
    Source,
    /// The peer writes headers there, and perhaps payloads, by the registration's own key.
    RemoteWrite,
    /// As [`RemoteWrite`](Access::RemoteWrite) for payloads alone. Relaxed ordering where offered:
    /// a header written after them is not, and pushes them before it.
    Payloads,
    /// The peer writes it by the key of a window that is bound to it.
    Windowed,
}

impl Access {
    pub(super) fn flags(self) -> u32 {
        use sys::ibv_access_flags as flag;
        let flags = match self {
            // An optional flag: kernels and devices that do not know it leave it out.
            Access::Source => flag::IBV_ACCESS_LOCAL_WRITE | flag::IBV_ACCESS_RELAXED_ORDERING,
            // Header and payload arrive by one key, and a header is never written out of order.
            Access::RemoteWrite => flag::IBV_ACCESS_LOCAL_WRITE | flag::IBV_ACCESS_REMOTE_WRITE,
            Access::Payloads => {
                flag::IBV_ACCESS_LOCAL_WRITE
                    | flag::IBV_ACCESS_REMOTE_WRITE
                    | flag::IBV_ACCESS_RELAXED_ORDERING
            }
            Access::Windowed => flag::IBV_ACCESS_LOCAL_WRITE | flag::IBV_ACCESS_MW_BIND,
        };
        flags.0
    }
}

/// How the device's driver found the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Pages of the host.
    Host,
    /// A dma-buf that the other device's driver exported.
    DmaBuf,
    /// The other device's driver, asked by the kernel for an address of its own (nvidia-peermem).
    PeerMemory,
}

impl By {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            By::Host => "host memory",
            By::DmaBuf => "dma-buf",
            By::PeerMemory => "peer memory",
        }
    }
}

/// Bytes in a registration: what a work request may name.
#[derive(Clone, Copy, Debug)]
pub struct Part<'r> {
    address: u64,
    bytes: u32,
    registration: &'r Registration,
}

impl Part<'_> {
    /// How many bytes.
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    pub(super) fn element(&self) -> sys::ibv_sge {
        let lkey = self.registration.local_key();
        sys::ibv_sge { addr: self.address, length: self.bytes, lkey }
    }

    /// Whether the processor can read the bytes, as it does where a request carries them inline.
    pub(super) fn is_of_host(&self) -> bool {
        self.registration.by == By::Host
    }
}

/// Memory that the device knows. Keeps the memory mapped.
#[derive(Debug)]
pub struct Registration {
    raw: NonNull<sys::ibv_mr>,
    by: By,
    address: u64,
    place: RegionAddress,
    domain: Arc<Domain>,
}

// SAFETY: as for `Domain`.
unsafe impl Send for Registration {}
// SAFETY: as for `Domain`.
unsafe impl Sync for Registration {}

impl Registration {
    /// Registers all of a region, by where it is: host memory by its address; memory of another device by its
    /// dma-buf, or else by its address there, for which that device's driver has to answer.
    ///
    /// The peer or the device may write the memory from now on: its region is only ever used as a
    /// view, or in a slot table whose [`PeerAccess`](ferry_memory::PeerAccess) says so.
    ///
    /// # Errors
    /// [`VerbsError`]: out of memory (12) mostly means that the limit of locked memory is reached.
    /// For memory of another device it says what of kernel, driver and module is missing.
    pub fn new(
        domain: &Arc<Domain>,
        place: RegionAddress,
        access: Access,
    ) -> Result<Registration, VerbsError> {
        let nowhere = || VerbsError {
            verb: "ibv_reg_mr",
            error: std::io::Error::other("neither memory of the host nor of a device"),
        };
        let bytes = place.bytes();
        let (raw, by, address) = match place.registrable().ok_or_else(nowhere)? {
            Registrable::Host(base) => {
                let address = base.as_ptr() as u64;
                (by_address(domain, address, bytes, access)?, By::Host, address)
            }
            Registrable::Device { address, dma_buf } => {
                let (raw, by) = of_device(domain, address, dma_buf, bytes, access)?;
                (raw, by, address)
            }
        };
        Ok(Registration { raw, by, address, place, domain: Arc::clone(domain) })
    }

    /// The key of this process's own work requests.
    pub fn local_key(&self) -> u32 {
        // SAFETY: the registration is alive.
        unsafe { self.raw.as_ref().lkey }
    }

    /// The key that a peer presents; of use only where [`Access`] lets peers write.
    pub fn remote_key(&self) -> u32 {
        // SAFETY: the registration is alive.
        unsafe { self.raw.as_ref().rkey }
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.place.bytes()
    }

    /// Bytes of it, for a work request.
    ///
    /// # Errors
    /// [`VerbsError`] if they do not lie inside, or are more than a request can say.
    pub fn part(&self, at: usize, bytes: usize) -> Result<Part<'_>, VerbsError> {
        let outside =
            |error| VerbsError { verb: "ibv_post_send", error: std::io::Error::other(error) };
        check_range(at, bytes, self.bytes()).map_err(outside)?;
        let bytes = u32::try_from(bytes).map_err(|error| VerbsError {
            verb: "ibv_post_send",
            error: std::io::Error::other(error),
        })?;
        Ok(Part { address: self.address(at), bytes, registration: self })
    }

    /// How the driver found it.
    pub fn by(&self) -> By {
        self.by
    }

    /// The address of a byte of the region, as work requests name it.
    pub fn address(&self, at: usize) -> u64 {
        self.address + at as u64
    }

    pub(super) fn raw(&self) -> *mut sys::ibv_mr {
        self.raw.as_ptr()
    }
}

type Raw = NonNull<sys::ibv_mr>;

/// Registers a range by its address, under which work requests name it too.
fn by_address(
    domain: &Domain,
    address: u64,
    bytes: usize,
    access: Access,
) -> Result<Raw, VerbsError> {
    let at = std::ptr::without_provenance_mut::<std::ffi::c_void>(
        usize::try_from(address).unwrap_or(usize::MAX),
    );
    // SAFETY: the range is memory of the region, which the registration keeps: the host's, and
    // mapped, or addresses that belong to a device's driver, where the kernel finds no page of
    // ours and asks that driver or refuses. Who may touch it is the contract of `new`.
    let raw = unsafe { sys::ibv_reg_mr_iova2(domain.raw(), at, bytes, address, access.flags()) };
    NonNull::new(raw).ok_or_else(|| VerbsError::last("ibv_reg_mr"))
}

/// Registers memory of another device.
fn of_device(
    domain: &Domain,
    address: u64,
    dma_buf: Option<DmaBuf<'_>>,
    bytes: usize,
    access: Access,
) -> Result<(Raw, By), VerbsError> {
    let by_dma_buf = dma_buf.map(|dma_buf| by_dma_buf(domain, address, dma_buf, bytes, access));
    let of_dma_buf = match by_dma_buf {
        Some(Ok(raw)) => return Ok((raw, By::DmaBuf)),
        Some(Err(error)) => Some(error),
        None => None,
    };
    match by_address(domain, address, bytes, access) {
        Ok(raw) => Ok((raw, By::PeerMemory)),
        Err(of_peer_memory) => {
            let found = Found::here(domain.device().name());
            Err(missing(of_dma_buf.as_ref(), &of_peer_memory, &found))
        }
    }
}

fn by_dma_buf(
    domain: &Domain,
    address: u64,
    dma_buf: DmaBuf<'_>,
    bytes: usize,
    access: Access,
) -> Result<Raw, VerbsError> {
    let (at, flags) = (dma_buf.at as u64, access.flags().cast_signed());
    let fd = dma_buf.fd.as_raw_fd();
    // SAFETY: the descriptor is open, and the dma-buf holds the pages itself: the kernel refuses a
    // range that is not inside, and moves nothing away while it is registered.
    let raw = unsafe { sys::ibv_reg_dmabuf_mr(domain.raw(), at, bytes, address, fd, flags) };
    NonNull::new(raw).ok_or_else(|| VerbsError::last("ibv_reg_dmabuf_mr"))
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: windows over it are gone: they keep the registration. The memory is still there.
        let returned = unsafe { sys::ibv_dereg_mr(self.raw()) };
        VerbsError::log("ibv_dereg_mr", returned);
        if returned != 0 {
            // The device may still reach the pages: they are never used for anything else.
            std::mem::forget(self.place.clone());
        }
        let _kept_until_here = &self.domain;
    }
}

#[cfg(test)]
mod tests {
    use sys::ibv_access_flags as flag;

    use super::*;

    /// What a peer is told of by a header must have arrived when the header has.
    #[test]
    fn memory_that_headers_are_written_to_is_never_relaxed() {
        let has = |access: Access, wanted: flag| access.flags() & wanted.0 != 0;
        for access in [Access::Source, Access::Payloads] {
            assert!(has(access, flag::IBV_ACCESS_RELAXED_ORDERING), "{access:?}");
        }
        for access in [Access::RemoteWrite, Access::Windowed] {
            assert!(!has(access, flag::IBV_ACCESS_RELAXED_ORDERING), "{access:?}");
        }
        for access in [Access::Source, Access::Windowed] {
            assert!(!has(access, flag::IBV_ACCESS_REMOTE_WRITE), "{access:?}: by a window alone");
        }
        assert!(has(Access::Windowed, flag::IBV_ACCESS_MW_BIND));
    }
}
