//! Host memory that two processes share, by a descriptor and never by a name.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use ferry_core::{Placement, RegionDescriptor, SlotLayout};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::backing::{Backing, MemoryError};

/// What both ends demand of the descriptor: whoever holds it can neither cut the memory, which
/// would kill the other end by `SIGBUS` at its next access, nor take these seals away.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Zeroed memory behind a sealed memfd, mapped for the life of this value.
///
/// It has no name in any file system, so nothing is left when both ends are gone. One memfd
/// serves one lease of one session and is never handed out again.
#[derive(Debug)]
pub struct SharedBacking {
    base: NonNull<u8>,
    bytes: usize,
    layout: SlotLayout,
}

// SAFETY: the mapping belongs to this value alone and is reached only through copies, atomics and
// borrows that `Slot` hands out to one holder at a time.
unsafe impl Send for SharedBacking {}
// SAFETY: as above; concurrent copies race on plain bytes only, never on Rust values.
unsafe impl Sync for SharedBacking {}

impl SharedBacking {
    /// Makes `bytes` bytes that are divided by `layout`, and the descriptor for the peer.
    ///
    /// All pages are allocated here: memory that is short is an error at opening, and not a
    /// `SIGBUS` in the middle of a request. They are zeroed and mapped when first touched: for two
    /// slots of 602,112 bytes that made opening 0.2 ms and the first request 0.3 ms, where
    /// populating both mappings made them 0.9 ms and 0.04 ms, with the lane standing still.
    ///
    /// # Errors
    /// [`MemoryError::Layout`] for 0 bytes, [`MemoryError::Os`] if memory or descriptors are short.
    pub fn create(
        bytes: usize,
        layout: SlotLayout,
    ) -> Result<(SharedBacking, OwnedFd), MemoryError> {
        if bytes == 0 {
            return Err(MemoryError::Layout { what: "a region needs at least 1 byte".into() });
        }
        let refused = |step: &str| {
            let what = format!("{step} a memfd of {bytes} bytes");
            move |errno: rustix::io::Errno| MemoryError::Os { what, source: errno.into() }
        };
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memfd = rustix::fs::memfd_create("ferry-session", flags).map_err(refused("create"))?;
        let length = u64_from(bytes)?;
        rustix::fs::ftruncate(&memfd, length).map_err(refused("size"))?;
        rustix::fs::fallocate(&memfd, FallocateFlags::empty(), 0, length)
            .map_err(refused("allocate"))?;
        rustix::fs::fcntl_add_seals(&memfd, SEALS).map_err(refused("seal"))?;
        let base = map(memfd.as_fd(), bytes)?;
        Ok((SharedBacking { base, bytes, layout }, memfd))
    }

    /// Maps memory that a peer made. The descriptor is checked and closed; the mapping stays.
    ///
    /// # Errors
    /// [`MemoryError::Foreign`] if the descriptor is not a memfd of exactly `bytes` bytes, sealed
    /// against every change of its length; [`MemoryError::Os`] if it cannot be mapped.
    pub fn import(
        memfd: OwnedFd,
        bytes: usize,
        layout: SlotLayout,
    ) -> Result<SharedBacking, MemoryError> {
        let foreign = |what: String| MemoryError::Foreign { what };
        // Seals first: a length that was read before them could change after.
        let seals = rustix::fs::fcntl_get_seals(&memfd)
            .map_err(|errno| foreign(format!("it is not a memfd that can be sealed: {errno}")))?;
        if !seals.contains(SEALS) {
            return Err(foreign(format!("it is sealed by {seals:?}, expected {SEALS:?}")));
        }
        let stat = rustix::fs::fstat(&memfd)
            .map_err(|errno| foreign(format!("its length cannot be read: {errno}")))?;
        if u64::try_from(stat.st_size).ok() != Some(u64_from(bytes)?) {
            return Err(foreign(format!("it has {} bytes, agreed were {bytes}", stat.st_size)));
        }
        let base = map(memfd.as_fd(), bytes)?;
        Ok(SharedBacking { base, bytes, layout })
    }
}

fn u64_from(bytes: usize) -> Result<u64, MemoryError> {
    u64::try_from(bytes)
        .map_err(|error| MemoryError::Layout { what: format!("{bytes} bytes: {error}") })
}

fn map(memfd: BorrowedFd<'_>, bytes: usize) -> Result<NonNull<u8>, MemoryError> {
    let refused = |source: std::io::Error| MemoryError::Os {
        what: format!("map {bytes} bytes of a memfd"),
        source,
    };
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    let base = unsafe { mmap(std::ptr::null_mut(), bytes, access, MapFlags::SHARED, memfd, 0) };
    let base = base.map_err(|errno| refused(errno.into()))?;
    NonNull::new(base.cast::<u8>())
        .ok_or_else(|| refused(std::io::ErrorKind::AddrNotAvailable.into()))
}

impl Drop for SharedBacking {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by this value, belongs to it, and nobody can hold a pointer
        // into it: regions, slots, words and rings keep the backing alive.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "unmapping one's own range cannot fail");
    }
}

// SAFETY: one mapping of `bytes` bytes, unmapped only in `Drop`; the seals keep every page of it
// behind the file's end at both ends.
unsafe impl Backing for SharedBacking {
    fn placement(&self) -> Placement {
        Placement::Host
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn host(&self) -> Option<NonNull<u8>> {
        Some(self.base)
    }

    fn describe(&self) -> Option<RegionDescriptor> {
        let bytes = u64::try_from(self.bytes).ok()?;
        Some(RegionDescriptor::Memfd { bytes, layout: self.layout })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::Region;

    const LAYOUT: SlotLayout = SlotLayout { slots: 1, request_bytes: 4096, reply_bytes: 1 };

    fn memfd(bytes: u64, seals: SealFlags) -> OwnedFd {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memfd = rustix::fs::memfd_create("test", flags).unwrap();
        rustix::fs::ftruncate(&memfd, bytes).unwrap();
        rustix::fs::fcntl_add_seals(&memfd, seals).unwrap();
        memfd
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no memfd")]
    fn both_mappings_show_the_same_bytes() {
        let (ours, memfd) = SharedBacking::create(8192, LAYOUT).unwrap();
        let theirs = SharedBacking::import(memfd, 8192, LAYOUT).unwrap();
        let (mut ours, mut theirs) = (Region::whole(ours), Region::whole(theirs));
        ours.view_mut().copy_in(8190, &[1, 2]).unwrap();
        let mut out = [9; 3];
        theirs.view().copy_out(8189, &mut out).unwrap();
        assert_eq!(out, [0, 1, 2]);
        assert!(theirs.view_mut().copy_in(8191, &[0, 0]).is_err());
        assert_eq!(ours.describe(), Some(RegionDescriptor::Memfd { bytes: 8192, layout: LAYOUT }));
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no memfd")]
    fn nobody_changes_the_length_or_the_seals() {
        let (_ours, memfd) = SharedBacking::create(8192, LAYOUT).unwrap();
        assert!(rustix::fs::ftruncate(&memfd, 4096).is_err());
        assert!(rustix::fs::ftruncate(&memfd, 16384).is_err());
        assert!(rustix::fs::fcntl_add_seals(&memfd, SealFlags::WRITE).is_err());
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no memfd")]
    fn unsealed_short_and_foreign_descriptors_are_refused() {
        let refused = |memfd: OwnedFd| {
            let error = SharedBacking::import(memfd, 8192, LAYOUT).unwrap_err();
            assert!(matches!(error, MemoryError::Foreign { .. }), "{error}");
        };
        refused(memfd(8192, SealFlags::empty()));
        refused(memfd(8192, SealFlags::SHRINK | SealFlags::GROW));
        refused(memfd(4096, SEALS));
        refused(memfd(16384, SEALS));
        refused(std::fs::File::open("/proc/self/exe").unwrap().into());
        assert!(SharedBacking::import(memfd(8192, SEALS), 8192, LAYOUT).is_ok());
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no memfd")]
    fn impossible_lengths_are_errors() {
        assert!(matches!(SharedBacking::create(0, LAYOUT), Err(MemoryError::Layout { .. })));
        assert!(matches!(SharedBacking::create(usize::MAX, LAYOUT), Err(MemoryError::Os { .. })));
    }
}
