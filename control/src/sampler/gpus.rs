//! The GPUs that are sampled.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_cuda::Device;
use ferry_cuda::nvml::{Meter, Usage};

use crate::models::{Models, State};
use crate::store::ResourceSample;

/// Every GPU that a model runs on, or ran on since the server started: one that went would take
/// what it counted out of the sums. `None`: it cannot be sampled, as the log says.
#[derive(Debug, Default)]
pub(super) struct Gpus(BTreeMap<u32, Option<Meter>>);

/// The GPUs of the models that serve, once each.
pub(super) fn in_use(models: &Models) -> Vec<Arc<Device>> {
    let mut devices: Vec<Arc<Device>> = Vec::new();
    for listed in models.list() {
        let State::Loaded(served) = listed.state else { continue };
        devices.extend(served.device.clone());
    }
    devices.sort_by_key(|device| device.ordinal());
    devices.dedup_by_key(|device| device.ordinal());
    devices
}

impl Gpus {
    /// Whether none was ever taken in.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes in those that are new.
    pub(super) fn add(&mut self, devices: &[Arc<Device>]) {
        for device in devices {
            let ordinal = device.ordinal();
            self.0.entry(ordinal).or_insert_with(|| meter(device));
        }
    }

    /// How often [`poll`](Gpus::poll) has to be called beside the samples; `None`: never.
    pub(super) fn poll_every(&self) -> Option<Duration> {
        self.0.values().flatten().filter_map(Meter::poll_every).min()
    }

    /// Reads the counters that go round.
    pub(super) fn poll(&mut self) {
        for meter in self.0.values_mut().flatten() {
            if meter.poll_every().is_some() {
                meter.poll();
            }
        }
    }

    /// Puts what they use together into a sample; what each uses.
    pub(super) fn sample(&mut self, into: &mut ResourceSample) -> BTreeMap<u32, Usage> {
        let read = |meter: &mut Option<Meter>| meter.as_mut().map(Meter::read);
        let each = self.0.iter_mut().map(|(gpu, meter)| (*gpu, read(meter).unwrap_or_default()));
        let each: BTreeMap<u32, Usage> = each.collect();
        let together = Usage::together(&each.values().copied().collect::<Vec<_>>());
        into.gpu_memory_bytes = together.memory_bytes;
        into.gpu_busy_percent = together.busy_percent;
        into.pcie_bytes = together.pcie_bytes;
        into.nvlink_bytes = together.nvlink_bytes;
        into.gpu_energy_uj = together.energy_uj;
        each
    }
}

fn meter(device: &Device) -> Option<Meter> {
    let (gpu, ordinal) = (device.name(), device.ordinal());
    let mut meter = match Meter::open(device) {
        Ok(meter) => meter,
        Err(missing) => {
            tracing::warn!(gpu, ordinal, why = missing.why, fix = missing.fix, "not sampled");
            return None;
        }
    };
    let start = Instant::now();
    let usage = meter.read();
    let cost_us = start.elapsed().as_micros();
    let start = Instant::now();
    meter.poll();
    let poll_cost_us = start.elapsed().as_micros();
    let poll_every = meter.poll_every();
    tracing::info!(gpu, ordinal, ?usage, cost_us, poll_cost_us, ?poll_every, "a GPU is sampled");
    Some(meter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_gpu_nothing_is_polled_and_the_columns_are_null() {
        let mut gpus = Gpus::default();
        gpus.add(&[]);
        gpus.poll();
        let mut sample = ResourceSample { rss_bytes: 7, ..ResourceSample::default() };
        gpus.sample(&mut sample);
        assert_eq!(gpus.poll_every(), None);
        assert_eq!(sample, ResourceSample { rss_bytes: 7, ..ResourceSample::default() });
        gpus.0.insert(0, None);
        gpus.sample(&mut sample);
        assert_eq!(sample.gpu_memory_bytes, None, "one that does not tell");
    }
}
