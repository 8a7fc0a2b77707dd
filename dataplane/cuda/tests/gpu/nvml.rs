//! What NVML tells of a device.

use std::time::{Duration, Instant};

use ferry_core::Found;
use ferry_cuda::nvml::{Meter, Usage};
use ferry_cuda::{Device, DeviceBuffer, survey};

#[test]
fn a_sample_has_what_the_device_counts_and_its_cost_is_printed() {
    /// Samples that are timed.
    const SAMPLES: usize = 20;
    let device = Device::open(0).expect("a GPU was asked for");
    let mut meter = Meter::open(&device).expect("NVML");
    let before = meter.read();
    println!("first sample: {before:?}, polled every {:?}", meter.poll_every());
    let bytes = 256 << 20;
    let buffer = DeviceBuffer::zeroed(&device, bytes).expect("memory");
    let data = vec![1; bytes];
    buffer.write(0, &data).expect("copy");
    // NVML renews what it tells some times a second.
    std::thread::sleep(Duration::from_secs(1));
    let mut costs: Vec<Duration> = Vec::new();
    let mut after = Usage::default();
    for _ in 0..SAMPLES {
        let start = Instant::now();
        after = meter.read();
        costs.push(start.elapsed());
    }
    costs.sort_unstable();
    println!("last sample: {after:?}");
    println!("a sample: {:?} at the median, {:?} at the most", costs[10], costs[SAMPLES - 1]);
    let mut polls: Vec<Duration> = Vec::new();
    for _ in 0..SAMPLES {
        let start = Instant::now();
        meter.poll();
        polls.push(start.elapsed());
    }
    polls.sort_unstable();
    println!("PCIe alone: {:?} at the median", polls[10]);
    let more = |part: fn(&Usage) -> Option<u64>| part(&after).zip(part(&before));
    let (now, then) = more(|usage| usage.memory_bytes).expect("memory is told everywhere");
    assert!(now >= then + bytes as u64, "{then} to {now} with {bytes} more");
    if let Some((now, then)) = more(|usage| usage.energy_uj) {
        assert!(now > then, "energy {then} to {now}");
    }
    if let Some(busy) = after.busy_percent {
        assert!((0.0..=100.0).contains(&busy), "{busy}");
    }
}

#[test]
fn the_survey_describes_the_device() {
    let all = survey(&ferry_cuda::libraries::LibrarySearch::default());
    for Found { name, usable, detail, fix } in &all {
        println!("{name}: {usable}, {detail}; {fix}");
    }
    let find = |name: &str| all.iter().find(|found| found.name == name).expect("a finding");
    assert!(find("driver").usable && find("cuda:0").usable, "{all:?}");
    assert!(find("cuda:0").detail.contains("compute capability"), "{all:?}");
}
