//! A range of a backing, and the views into it.

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use ferry_core::{Placement, RegionDescriptor};

use crate::backing::{Backing, DeviceAddress, MemoryError};
use crate::past_caches;

/// A range of some backing, and the only way to its bytes: it is divided and moved, never cloned.
/// The backing goes with the last part of it, and the last [`RegionAddress`].
#[derive(Debug)]
pub struct Region {
    place: RegionAddress,
}

impl Region {
    /// All of a backing.
    pub fn whole(backing: impl Backing + 'static) -> Region {
        let bytes = backing.bytes();
        Region { place: RegionAddress { backing: Arc::new(backing), at: 0, bytes } }
    }

    /// A part of this region; nobody reaches the rest any more.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] if the part does not lie inside.
    pub fn part(self, at: usize, bytes: usize) -> Result<Region, MemoryError> {
        check_range(at, bytes, self.bytes())?;
        Ok(self.piece(at, bytes))
    }

    /// The first `at` bytes, and the rest.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] if there are not so many.
    pub fn split_at(self, at: usize) -> Result<(Region, Region), MemoryError> {
        check_range(at, 0, self.bytes())?;
        Ok((self.piece(0, at), self.piece(at, self.bytes() - at)))
    }

    /// A part that lies inside. The caller gives out no byte twice.
    fn piece(&self, at: usize, bytes: usize) -> Region {
        let backing = Arc::clone(&self.place.backing);
        Region { place: RegionAddress { backing, at: self.place.at + at, bytes } }
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.place.bytes
    }

    /// Where it is, for those that hand the address on: a device's driver, a peer.
    pub fn address(&self) -> RegionAddress {
        self.place.clone()
    }

    /// How a peer reaches it; `None` for a part, and for memory that cannot leave this process.
    pub fn describe(&self) -> Option<RegionDescriptor> {
        let is_whole = self.bytes() == self.place.backing.bytes();
        if is_whole { self.place.backing.describe() } else { None }
    }

    /// A view of all of it, to read.
    pub fn view(&self) -> View<'_> {
        View { backing: &*self.place.backing, at: self.place.at, bytes: self.place.bytes }
    }

    /// A view of all of it, to write.
    pub fn view_mut(&mut self) -> ViewMut<'_> {
        ViewMut(self.view())
    }
}

// SAFETY: a range of a backing that keeps the contract, which lives as long as the region. No other
// region has a byte of it.
unsafe impl Backing for Region {
    fn placement(&self) -> Placement {
        self.view().placement()
    }

    fn bytes(&self) -> usize {
        self.place.bytes
    }

    fn host(&self) -> Option<NonNull<u8>> {
        self.view().host()
    }

    fn device(&self) -> Option<DeviceAddress> {
        self.view().device()
    }

    fn is_writable(&self) -> bool {
        self.view().is_writable()
    }

    unsafe fn copy_in(&self, at: usize, from: &[u8]) -> Result<(), MemoryError> {
        check_range(at, from.len(), self.bytes())?;
        // SAFETY: the caller's argument; the range lies inside of this one.
        unsafe { self.place.backing.copy_in(self.place.at + at, from) }
    }

    unsafe fn copy_out(&self, at: usize, into: &mut [u8]) -> Result<(), MemoryError> {
        check_range(at, into.len(), self.bytes())?;
        // SAFETY: the caller's argument; the range lies inside of this one.
        unsafe { self.place.backing.copy_out(self.place.at + at, into) }
    }

    fn make_visible(&self) -> Result<(), MemoryError> {
        self.place.backing.make_visible()
    }

    fn describe(&self) -> Option<RegionDescriptor> {
        Region::describe(self)
    }

    fn dma_buf(&self) -> Option<BorrowedFd<'_>> {
        if self.place.at == 0 { self.place.backing.dma_buf() } else { None }
    }
}

/// Where a region is. Keeps the memory mapped and gives no way to its bytes, so that it may be
/// cloned and may outlive the region.
#[derive(Clone, Debug)]
pub struct RegionAddress {
    backing: Arc<dyn Backing>,
    at: usize,
    bytes: usize,
}

impl RegionAddress {
    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where the bytes live.
    pub fn placement(&self) -> Placement {
        self.backing.placement()
    }

    /// How a network card's driver finds it; `None` for memory that is neither the host's nor a
    /// device's.
    pub fn registrable(&self) -> Option<Registrable<'_>> {
        let view = View { backing: &*self.backing, at: self.at, bytes: self.bytes };
        if let Some(base) = view.host() {
            return Some(Registrable::Host(base));
        }
        let address = view.device()?.address;
        let dma_buf = self.backing.dma_buf().map(|fd| DmaBuf { fd, at: self.at });
        Some(Registrable::Device { address, dma_buf })
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

/// A range of memory, to read: bytes are copied out, or native code is handed the address. Another
/// process or a device may write it at any time, so that it is never a slice; in this process
/// nobody does while the view is held.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    backing: &'a dyn Backing,
    at: usize,
    bytes: usize,
}

impl<'a> View<'a> {
    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// All of a backing that is borrowed, which nobody can write.
    pub(crate) fn whole(backing: &'a dyn Backing) -> View<'a> {
        View { backing, at: 0, bytes: backing.bytes() }
    }

    /// Whether the bytes may be written by whoever holds the memory alone.
    pub fn is_writable(&self) -> bool {
        self.backing.is_writable()
    }

    /// Fails where the bytes were only lent for reading. Native code that writes by address asks
    /// first.
    ///
    /// # Errors
    /// [`MemoryError::ReadOnly`].
    pub fn check_writable(&self) -> Result<(), MemoryError> {
        if self.is_writable() { Ok(()) } else { Err(MemoryError::ReadOnly) }
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

    /// Copies bytes at offset `at` out.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`], or what the device says.
    pub fn copy_out(&self, at: usize, into: &mut [u8]) -> Result<(), MemoryError> {
        check_range(at, into.len(), self.bytes)?;
        // SAFETY: the range lies inside of the view, whose memory nobody of this process writes
        // while it is borrowed: only one way leads to it, a `Region` or a `Slot`.
        unsafe { self.backing.copy_out(self.at + at, into) }
    }

    /// Makes a peer's write visible; see [`Backing::make_visible`].
    ///
    /// # Errors
    /// What the device says.
    pub fn make_visible(&self) -> Result<(), MemoryError> {
        self.backing.make_visible()
    }

    /// The address of the first byte, for native code. Dereferencing it needs an argument of the
    /// caller's own: the bytes may change at any time, and may be written only by whoever holds the
    /// memory alone, where [`is_writable`](View::is_writable) says so.
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
}

/// A range of memory, to write: only whoever holds a [`Region`] or a slot alone is given one.
#[derive(Debug)]
pub struct ViewMut<'a>(View<'a>);

impl<'a> ViewMut<'a> {
    /// All of `view`.
    ///
    /// # Safety
    /// Whoever is given it has borrowed the memory behind it alone.
    pub(crate) unsafe fn new(view: View<'a>) -> ViewMut<'a> {
        ViewMut(view)
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// The same, to read.
    pub fn as_view(&self) -> View<'_> {
        self.0
    }

    /// A part of this view.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] if the part does not lie inside.
    pub fn part(&mut self, at: usize, bytes: usize) -> Result<ViewMut<'_>, MemoryError> {
        self.0.part(at, bytes).map(ViewMut)
    }

    /// A part of this view, which is used up.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] if the part does not lie inside.
    pub fn into_part(self, at: usize, bytes: usize) -> Result<ViewMut<'a>, MemoryError> {
        self.0.part(at, bytes).map(ViewMut)
    }

    /// Copies `from` to offset `at`.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`], [`MemoryError::ReadOnly`], or what the device says.
    pub fn copy_in(&mut self, at: usize, from: &[u8]) -> Result<(), MemoryError> {
        check_range(at, from.len(), self.bytes())?;
        // SAFETY: the range lies inside of the view, whose memory is borrowed by it alone.
        unsafe { self.0.backing.copy_in(self.0.at + at, from) }
    }

    /// Copies `from` to offset `at` as [`copy_in`](ViewMut::copy_in) does, but past this CPU's
    /// caches where the memory is the host's: for bytes that a device reads next, and nobody else.
    ///
    /// # Errors
    /// As [`copy_in`](ViewMut::copy_in).
    pub fn copy_in_for_device(&mut self, at: usize, from: &[u8]) -> Result<(), MemoryError> {
        check_range(at, from.len(), self.bytes())?;
        self.0.check_writable()?;
        let Some(base) = self.0.host() else { return self.copy_in(at, from) };
        // SAFETY: `at` is at most as long as the view (checked above).
        let to = unsafe { base.add(at) };
        // SAFETY: the range was checked above, is mapped by the contract of `Backing`, and may be
        // written. `from` is borrowed, and so cannot overlap what is borrowed by this view alone.
        unsafe { past_caches::copy(to, from) };
        Ok(())
    }

    /// Copies the first `bytes` of `from` to the start of this view, host to host in one step.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] if either view is shorter, [`MemoryError::ReadOnly`], or what a
    /// device says.
    pub fn copy_from(&mut self, from: &View<'_>, bytes: usize) -> Result<(), MemoryError> {
        check_range(0, bytes, self.bytes())?;
        check_range(0, bytes, from.bytes)?;
        self.0.check_writable()?;
        match (self.0.host(), from.host()) {
            (Some(to), Some(from)) => {
                // SAFETY: both ranges are mapped for the life of their backings and at least
                // `bytes` long, and `to` may be written (checked above) and is borrowed by this
                // view alone. `copy` allows overlap: a peer may have two mappings of one memory.
                // Another process may write meanwhile; the bytes are plain data that nobody
                // interprets while they move.
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

    /// Copies the first `period` bytes over and over behind themselves, up to the end. What is there
    /// doubles with each step: 1 byte takes 30 copies to fill 1 GiB, and not 2^30.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] if the view is shorter, [`MemoryError::ReadOnly`], or what a
    /// device says.
    pub fn repeat(&mut self, period: usize) -> Result<(), MemoryError> {
        let mut done = period;
        check_range(0, period, self.bytes())?;
        while done < self.bytes() && done > 0 {
            let step = done.min(self.bytes() - done);
            let from = self.0.part(0, step)?;
            ViewMut(self.0.part(done, step)?).copy_from(&from, step)?;
            done += step;
        }
        Ok(())
    }
}
