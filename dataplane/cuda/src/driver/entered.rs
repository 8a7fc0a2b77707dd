//! A context that is current for a while.

use std::marker::PhantomData;

use cudarc::driver::sys;

use super::error::{CudaError, check};

/// A device's context is current for this thread; the one before comes back with the drop.
#[derive(Debug)]
pub struct Entered<'a> {
    _device: PhantomData<&'a ()>,
    /// It is this thread's stack of contexts that is taken back.
    _this_thread: PhantomData<*const ()>,
}

impl Entered<'_> {
    /// Makes a context current.
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Safety
    /// The context is alive until this is dropped.
    pub(super) unsafe fn new<'a>(context: sys::CUcontext) -> Result<Entered<'a>, CudaError> {
        // SAFETY: the caller's argument.
        check("cuCtxPushCurrent", unsafe { sys::cuCtxPushCurrent_v2(context) })?;
        Ok(Entered { _device: PhantomData, _this_thread: PhantomData })
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut ours = std::ptr::null_mut();
        // SAFETY: a place of ours; pushed once by this thread, popped once by it.
        let popped = unsafe { sys::cuCtxPopCurrent_v2(&raw mut ours) };
        if let Err(error) = check("cuCtxPopCurrent", popped) {
            tracing::warn!(%error, "context left current");
        }
    }
}
