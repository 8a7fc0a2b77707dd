//! One device and its primary context.

use std::ffi::CStr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cudarc::driver::sys;
use cudarc::driver::sys::CUdevice_attribute as Attr;
use ferry_core::DeviceUuid;

use super::entered::Entered;
use super::error::{CudaError, check, not_freed};
use super::identity::uuid_of;
use super::probe::{Driver, Missing, probe};

/// A device in use. Its primary context lives as long as any clone of the `Arc`.
#[derive(Debug)]
pub struct Device {
    ordinal: u32,
    raw: sys::CUdevice,
    context: Context,
    name: String,
    attributes: Attributes,
}

/// The context's handle: only ever given back to the driver, which may be called by any thread.
#[derive(Debug)]
struct Context(sys::CUcontext);

// SAFETY: a handle, not a pointer that is followed here; the driver's calls are thread-safe.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

/// What a device can do, as its driver says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Major and minor compute capability.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Copy engines.
    pub copy_engines: u32,
    /// Most shared memory that a block may ask for, in bytes.
    pub shared_bytes_max: u32,
    /// Whether its memory can be exported as a dma-buf.
    pub dma_buf: bool,
    /// Whether a NIC may write its memory.
    pub gpudirect_rdma: bool,
    /// How GPUDirect writes are made visible (`CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_FLUSH_WRITES_OPTIONS`,
    /// a mask: 1 the host's call, 2 stream memory operations).
    pub gpudirect_flush: u32,
    /// For whom GPUDirect writes are in order without a flush
    /// (`…_WRITES_ORDERING`: 0 nobody, 100 its owner, 200 all devices).
    pub gpudirect_ordering: u32,
    /// Whether several processes may use it.
    pub shareable: bool,
}

/// Why a device cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// There is no driver.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// There is no such device.
    #[error("no CUDA device {ordinal}: this machine has {devices}, numbered from 0")]
    Ordinal {
        /// The one asked for.
        ordinal: u32,
        /// How many there are.
        devices: u32,
    },
    /// The driver refused.
    #[error("open CUDA device {ordinal}")]
    Refused {
        /// The device.
        ordinal: u32,
        /// What the driver says.
        #[source]
        source: CudaError,
    },
}

impl Device {
    /// Opens a device by its number. Two calls give the same one while it is in use.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(ordinal: u32) -> Result<Arc<Device>, OpenError> {
        static OPEN: Mutex<Vec<Weak<Device>>> = Mutex::new(Vec::new());
        let driver = probe()?;
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|device| device.strong_count() > 0);
        let known = open.iter().filter_map(Weak::upgrade).find(|it| it.ordinal == ordinal);
        if let Some(device) = known {
            return Ok(device);
        }
        let device = Arc::new(Device::retain(driver, ordinal)?);
        open.push(Arc::downgrade(&device));
        Ok(device)
    }

    fn retain(driver: &Driver, ordinal: u32) -> Result<Device, OpenError> {
        let none = OpenError::Ordinal { ordinal, devices: driver.devices() };
        let number = i32::try_from(ordinal).map_err(|_too_large| none.clone())?;
        if ordinal >= driver.devices() {
            return Err(none);
        }
        let refused = |source| OpenError::Refused { ordinal, source };
        let mut raw = 0;
        // SAFETY: a place of ours, after `cuInit`.
        check("cuDeviceGet", unsafe { sys::cuDeviceGet(&raw mut raw, number) }).map_err(refused)?;
        let attributes = attributes(raw).map_err(refused)?;
        let name = name(raw).map_err(refused)?;
        let mut context = std::ptr::null_mut();
        // SAFETY: a device that was just got, a place of ours; released in `drop`.
        let retained = unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut context, raw) };
        check("cuDevicePrimaryCtxRetain", retained).map_err(refused)?;
        Ok(Device { ordinal, raw, context: Context(context), name, attributes })
    }

    /// Its number.
    pub fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// Its name, such as `NVIDIA H100 80GB HBM3`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it can do.
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// Makes its context current for this thread, as every call below needs it. Libraries that
    /// are called between may change it, so it is not remembered.
    ///
    /// # Errors
    /// What the driver says.
    pub fn bind(&self) -> Result<(), CudaError> {
        // SAFETY: the context is retained for as long as `self` lives.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.context.0) })
    }

    /// Waits for what runs on the default stream: libraries copy there where they are given no
    /// stream. Nothing of this crate runs there for long.
    ///
    /// # Errors
    /// What the driver says.
    pub fn synchronize_default(&self) -> Result<(), CudaError> {
        self.bind()?;
        // SAFETY: null names the default stream.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(std::ptr::null_mut()) })
    }

    /// Whether this process can no longer use it: something crashed on it, or it was reset.
    /// Asks the driver; never waits.
    pub fn is_lost(&self) -> bool {
        let asked = self.bind().and_then(|()| {
            // SAFETY: null names the default stream, which nothing here puts work on.
            match unsafe { sys::cuStreamQuery(std::ptr::null_mut()) } {
                sys::CUresult::CUDA_ERROR_NOT_READY => Ok(()),
                result => check("cuStreamQuery", result),
            }
        });
        asked.is_err_and(|error| error.is_fatal())
    }

    /// Makes its context current for this thread until what is returned is dropped, and then the
    /// one that was before: for threads of an application that uses CUDA itself.
    ///
    /// # Errors
    /// What the driver says.
    pub fn enter(&self) -> Result<Entered<'_>, CudaError> {
        // SAFETY: the context is retained for as long as `self` lives, which is borrowed.
        unsafe { Entered::new(self.context.0) }
    }

    /// Its identity, the same in every process.
    ///
    /// # Errors
    /// What the driver says.
    pub fn uuid(&self) -> Result<DeviceUuid, CudaError> {
        uuid_of(self.raw)
    }

    /// Bytes free and bytes in all, of the whole device.
    ///
    /// # Errors
    /// What the driver says.
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        self.bind()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: places of ours.
        let got = unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) };
        check("cuMemGetInfo", got)?;
        Ok((free, total))
    }

    /// The priorities that streams may have: the least and the greatest, where smaller is more
    /// urgent.
    ///
    /// # Errors
    /// What the driver says.
    pub fn priorities(&self) -> Result<(i32, i32), CudaError> {
        self.bind()?;
        let (mut least, mut greatest) = (0, 0);
        // SAFETY: places of ours.
        let got = unsafe { sys::cuCtxGetStreamPriorityRange(&raw mut least, &raw mut greatest) };
        check("cuCtxGetStreamPriorityRange", got)?;
        Ok((least, greatest))
    }

    /// Whether this device can read and write the memory of `other` directly.
    ///
    /// # Errors
    /// What the driver says.
    pub fn reaches(&self, other: &Device) -> Result<bool, CudaError> {
        let mut can = 0;
        // SAFETY: a place of ours and two devices that are open.
        let got = unsafe { sys::cuDeviceCanAccessPeer(&raw mut can, self.raw, other.raw) };
        check("cuDeviceCanAccessPeer", got)?;
        Ok(can != 0)
    }

    /// Where it is on the PCI bus, such as `0000:01:00.0`.
    ///
    /// # Errors
    /// What the driver says.
    pub fn pci(&self) -> Result<String, CudaError> {
        let mut text = [0; 32];
        // SAFETY: room for 32 bytes, NUL included, as said.
        let got = unsafe { sys::cuDeviceGetPCIBusId(text.as_mut_ptr(), 32, self.raw) };
        check("cuDeviceGetPCIBusId", got)?;
        Ok(text_of(&text))
    }

    /// Makes what a NIC wrote into its memory visible to work that is started from now on, where
    /// the device does not order such writes by itself.
    ///
    /// # Errors
    /// What the driver says.
    pub fn flush_gpudirect_writes(&self) -> Result<(), CudaError> {
        /// `CU_GPU_DIRECT_RDMA_WRITES_ORDERING_OWNER`: ordered for the device's own work.
        const OWNER: u32 = 100;
        if self.attributes.gpudirect_ordering >= OWNER {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: takes no pointers.
        let flushed = unsafe {
            sys::cuFlushGPUDirectRDMAWrites(
                sys::CUflushGPUDirectRDMAWritesTarget::CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TARGET_CURRENT_CTX,
                sys::CUflushGPUDirectRDMAWritesScope::CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_OWNER,
            )
        };
        check("cuFlushGPUDirectRDMAWrites", flushed)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: retained once, in `retain`; every object of the context held this device.
        let released = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.raw) };
        if let Err(error) = check("cuDevicePrimaryCtxRelease", released) {
            not_freed(&error, "context");
        }
    }
}

pub(super) fn attributes(raw: sys::CUdevice) -> Result<Attributes, CudaError> {
    let of = |attribute: Attr| {
        let mut value = 0;
        // SAFETY: a place of ours and a device that exists.
        let got = unsafe { sys::cuDeviceGetAttribute(&raw mut value, attribute, raw) };
        check("cuDeviceGetAttribute", got)?;
        Ok(u32::try_from(value).unwrap_or(0))
    };
    let major = of(Attr::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = of(Attr::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    /// `CU_COMPUTEMODE_EXCLUSIVE_PROCESS` and `_PROHIBITED` are not shareable.
    const COMPUTE_MODE_DEFAULT: u32 = 0;
    Ok(Attributes {
        capability: (major, minor),
        multiprocessors: of(Attr::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        copy_engines: of(Attr::CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT)?,
        shared_bytes_max: of(Attr::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        dma_buf: of(Attr::CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED)? != 0,
        gpudirect_rdma: of(Attr::CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_SUPPORTED)? != 0,
        gpudirect_flush: of(Attr::CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_FLUSH_WRITES_OPTIONS)?,
        gpudirect_ordering: of(Attr::CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WRITES_ORDERING)?,
        shareable: of(Attr::CU_DEVICE_ATTRIBUTE_COMPUTE_MODE)? == COMPUTE_MODE_DEFAULT,
    })
}

pub(super) fn name(raw: sys::CUdevice) -> Result<String, CudaError> {
    let mut text = [0; 128];
    // SAFETY: room for 128 bytes, NUL included, as said.
    check("cuDeviceGetName", unsafe { sys::cuDeviceGetName(text.as_mut_ptr(), 128, raw) })?;
    Ok(text_of(&text))
}

pub(super) fn text_of(text: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> = text.iter().map(|&byte| byte.cast_unsigned()).collect();
    let until_nul = CStr::from_bytes_until_nul(&bytes).unwrap_or_default();
    until_nul.to_string_lossy().into_owned()
}
