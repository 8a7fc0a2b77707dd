//! What needs a device. `./test gpu` runs it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "a process of a test answers on its standard output")]

mod ipc;
mod process;

#[test]
fn a_device_is_there() {
    let device = ferry_cuda::Device::open(0).expect("a GPU was asked for");
    assert!(device.memory().expect("memory").0 > 0);
}
