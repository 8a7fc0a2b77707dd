//! What needs a device. `./test gpu` runs it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "a process of a test answers on its standard output")]

mod ipc;
mod memory;
mod nvml;
mod pair;
mod process;

#[test]
fn a_device_is_there() {
    let device = ferry_cuda::Device::open(0).expect("a GPU was asked for");
    assert!(device.memory().expect("memory").0 > 0);
}

#[test]
fn exported_memory_begins_at_a_page_of_the_device_and_has_a_dma_buf_where_the_driver_says_so() {
    use ferry_memory::{Backing, Region};
    let device = ferry_cuda::Device::open(0).expect("a GPU was asked for");
    for bytes in [1, 65_536, 602_112, 3 << 20] {
        let memory = ferry_cuda::DeviceBacking::exported(&device, bytes).expect("memory");
        let address = memory.device().expect("an address").address;
        assert_eq!((address % 65_536, memory.bytes()), (0, bytes));
        assert_eq!(memory.dma_buf().is_some(), device.attributes().dma_buf, "{bytes} bytes");
        let mut memory = Region::whole(memory);
        memory.view_mut().copy_in(bytes - 1, &[7]).expect("the last byte");
        memory.view_mut().copy_in(bytes, &[7]).expect_err("the byte behind it");
        memory.view().make_visible().expect("the flush of GPUDirect writes");
        let mut seen = [0];
        memory.view().copy_out(bytes - 1, &mut seen).expect("the last byte");
        assert_eq!(seen, [7]);
    }
}
