//! Whether this machine has a CUDA driver that can be used.

use std::sync::OnceLock;

use cudarc::driver::sys;

use super::error::check;

/// The oldest driver: 12.8, the R570 branch. Older ones lack calls that are used here.
const VERSION_MIN: i32 = 12080;

/// Calls that are used: a driver without one of them would end the process at its first use.
const SYMBOLS: [&str; 18] = [
    "cuInit",
    "cuDevicePrimaryCtxRetain",
    "cuMemAlloc_v2",
    "cuMemHostRegister_v2",
    "cuStreamCreateWithPriority",
    "cuStreamBeginCapture_v2",
    "cuGraphInstantiateWithFlags",
    "cuGraphKernelNodeSetAttribute",
    "cuEventElapsedTime_v2",
    "cuCtxPushCurrent_v2",
    "cuCtxPopCurrent_v2",
    "cuDeviceGetUuid_v2",
    "cuIpcGetMemHandle",
    "cuIpcOpenMemHandle_v2",
    "cuIpcCloseMemHandle",
    "cuMemGetAddressRange_v2",
    "cuMemGetHandleForAddressRange",
    "cuFlushGPUDirectRDMAWrites",
];

/// A driver that is open and has at least one device.
#[derive(Debug)]
pub struct Driver {
    version: i32,
    devices: u32,
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no CUDA: {why}: {fix}")]
pub struct Missing {
    /// What was found.
    pub why: String,
    /// What to do.
    pub fix: String,
}

impl Driver {
    /// The CUDA version that the driver speaks, such as `13.0`.
    pub fn version(&self) -> String {
        version_text(self.version)
    }

    /// How many devices it shows.
    pub fn devices(&self) -> u32 {
        self.devices
    }
}

fn version_text(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// Opens the driver, once. A failure is not remembered: a driver may be loaded later.
///
/// # Errors
/// [`Missing`] says what is not there.
pub fn probe() -> Result<&'static Driver, Missing> {
    static OPEN: OnceLock<Driver> = OnceLock::new();
    if let Some(driver) = OPEN.get() {
        return Ok(driver);
    }
    let driver = open()?;
    Ok(OPEN.get_or_init(|| driver))
}

fn missing(why: impl Into<String>, fix: &str) -> Missing {
    Missing { why: why.into(), fix: fix.to_owned() }
}

fn open() -> Result<Driver, Missing> {
    // SAFETY: opens the driver's library, whose start-up code runs; it has no other effect.
    if !unsafe { sys::is_culib_present() } {
        let fix = "install NVIDIA's driver, 570 or later, or use the CPU engines";
        return Err(missing("libcuda.so.1 is not found", fix));
    }
    // SAFETY: it was found a moment ago.
    let library = unsafe { sys::culib() };
    let update = "install NVIDIA's driver 570 or later";
    for name in SYMBOLS {
        // SAFETY: only looked up, never called through this type.
        let symbol = unsafe { library.get::<*const ()>(name.as_bytes()) };
        if symbol.is_err() {
            return Err(missing(format!("the driver has no {name}: it is too old"), update));
        }
    }
    let mut version = 0;
    // SAFETY: a place of ours; may be called before `cuInit`.
    check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&raw mut version) })
        .map_err(|error| missing(error.to_string(), update))?;
    if version < VERSION_MIN {
        let (is, wants) = (version_text(version), version_text(VERSION_MIN));
        return Err(missing(format!("the driver speaks CUDA {is}, {wants} is needed"), update));
    }
    let see = "see `nvidia-smi`: is the kernel module loaded, and is the device given to this \
               container?";
    // SAFETY: 0 is the only value allowed; may be called more than once.
    check("cuInit", unsafe { sys::cuInit(0) }).map_err(|error| missing(error.to_string(), see))?;
    let mut devices = 0;
    // SAFETY: a place of ours.
    check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&raw mut devices) })
        .map_err(|error| missing(error.to_string(), see))?;
    match u32::try_from(devices) {
        Ok(devices @ 1..) => Ok(Driver { version, devices }),
        _ => Err(missing("the driver shows no device", see)),
    }
}
