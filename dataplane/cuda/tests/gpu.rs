//! What needs a device. `./test gpu` runs it.

#[path = "gpu/nvml.rs"]
mod nvml;

#[test]
fn a_device_is_there() {
    let device = ferry_cuda::Device::open(0).expect("a GPU was asked for");
    assert!(device.memory().expect("memory").0 > 0);
}
