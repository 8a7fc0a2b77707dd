//! Memory that a server exports and its client opens, in two processes.

use std::sync::Arc;
use std::time::Duration;

use ferry_core::{DeviceMemory, DeviceUuid, IpcHandle};
use ferry_cuda::driver::ipc::BLOCK_BYTES;
use ferry_cuda::{Device, ExportedBacking, ImportedBacking};
use ferry_memory::{MemoryError, Region};

use crate::process::{Other, described, memory, pattern, text};

const BYTES: usize = 700_001;

fn device() -> Arc<Device> {
    Device::open(0).expect("a GPU was asked for")
}

fn exported() -> (Region, DeviceMemory) {
    let backing = Region::whole(ExportedBacking::new(&device(), BYTES).unwrap());
    let described = described(&backing);
    (backing, described)
}

fn read(backing: &Region, at: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    backing.view().copy_out(at, &mut bytes).unwrap();
    bytes
}

/// Opens in another process and expects to be refused with a text that has this in it.
fn refused(other: &mut Other, described: &DeviceMemory, hint: &str) {
    let told = other.ask(&format!("open {}", text(described))).unwrap_err();
    assert!(told.contains(hint), "{hint:?} is not in {told:?}");
    println!("refused: {told}");
}

#[test]
fn what_one_end_writes_the_other_one_reads() {
    let (mut ours, described) = exported();
    let mut other = Other::start(&[]);
    other.ask(&format!("open {}", text(&described))).unwrap();
    for (seed, (at, len)) in (1..).zip([(0, BYTES), (1, 3), (4095, 2), (123, 600_000)]) {
        other.ask(&format!("write {at} {seed} {len}")).unwrap();
        assert_eq!(read(&ours, at, len), pattern(seed, len), "{len} bytes at {at}");
        ours.view_mut().copy_in(at, &pattern(seed + 100, len)).unwrap();
        let same = other.ask(&format!("check {at} {} {len}", seed + 100)).unwrap();
        assert_eq!(same, "true", "{len} bytes at {at}");
    }
    let outside = other.ask(&format!("write {} 1 2", BYTES - 1)).unwrap_err();
    assert!(outside.contains("outside"), "{outside}");
}

#[test]
fn a_device_tensor_of_the_client_is_handed_over() {
    let (ours, described) = exported();
    let mut other = Other::start(&[]);
    other.ask(&format!("open {}", text(&described))).unwrap();
    other.ask("hand-over 8192 9 65536 0 65536").unwrap();
    assert_eq!(read(&ours, 8192, 65_536), pattern(9, 65_536));
    // A part of it.
    other.ask("hand-over 100 11 65536 4096 1000").unwrap();
    assert_eq!(read(&ours, 100, 1000), pattern(11, 5096)[4096..]);
    for (order, hint) in [
        // From its last byte on.
        (format!("hand-over 0 1 65536 65535 {}", BYTES), "one allocation"),
        (format!("hand-over {} 1 65536 0 65536", BYTES - 1), "outside"),
        ("hand-over-host".to_owned(), "is not memory of a CUDA device"),
    ] {
        match other.ask(&order) {
            Err(told) => assert!(told.contains(hint), "{order}: {told}"),
            Ok(_) => panic!("{order} was taken"),
        }
    }
    assert_eq!(other.ask("check 8192 9 0").unwrap(), "true", "the process lives");
}

#[test]
fn bytes_that_are_no_handle_are_refused() {
    let (_ours, honest) = exported();
    let mut other = Other::start(&[]);
    let mut garbage = vec![[0; 64], [0xFF; 64], std::array::from_fn(|at| pattern(3, 64)[at])];
    for at in [0, 7, 8, 23, 40] {
        let mut changed = honest.handle.0;
        changed[at] ^= 0x5A;
        garbage.push(changed);
    }
    for handle in garbage {
        let described = DeviceMemory { handle: IpcHandle(handle), ..honest };
        // A handle has bytes that mean nothing: one that was changed there opens the same memory.
        match other.ask(&format!("open {}", text(&described))) {
            Err(told) => assert!(told.contains("open a new session"), "{told}"),
            Ok(_) => {
                println!("opened, with a handle that differs");
                other.ask("close").unwrap();
            }
        }
    }
    other.ask(&format!("open {}", text(&honest))).unwrap();
}

#[test]
fn memory_of_a_process_that_died_is_refused() {
    let mut server = Other::start(&[]);
    let described = memory(&server.ask(&format!("export {BYTES}")).unwrap());
    server.kill();
    refused(&mut Other::start(&[]), &described, "no memory behind the CUDA IPC handle");
    let ours = ImportedBacking::open(&described).unwrap_err();
    assert!(matches!(ours, MemoryError::Foreign { .. }), "{ours}");
}

#[test]
fn a_client_outlives_a_server_that_is_killed() {
    let mut server = Other::start(&[]);
    let described = memory(&server.ask(&format!("export {BYTES}")).unwrap());
    let mut ours = Region::whole(ImportedBacking::open(&described).unwrap());
    ours.view_mut().copy_in(0, &[1; 4096]).unwrap();
    server.kill();
    // The mapping is dead or keeps its memory: either is an answer, and neither is the end.
    println!("a copy after the server's death: {:?}", ours.view_mut().copy_in(0, &[2; 4096]));
    drop(ours);
    let (mut again, _) = exported();
    again.view_mut().copy_in(0, &[3; 4096]).unwrap();
    assert_eq!(read(&again, 0, 4096), [3; 4096]);
}

#[test]
fn the_process_that_exported_it_is_told_to_use_local() {
    let (_ours, described) = exported();
    let error = ImportedBacking::open(&described).unwrap_err().to_string();
    assert!(error.contains("use the transport local"), "{error}");
}

#[test]
fn two_sessions_on_one_handle_are_refused_until_the_first_is_over() {
    let (_ours, described) = exported();
    let mut other = Other::start(&[]);
    let open = format!("open {}", text(&described));
    other.ask(&open).unwrap();
    refused(&mut other, &described, "open in this process already");
    assert_eq!(other.ask("check 0 0 0").unwrap(), "true", "the first one goes on");
    other.ask("close").unwrap();
    other.ask(&open).unwrap();
}

#[test]
fn a_device_that_the_client_does_not_see_is_named() {
    let (_ours, described) = exported();
    let wrong = DeviceMemory { device: DeviceUuid([0xEE; 16]), ..described };
    refused(&mut Other::start(&[]), &wrong, "CUDA_VISIBLE_DEVICES");
    let mut blind = Other::start(&[("CUDA_VISIBLE_DEVICES", "")]);
    refused(&mut blind, &described, "no CUDA");
}

#[test]
fn less_memory_than_described_is_refused() {
    let (_ours, honest) = exported();
    let mut other = Other::start(&[]);
    let block = BLOCK_BYTES as u64;
    for (offset, bytes) in [(0, block + 1), (1, block), (block, 1), (u64::MAX - 8, 4), (0, 1 << 40)]
    {
        let described = DeviceMemory { offset, bytes, ..honest };
        refused(&mut other, &described, "described are");
    }
    // What was refused was closed: the honest one opens.
    other.ask(&format!("open {}", text(&honest))).unwrap();
}

#[test]
fn a_client_that_is_killed_in_the_middle_of_a_copy_leaves_nothing() {
    let (mut ours, described) = exported();
    let before = device().memory().unwrap().0;
    for _ in 0..3 {
        let mut other = Other::start(&[]);
        other.ask(&format!("open {}", text(&described))).unwrap();
        other.order("write-for-ever");
        std::thread::sleep(Duration::from_millis(200));
        other.kill();
        ours.view_mut().copy_in(0, &pattern(5, BYTES)).unwrap();
        assert_eq!(read(&ours, 0, BYTES), pattern(5, BYTES), "it writes no more");
    }
    drop(ours);
    // Its context and its mapping are gone. Other tests run beside this one: a context is 300 MB
    // and more, and this is about three of them.
    let after = device().memory().unwrap().0;
    println!("free before {before}, after {after}");
}

#[test]
fn late_writes_to_memory_that_was_freed_reach_nobody() {
    let mut other = Other::start(&[]);
    let mut handles = Vec::new();
    for _ in 0..20 {
        let (ours, old) = exported();
        assert!(!handles.contains(&old.handle), "a handle came back");
        handles.push(old.handle);
        other.ask(&format!("open {}", text(&old))).unwrap();
        other.ask(&format!("write 0 1 {BYTES}")).unwrap();
        drop(ours);
        // The next leases, at once: of the same size, so that they would get the same blocks.
        let next: Vec<_> = (0..4).map(|_| exported()).collect();
        assert!(next.iter().all(|(_, it)| it.handle != old.handle), "a handle came back");
        // Taken or not, it must not land in any of them.
        let late = other.ask(&format!("write 0 2 {BYTES}"));
        for (backing, _) in &next {
            assert_eq!(read(backing, 0, BYTES), vec![0; BYTES], "a late write ({late:?}) landed");
        }
        other.ask("close").unwrap();
    }
}
