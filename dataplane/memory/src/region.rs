//! A range of a backing, and the views into it.

use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use ferry_core::Placement;

use crate::backing::{Backing, DeviceAddress, MemoryError};
use crate::past_caches;

/// A fixed range of some backing. Clones share the memory; the backing goes with the last one.
#[derive(Clone, Debug)]
pub struct Region {
    backing: Arc<dyn Backing>,
    at: usize,
    bytes: usize,
}

impl Region {
    /// All of a backing.
    pub fn whole(backing: Arc<dyn Backing>) -> Region {
        let bytes = backing.bytes();
        Region { backing, at: 0, bytes }
    }

    /// A part of this region.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] if the part does not lie inside.
    pub fn part(&self, at: usize, bytes: usize) -> Result<Region, MemoryError> {
        check_range(at, bytes, self.bytes)?;
        Ok(Region { backing: Arc::clone(&self.backing), at: self.at + at, bytes })
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The backing that it is part of.
    pub fn backing(&self) -> &Arc<dyn Backing> {
        &self.backing
    }

    /// How a network card's driver finds it; `None` for memory that is neither the host's nor a
    /// device's.
    pub fn registrable(&self) -> Option<Registrable<'_>> {
        if let Some(base) = self.view().host() {
            return Some(Registrable::Host(base));
        }
        let address = self.view().device()?.address;
        let dma_buf = self.backing.dma_buf().map(|fd| DmaBuf { fd, at: self.at });
        Some(Registrable::Device { address, dma_buf })
    }

    /// A view of all of it.
    pub fn view(&self) -> View<'_> {
        View { backing: &*self.backing, at: self.at, bytes: self.bytes, _borrow: PhantomData }
    }
}

/// How a network card's driver finds memory that it is to register.
#[derive(Clone, Copy, Debug)]
pub enum Registrable<'a> {
    /// Memory of the host, by its address.
    Host(NonNull<u8>),
    /// Memory of a device.
    Device {
        /// The first byte, as the device sees it. The driver of the device may answer for it.
        address: u64,
        /// The dma-buf that it lies in, where there is one.
        dma_buf: Option<DmaBuf<'a>>,
    },
}

/// A place in a dma-buf.
#[derive(Clone, Copy, Debug)]
pub struct DmaBuf<'a> {
    /// The dma-buf.
    pub fd: BorrowedFd<'a>,
    /// Where in it the region begins.
    pub at: usize,
}

/// Checks that `at..at + len` lies inside memory of `bytes` bytes; what every backing asks.
///
/// # Errors
/// [`MemoryError::OutOfRange`].
pub fn check_range(at: usize, len: usize, bytes: usize) -> Result<(), MemoryError> {
    match at.checked_add(len) {
        Some(end) if end <= bytes => Ok(()),
        _ => Err(MemoryError::OutOfRange { at, len, bytes }),
    }
}

/// A range of memory that another agent may write at any time: it can be copied in and out, and
/// handed to native code as an address, but is never a slice.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    backing: &'a dyn Backing,
    at: usize,
    bytes: usize,
    _borrow: PhantomData<&'a ()>,
}

impl<'a> View<'a> {
    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// All of a backing that is borrowed.
    pub(crate) fn whole(backing: &'a dyn Backing) -> View<'a> {
        View { backing, at: 0, bytes: backing.bytes(), _borrow: PhantomData }
    }

    /// Fails where the bytes were only lent for reading. Who writes by address asks first.
    ///
    /// # Errors
    /// [`MemoryError::ReadOnly`].
    pub fn check_writable(&self) -> Result<(), MemoryError> {
        self.backing.copy_in(self.at, &[])
    }

    /// Where the bytes live.
    pub fn placement(&self) -> Placement {
        self.backing.placement()
    }

    /// A part of this view.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] if the part does not lie inside.
    pub fn part(&self, at: usize, bytes: usize) -> Result<View<'a>, MemoryError> {
        check_range(at, bytes, self.bytes)?;
        Ok(View { at: self.at + at, bytes, ..*self })
    }

    /// Copies `from` to offset `at`.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`], or what the device says.
    pub fn copy_in(&self, at: usize, from: &[u8]) -> Result<(), MemoryError> {
        check_range(at, from.len(), self.bytes)?;
        self.backing.copy_in(self.at + at, from)
    }

    /// Copies `from` to offset `at` as [`copy_in`](View::copy_in) does, but past this CPU's caches
    /// where the memory is the host's: for bytes that a device reads next, and nobody else.
    ///
    /// # Errors
    /// As [`copy_in`](View::copy_in).
    pub fn copy_in_for_device(&self, at: usize, from: &[u8]) -> Result<(), MemoryError> {
        check_range(at, from.len(), self.bytes)?;
        self.check_writable()?;
        let Some(base) = self.host() else { return self.copy_in(at, from) };
        // SAFETY: `at` is at most as long as the view (checked above).
        let to = unsafe { base.add(at) };
        // SAFETY: the range was checked above, is mapped by the contract of `Backing`, and may be
        // written. `from` is a borrow of this process's own and cannot overlap it, as in
        // `host_copy_in`.
        unsafe { past_caches::copy(to, from) };
        Ok(())
    }

    /// Copies bytes at offset `at` out.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`], or what the device says.
    pub fn copy_out(&self, at: usize, into: &mut [u8]) -> Result<(), MemoryError> {
        check_range(at, into.len(), self.bytes)?;
        self.backing.copy_out(self.at + at, into)
    }

    /// Makes a peer's write visible; see [`Backing::make_visible`].
    ///
    /// # Errors
    /// What the device says.
    pub fn make_visible(&self) -> Result<(), MemoryError> {
        self.backing.make_visible()
    }

    /// The address of the first byte, for native code that reads or writes in place. Dereferencing
    /// it needs an argument of the caller's own: the bytes may change at any time, and may be written
    /// only where [`check_writable`](View::check_writable) passes.
    pub fn host(&self) -> Option<NonNull<u8>> {
        let base = self.backing.host()?;
        // SAFETY: `at` lies inside the backing (checked when the view was made), whose bytes are
        // one mapping behind `base` by the contract of `Backing`.
        Some(unsafe { base.add(self.at) })
    }

    /// Where a CUDA device finds the first byte; as for [`host`](View::host), using it needs an
    /// argument of the caller's own.
    pub fn device(&self) -> Option<DeviceAddress> {
        let base = self.backing.device()?;
        Some(DeviceAddress { address: base.address + self.at as u64, ..base })
    }

    /// Copies the first `bytes` of `from` to the start of this view, host to host in one step.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] if either view is shorter, [`MemoryError::ReadOnly`], or what a
    /// device says.
    pub fn copy_from(&self, from: &View<'_>, bytes: usize) -> Result<(), MemoryError> {
        check_range(0, bytes, self.bytes)?;
        check_range(0, bytes, from.bytes)?;
        self.check_writable()?;
        match (self.host(), from.host()) {
            (Some(to), Some(from)) => {
                // SAFETY: both ranges are mapped for the life of their backings and at least
                // `bytes` long, and `to` may be written (checked above). `copy` allows overlap. Another process may write
                // meanwhile; the bytes are plain data that nobody interprets while they move.
                unsafe { std::ptr::copy(from.as_ptr(), to.as_ptr(), bytes) };
                Ok(())
            }
            _ => {
                let mut staging = vec![0; bytes];
                from.copy_out(0, &mut staging)?;
                self.copy_in(0, &staging)
            }
        }
    }
}

/// Copies into host memory behind `base`; the shared body of every host backing.
///
/// # Safety
/// `bytes` bytes behind `base` are mapped and writable.
pub(crate) unsafe fn host_copy_in(
    base: NonNull<u8>,
    bytes: usize,
    at: usize,
    from: &[u8],
) -> Result<(), MemoryError> {
    check_range(at, from.len(), bytes)?;
    // SAFETY: `at` is at most `bytes` (checked above).
    let to = unsafe { base.add(at) };
    // SAFETY: `from` is a borrow of this process's own memory and cannot overlap a mapping whose
    // bytes are never borrowed as a slice at the same time; the range was checked above. A peer
    // may write meanwhile: these are plain bytes that nobody interprets while they move.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), from.len()) };
    Ok(())
}

/// Copies out of host memory behind `base`.
///
/// # Safety
/// `bytes` bytes behind `base` are mapped and readable.
pub(crate) unsafe fn host_copy_out(
    base: NonNull<u8>,
    bytes: usize,
    at: usize,
    into: &mut [u8],
) -> Result<(), MemoryError> {
    check_range(at, into.len(), bytes)?;
    // SAFETY: `at` is at most `bytes` (checked above).
    let from = unsafe { base.add(at) };
    // SAFETY: as in `host_copy_in`, in the other direction.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into.as_mut_ptr(), into.len()) };
    Ok(())
}
