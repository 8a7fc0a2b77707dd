//! What devices there are, without taking any of them into use: no context is made.

use cudarc::driver::sys;
use cudarc::driver::sys::CUdevice_attribute as Attr;

use super::device::{Attributes, attributes, name, text_of};
use super::error::{CudaError, check};
use super::probe::{Driver, Missing, probe};

/// A device as its driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its number.
    pub ordinal: u32,
    /// Its name, such as `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Where it is on the PCI bus, such as `0000:01:00.0`.
    pub pci: String,
    /// All its memory.
    pub memory_bytes: u64,
    /// What it can do.
    pub attributes: Attributes,
    /// Who may use it.
    pub compute_mode: ComputeMode,
    /// The other devices whose memory it reads and writes directly.
    pub peers: Vec<u32>,
}

/// Who may use a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComputeMode {
    /// Any number of processes.
    Default,
    /// One process.
    ExclusiveProcess,
    /// None.
    Prohibited,
    /// A mode that this build does not know.
    Other(i32),
}

/// Every device, or what the driver said about it.
///
/// # Errors
/// [`Missing`] if there is no driver.
pub fn list() -> Result<Vec<Result<Listed, CudaError>>, Missing> {
    let driver = probe()?;
    Ok((0..driver.devices()).map(|ordinal| look_at(driver, ordinal)).collect())
}

fn raw(ordinal: u32) -> Result<sys::CUdevice, CudaError> {
    let mut raw = 0;
    let number = i32::try_from(ordinal).unwrap_or(i32::MAX);
    // SAFETY: a place of ours, after `cuInit`.
    check("cuDeviceGet", unsafe { sys::cuDeviceGet(&raw mut raw, number) })?;
    Ok(raw)
}

fn look_at(driver: &Driver, ordinal: u32) -> Result<Listed, CudaError> {
    let device = raw(ordinal)?;
    let mut memory_bytes = 0;
    // SAFETY: a place of ours and a device that exists.
    let got = unsafe { sys::cuDeviceTotalMem_v2(&raw mut memory_bytes, device) };
    check("cuDeviceTotalMem", got)?;
    let mut mode = 0;
    let attribute = Attr::CU_DEVICE_ATTRIBUTE_COMPUTE_MODE;
    // SAFETY: as above.
    let got = unsafe { sys::cuDeviceGetAttribute(&raw mut mode, attribute, device) };
    check("cuDeviceGetAttribute", got)?;
    let mut text = [0; 32];
    // SAFETY: room for 32 bytes, NUL included, as said.
    let got = unsafe { sys::cuDeviceGetPCIBusId(text.as_mut_ptr(), 32, device) };
    check("cuDeviceGetPCIBusId", got)?;
    let others = (0..driver.devices()).filter(|other| *other != ordinal);
    Ok(Listed {
        ordinal,
        name: name(device)?,
        pci: text_of(&text),
        memory_bytes: memory_bytes as u64,
        attributes: attributes(device)?,
        compute_mode: match mode {
            0 => ComputeMode::Default,
            2 => ComputeMode::Prohibited,
            3 => ComputeMode::ExclusiveProcess,
            other => ComputeMode::Other(other),
        },
        peers: others.filter(|other| reaches(device, *other)).collect(),
    })
}

fn reaches(device: sys::CUdevice, other: u32) -> bool {
    let Ok(other) = raw(other) else { return false };
    let mut can = 0;
    // SAFETY: a place of ours and two devices that exist.
    let got = unsafe { sys::cuDeviceCanAccessPeer(&raw mut can, device, other) };
    got == sys::CUresult::CUDA_SUCCESS && can != 0
}
