//! Protection domains and memory windows.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::verbs::sys;

use super::{Access, Device, Registration, VerbsError};

/// What belongs together: only queue pairs of a domain can use its registrations.
#[derive(Debug)]
pub struct Domain {
    raw: NonNull<sys::ibv_pd>,
    device: Arc<Device>,
}

// SAFETY: libibverbs objects may be used from any thread; the pointer goes to the library only.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

impl Domain {
    /// A new domain.
    ///
    /// # Errors
    /// [`VerbsError`] if the device has no more.
    pub fn new(device: &Arc<Device>) -> Result<Arc<Domain>, VerbsError> {
        // SAFETY: the context is open.
        let raw = unsafe { sys::ibv_alloc_pd(device.context()) };
        let raw = NonNull::new(raw).ok_or_else(|| VerbsError::last("ibv_alloc_pd"))?;
        Ok(Arc::new(Domain { raw, device: Arc::clone(device) }))
    }

    /// The device that it is on.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    pub(super) fn raw(&self) -> *mut sys::ibv_pd {
        self.raw.as_ptr()
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: everything made in the domain keeps it, so it is the last.
        VerbsError::log("ibv_dealloc_pd", unsafe { sys::ibv_dealloc_pd(self.raw()) });
    }
}

impl Domain {
    /// Whether the device takes dma-bufs at all: one that does says that this descriptor, which is
    /// none, is bad.
    ///
    /// # Errors
    /// [`VerbsError`] with what a device says that does not.
    pub fn takes_dma_bufs(&self) -> Result<(), VerbsError> {
        const BAD_DESCRIPTOR: i32 = 9;
        let flags = Access::Source.flags().cast_signed();
        // SAFETY: the domain is alive; no memory is named, and -1 is no descriptor.
        let raw = unsafe { sys::ibv_reg_dmabuf_mr(self.raw(), 0, 4096, 0, -1, flags) };
        match VerbsError::last("ibv_reg_dmabuf_mr") {
            error if error.error.raw_os_error() == Some(BAD_DESCRIPTOR) => Ok(()),
            error if raw.is_null() => Err(error),
            _ => Ok(()),
        }
    }
}

/// Windows of this process that the device has.
static WINDOWS: AtomicUsize = AtomicUsize::new(0);

/// A type-2 memory window: a key of its own to a part of a registration, good for one queue pair,
/// that can be taken back at once without touching the registration.
#[derive(Debug)]
pub struct Window {
    raw: NonNull<sys::ibv_mw>,
    key: u32,
    registration: Arc<Registration>,
}

// SAFETY: as for `Domain`.
unsafe impl Send for Window {}

impl Window {
    /// A window that is not bound yet, to be used with `registration`.
    ///
    /// # Errors
    /// [`VerbsError`] if the device has no windows, or no more of them.
    pub fn new(
        domain: &Arc<Domain>,
        registration: Arc<Registration>,
    ) -> Result<Window, VerbsError> {
        // SAFETY: the domain is alive.
        let raw = unsafe { sys::ibv_alloc_mw(domain.raw(), sys::ibv_mw_type::IBV_MW_TYPE_2) };
        let raw = NonNull::new(raw).ok_or_else(|| VerbsError::last("ibv_alloc_mw"))?;
        // SAFETY: the window was just made.
        let key = unsafe { raw.as_ref().rkey };
        WINDOWS.fetch_add(1, Ordering::Relaxed);
        Ok(Window { raw, key, registration })
    }

    /// How many windows this process has: the kernel lists every object but these.
    pub fn count() -> usize {
        WINDOWS.load(Ordering::Relaxed)
    }

    /// The key of the present binding.
    pub fn key(&self) -> u32 {
        self.key
    }

    /// The key for the next binding. Its low 8 bits are the consumer's to choose, so that the key
    /// of the last binding is of no use with the next one.
    pub(super) fn next_key(&mut self) -> u32 {
        self.key = (self.key & !0xff) | (self.key.wrapping_add(1) & 0xff);
        self.key
    }

    pub(super) fn registration(&self) -> &Registration {
        &self.registration
    }

    pub(super) fn raw(&self) -> *mut sys::ibv_mw {
        self.raw.as_ptr()
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: freed once. Whoever owns a queue pair and its window drops the window first:
        // the other order hangs for a minute on Soft-RoCE.
        let returned = unsafe { sys::ibv_dealloc_mw(self.raw()) };
        VerbsError::log("ibv_dealloc_mw", returned);
        if returned == 0 {
            WINDOWS.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
