//! Memory of a device, and host memory that a device can reach.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use cudarc::driver::sys;

use super::device::Device;
use super::error::{CudaError, check, not_freed};

/// A range of a device's memory, owned.
#[derive(Debug)]
pub struct DeviceBuffer {
    device: Arc<Device>,
    address: u64,
    bytes: usize,
}

impl DeviceBuffer {
    /// Allocates memory and clears it: what another session, or another process, left there is
    /// not to be read.
    ///
    /// # Errors
    /// What the driver says: most often that there is no memory left.
    pub fn zeroed(device: &Arc<Device>, bytes: usize) -> Result<DeviceBuffer, CudaError> {
        let buffer = Self::uninit(device, bytes)?;
        buffer.clear()?;
        Ok(buffer)
    }

    /// Allocates memory with whatever was there before: for what is written before it is read.
    ///
    /// # Errors
    /// What the driver says.
    pub fn uninit(device: &Arc<Device>, bytes: usize) -> Result<DeviceBuffer, CudaError> {
        device.bind()?;
        let mut address = 0;
        // SAFETY: a place of ours; freed in `drop`.
        check("cuMemAlloc", unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes.max(1)) })?;
        Ok(DeviceBuffer { device: Arc::clone(device), address, bytes })
    }

    fn clear(&self) -> Result<(), CudaError> {
        self.device.bind()?;
        // SAFETY: the range is ours alone: nobody was given its address yet.
        check("cuMemsetD8", unsafe { sys::cuMemsetD8_v2(self.address, 0, self.bytes) })?;
        // Streams here do not wait for the default stream, on which that ran.
        self.device.synchronize_default()
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// The address of the first byte, as the device sees it.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes synchronous copies of this memory wait until they are done in every case
    /// (`CU_POINTER_ATTRIBUTE_SYNC_MEMOPS`): without it, a copy that a NIC takes part in may be
    /// seen half done.
    ///
    /// # Errors
    /// What the driver says.
    pub fn sync_memops(&self) -> Result<(), CudaError> {
        self.device.bind()?;
        let on: u32 = 1;
        // SAFETY: the attribute's value is an unsigned int, the address is an allocation of ours.
        let set = unsafe {
            sys::cuPointerSetAttribute(
                (&raw const on).cast::<c_void>(),
                sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_SYNC_MEMOPS,
                self.address,
            )
        };
        check("cuPointerSetAttribute", set)
    }

    /// Copies from the host and waits until it is there.
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Panics
    /// If the range does not lie inside.
    pub fn write(&self, at: usize, from: &[u8]) -> Result<(), CudaError> {
        assert!(at.checked_add(from.len()).is_some_and(|end| end <= self.bytes), "inside");
        if from.is_empty() {
            return Ok(());
        }
        self.device.bind()?;
        let to = self.address + at as u64;
        // SAFETY: both ranges are as long as said (checked above) and live until the call is
        // over, which waits. Device memory is never a slice, so nothing here aliases.
        check("cuMemcpyHtoD", unsafe {
            sys::cuMemcpyHtoD_v2(to, from.as_ptr().cast(), from.len())
        })?;
        // From pageable memory the call returns once the bytes are staged; other streams, and other
        // processes, do not wait for the rest of what runs on the default stream.
        self.device.synchronize_default()
    }

    /// Copies to the host and waits until it is there.
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Panics
    /// If the range does not lie inside.
    pub fn read(&self, at: usize, into: &mut [u8]) -> Result<(), CudaError> {
        assert!(at.checked_add(into.len()).is_some_and(|end| end <= self.bytes), "inside");
        if into.is_empty() {
            return Ok(());
        }
        self.device.bind()?;
        let from = self.address + at as u64;
        // SAFETY: as in `write`.
        check("cuMemcpyDtoH", unsafe {
            sys::cuMemcpyDtoH_v2(into.as_mut_ptr().cast(), from, into.len())
        })
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if self.device.bind().is_err() {
            return;
        }
        // SAFETY: allocated in `uninit`, freed once. `cuMemFree` waits for work that uses it.
        let freed = unsafe { sys::cuMemFree_v2(self.address) };
        if let Err(error) = check("cuMemFree", freed) {
            not_freed(&error, "device memory");
        }
    }
}

/// Host memory that is registered with a device: its copies are DMA, and kernels can read it in
/// place.
#[derive(Debug)]
pub struct Registration {
    device: Arc<Device>,
    base: HostAddress,
    address: u64,
}

#[derive(Debug)]
struct HostAddress(NonNull<u8>);

// SAFETY: an address that is only given back to the driver.
unsafe impl Send for HostAddress {}
// SAFETY: as above.
unsafe impl Sync for HostAddress {}

impl Registration {
    /// Registers `bytes` bytes from `base`.
    ///
    /// # Errors
    /// What the driver says: memory that is registered already, or too much of it locked.
    ///
    /// # Safety
    /// The range is mapped and stays so until the registration is dropped.
    pub unsafe fn new(
        device: &Arc<Device>,
        base: NonNull<u8>,
        bytes: usize,
    ) -> Result<Registration, CudaError> {
        device.bind()?;
        let host = base.as_ptr().cast::<c_void>();
        let flags = sys::CU_MEMHOSTREGISTER_PORTABLE | sys::CU_MEMHOSTREGISTER_DEVICEMAP;
        // SAFETY: the caller's argument.
        check("cuMemHostRegister", unsafe { sys::cuMemHostRegister_v2(host, bytes, flags) })?;
        let mut registration =
            Registration { device: Arc::clone(device), base: HostAddress(base), address: 0 };
        // SAFETY: just registered with DEVICEMAP; a place of ours.
        let got =
            unsafe { sys::cuMemHostGetDevicePointer_v2(&raw mut registration.address, host, 0) };
        check("cuMemHostGetDevicePointer", got)?;
        Ok(registration)
    }

    /// The device that reaches it.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// The address of the first byte, as the device sees it.
    pub fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if self.device.bind().is_err() {
            return;
        }
        // SAFETY: registered in `new`, taken back once; still mapped by the contract of `new`.
        let done = unsafe { sys::cuMemHostUnregister(self.base.0.as_ptr().cast()) };
        if let Err(error) = check("cuMemHostUnregister", done) {
            not_freed(&error, "registration of host memory");
        }
    }
}
