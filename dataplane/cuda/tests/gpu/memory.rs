//! Memory of the device, and registered memory of the host.

use std::sync::Arc;

use ferry_cuda::{Device, DeviceBacking, PinnedBacking};
use ferry_memory::{Arena, HeapBacking, MemoryError, Region};

const BYTES: usize = 64 << 10;

fn device() -> Arc<Device> {
    Device::open(0).expect("a GPU was asked for")
}

mod pinned {
    use super::{BYTES, HeapBacking, PinnedBacking, Region, device};

    fn make() -> Region {
        let heap = Region::whole(HeapBacking::new(BYTES).unwrap());
        Region::whole(PinnedBacking::new(&device(), heap).unwrap())
    }
    ferry_conformance::backing_suite!(make);
}

mod on_device {
    use super::{BYTES, DeviceBacking, Region, device};

    fn make() -> Region {
        Region::whole(DeviceBacking::new(&device(), BYTES).unwrap())
    }
    ferry_conformance::backing_suite!(make);
}

mod exported {
    use ferry_cuda::ExportedBacking;

    use super::{BYTES, Region, device};

    fn make() -> Region {
        Region::whole(ExportedBacking::new(&device(), BYTES).unwrap())
    }
    ferry_conformance::backing_suite!(make);
}

mod imported {
    use std::cell::RefCell;

    use ferry_cuda::ImportedBacking;

    use super::{BYTES, Region};
    use crate::process::{Other, memory};

    thread_local! {
        /// Processes that export what a test imports: nobody imports memory of its own.
        static EXPORTERS: RefCell<Vec<Other>> = const { RefCell::new(Vec::new()) };
    }

    fn make() -> Region {
        let mut exporter = Other::start(&[]);
        let described = memory(&exporter.ask(&format!("export {BYTES}")).unwrap());
        EXPORTERS.with_borrow_mut(|exporters| exporters.push(exporter));
        Region::whole(ImportedBacking::open(&described).unwrap())
    }
    ferry_conformance::backing_suite!(make);
}

#[test]
fn more_memory_than_there_is_is_refused_with_the_numbers_and_others_go_on() {
    let device = device();
    let (_, total) = device.memory().unwrap();
    let refused = DeviceBacking::new(&device, total * 2).unwrap_err();
    let text = refused.to_string();
    assert!(text.contains(&(total * 2).to_string()) && text.contains("free"), "{text}");
    let MemoryError::Os { source, .. } = refused else { panic!("{text}") };
    assert!(source.to_string().contains("OUT_OF_MEMORY"), "{source}");
    let mut small = Region::whole(DeviceBacking::new(&device, BYTES).unwrap());
    small.view_mut().copy_in(0, &[7; 16]).unwrap();
}

#[test]
fn an_arena_refuses_sizes_that_no_device_has_and_goes_on() {
    let arena = ferry_cuda::Arena::new(&device());
    for bytes in [usize::MAX, usize::MAX - 255, isize::MAX.unsigned_abs(), 1 << 50] {
        arena.allocate(bytes).unwrap_err();
    }
    let block = arena.allocate(1).unwrap();
    assert!(arena.free(block));
}

#[test]
fn memory_is_registered_once_and_given_back() {
    let device = device();
    let arena = Arena::new(BYTES).unwrap();
    let part = || arena.part(BYTES).unwrap().unwrap();
    drop(PinnedBacking::new(&device, part()).unwrap());
    // The same bytes again; and memory that is registered is not registered twice.
    let first = Region::whole(PinnedBacking::new(&device, part()).unwrap());
    let twice = PinnedBacking::new(&device, first).unwrap_err();
    assert!(twice.to_string().contains("register"), "{twice}");
    PinnedBacking::new(&device, part()).unwrap();
    let lying = Region::whole(DeviceBacking::new(&device, BYTES).unwrap());
    PinnedBacking::new(&device, lying).expect_err("memory of the device is not the host's");
}

#[test]
fn a_device_that_is_not_there_is_named_with_those_there_are() {
    let refused = Device::open(4095).unwrap_err().to_string();
    assert!(refused.contains("4095") && refused.contains("numbered from 0"), "{refused}");
}
