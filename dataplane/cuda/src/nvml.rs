//! What a GPU has used, as NVIDIA's management library tells.
//!
//! The library is opened at run time. Where it is missing, and where a device does not count
//! something, the answer is `None`: nothing that is served depends on it.

mod counter;
#[expect(unsafe_code, reason = "the fence around the calls of NVML that have no safe form")]
mod fields;

use std::ffi::OsStr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nvml_wrapper::Nvml;

use crate::driver::device::Device;
use crate::driver::probe::Missing;
use counter::{Counter, period};
use fields::Field;

/// What the driver installs. Containers often have no link without the number.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// What one GPU had used at an instant: the whole of it, also where this process runs in a MIG
/// instance of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Memory in use by all processes, without what the driver keeps for itself.
    pub memory_bytes: Option<u64>,
    /// Share of the time in which a kernel ran, over the driver's last period (1/6 to 1 s).
    pub busy_percent: Option<f64>,
    /// Sent and received over PCIe since the meter was made, with the link's own overhead. `None`
    /// too where the device's counter may have gone round unseen since the sample before.
    pub pcie_bytes: Option<u64>,
    /// Payload sent and received over all NVLinks since the meter was made.
    pub nvlink_bytes: Option<u64>,
    /// Microjoules since the driver was loaded.
    pub energy_uj: Option<u64>,
}

impl Usage {
    /// What several GPUs used together: memory, traffic and energy are sums, the time in which
    /// they ran is the mean. A part that one of them does not tell is `None`; so is all of no GPU.
    pub fn together(all: &[Usage]) -> Usage {
        let sum = |part: fn(&Usage) -> Option<u64>| {
            let sum = |sum: u64, part: Option<u64>| Some(sum.saturating_add(part?));
            let total = all.iter().map(part).try_fold(0, sum);
            total.filter(|_| !all.is_empty())
        };
        let busy: Option<Vec<f64>> = all.iter().map(|usage| usage.busy_percent).collect();
        let mean = |busy: Vec<f64>| {
            let count = u32::try_from(busy.len()).ok().filter(|count| *count > 0)?;
            Some(busy.iter().sum::<f64>() / f64::from(count))
        };
        Usage {
            memory_bytes: sum(|usage| usage.memory_bytes),
            busy_percent: busy.and_then(mean),
            pcie_bytes: sum(|usage| usage.pcie_bytes),
            nvlink_bytes: sum(|usage| usage.nvlink_bytes),
            energy_uj: sum(|usage| usage.energy_uj),
        }
    }
}

/// Reads what one GPU uses.
#[derive(Debug)]
pub struct Meter {
    device: nvml_wrapper::Device<'static>,
    /// Sent and received.
    pcie: [Counter; 2],
    nvlink: [Counter; 2],
    /// How long a 32-bit counter of PCIe takes to go round at the link's full speed.
    pcie_round: Duration,
    /// Whether the counters of PCIe have 32 bits, as the first reading said.
    pcie_narrow: bool,
}

impl Meter {
    /// Finds the device by its place on the PCI bus: NVML counts devices in an order of its own.
    ///
    /// # Errors
    /// [`Missing`] if NVML is not there or does not show the device.
    pub fn open(device: &Device) -> Result<Meter, Missing> {
        let unknown = |why: String| Missing { why, fix: "see `nvidia-smi`".into() };
        let pci = device.pci().map_err(|error| unknown(error.to_string()))?;
        let found = nvml()?.device_by_pci_bus_id(pci.as_str());
        let device = found.map_err(|error| unknown(format!("NVML shows no {pci}: {error}")))?;
        let link = device.max_pcie_link_gen().ok().zip(device.max_pcie_link_width().ok());
        let mut meter = Meter {
            device,
            pcie: Default::default(),
            nvlink: Default::default(),
            pcie_round: period(link),
            pcie_narrow: false,
        };
        meter.poll();
        meter.read_nvlink();
        meter.pcie_narrow = meter.pcie.iter().any(Counter::is_narrow);
        Ok(meter)
    }

    /// How often [`poll`](Meter::poll) has to be called between two samples, so that no counter
    /// goes round unseen; `None` where none can.
    pub fn poll_every(&self) -> Option<Duration> {
        self.pcie_narrow.then_some(self.pcie_round / 2)
    }

    /// Reads the counters of PCIe.
    pub fn poll(&mut self) {
        let raw = fields::read(&self.device, [Field::PcieSent, Field::PcieReceived]);
        let now = Instant::now();
        for (counter, raw) in self.pcie.iter_mut().zip(raw) {
            counter.add(raw, now, self.pcie_round);
        }
    }

    /// Reads everything.
    pub fn read(&mut self) -> Usage {
        self.poll();
        self.read_nvlink();
        let energy_mj = self.device.total_energy_consumption().ok();
        Usage {
            memory_bytes: self.device.memory_info().ok().map(|memory| memory.used),
            busy_percent: self.device.utilization_rates().ok().map(|it| f64::from(it.gpu)),
            pcie_bytes: both(&mut self.pcie, 1),
            nvlink_bytes: both(&mut self.nvlink, fields::NVLINK_UNIT_BYTES),
            energy_uj: energy_mj.map(|mj| mj.saturating_mul(1000)),
        }
    }

    fn read_nvlink(&mut self) {
        let raw = fields::read(&self.device, [Field::NvlinkSent, Field::NvlinkReceived]);
        let now = Instant::now();
        for (counter, raw) in self.nvlink.iter_mut().zip(raw) {
            // Narrow counters of NVLink are not known; one that gets full in a second is not.
            counter.add(raw, now, Duration::MAX);
        }
    }
}

/// Both directions; both are asked, since asking ends a gap.
fn both(counters: &mut [Counter; 2], unit_bytes: u64) -> Option<u64> {
    let [sent, received] = counters;
    let (sent, received) = (sent.total(), received.total());
    Some(sent?.saturating_add(received?).saturating_mul(unit_bytes))
}

/// The version of NVIDIA's driver, such as `580.82.07`; `None` where NVML is missing.
///
/// # Errors
/// [`Missing`] if NVML is not there.
pub fn driver_version() -> Result<String, Missing> {
    nvml()?.sys_driver_version().map_err(|error| missing(&error.to_string()))
}

/// Whether the GPU at a place on the PCI bus is divided into MIG instances; `None` where NVML
/// does not tell, or the device cannot be divided.
pub fn is_divided(pci: &str) -> Option<bool> {
    let device = nvml().ok()?.device_by_pci_bus_id(pci).ok()?;
    Some(device.mig_mode().ok()?.current != 0)
}

/// Memory that nobody uses of the GPU at a place on the PCI bus, in bytes; `None` where NVML does
/// not tell, or where the device is divided, so that all of it is not this process's.
pub fn free_bytes(pci: &str) -> Option<u64> {
    if is_divided(pci) == Some(true) {
        return None;
    }
    Some(nvml().ok()?.device_by_pci_bus_id(pci).ok()?.memory_info().ok()?.free)
}

fn missing(why: &str) -> Missing {
    let fix = "install NVIDIA's driver with its utilities, or give them to this container \
               (NVIDIA_DRIVER_CAPABILITIES=compute,utility); only samples of the GPU need it";
    Missing { why: format!("NVML cannot be used: {why}"), fix: fix.into() }
}

/// The library, opened once and never closed. A failure is not remembered.
fn nvml() -> Result<&'static Nvml, Missing> {
    static OPEN: OnceLock<Nvml> = OnceLock::new();
    if let Some(nvml) = OPEN.get() {
        return Ok(nvml);
    }
    let opened = Nvml::builder().lib_path(OsStr::new(LIBRARY)).init();
    let opened = opened.map_err(|error| missing(&format!("{LIBRARY}: {error}")))?;
    // Of two threads that come here at once one closes its own again: NVML counts its users.
    Ok(OPEN.get_or_init(|| opened))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_together_are_sums_and_a_mean_and_unknown_stays_unknown() {
        let one = Usage {
            memory_bytes: Some(1 << 30),
            busy_percent: Some(90.0),
            pcie_bytes: Some(7),
            nvlink_bytes: None,
            energy_uj: Some(u64::MAX),
        };
        let other = Usage { busy_percent: Some(20.0), energy_uj: Some(1), ..one };
        let both = Usage {
            memory_bytes: Some(2 << 30),
            busy_percent: Some(55.0),
            pcie_bytes: Some(14),
            nvlink_bytes: None,
            energy_uj: Some(u64::MAX),
        };
        assert_eq!(Usage::together(&[one, other]), both);
        assert_eq!(Usage::together(&[one]), one);
        assert_eq!(Usage::together(&[]), Usage::default());
        assert_eq!(Usage::together(&[one, Usage::default()]), Usage::default());
    }

    #[test]
    fn nvml_answers_or_says_what_to_do() {
        match driver_version() {
            Ok(version) => assert!(version.contains('.'), "{version}"),
            Err(missing) => {
                assert!(missing.why.contains(LIBRARY), "{missing}");
                assert!(missing.fix.contains("driver"), "{missing}");
            }
        }
    }
}
