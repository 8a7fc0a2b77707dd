//! Two GPUs of one host.

use ferry_core::Placement;
use ferry_cuda::{Device, DeviceBacking, ExportedBacking};
use ferry_memory::Region;

use crate::process::{Other, described, pattern, text};

const BYTES: usize = 1_000_003;

/// Ordinals are a process's own: what the server calls 1 is 0 at a client that sees them in another
/// order. And a tensor of the client's on one device goes to a slot on the other.
#[test]
#[ignore = "needs two GPUs: gpu-cuda --ignored pair, docs/MEASURING.md"]
fn a_client_finds_the_device_by_its_identity_and_hands_over_tensors_of_another() {
    let devices = [0, 1].map(|it| Device::open(it).expect("two GPUs were asked for"));
    println!("peers: {:?}", devices[0].reaches(&devices[1]));
    for (ordinal, device) in devices.iter().enumerate() {
        let ours = Region::whole(ExportedBacking::new(device, BYTES).unwrap());
        assert_eq!(ours.view().placement(), Placement::Cuda(u32::try_from(ordinal).unwrap()));
        for order in ["0,1", "1,0"] {
            let mut other = Other::start(&[("CUDA_VISIBLE_DEVICES", order)]);
            other.ask(&format!("open {}", text(&described(&ours)))).unwrap();
            other.ask(&format!("write 0 1 {BYTES}")).unwrap();
            let mut read = vec![0; BYTES];
            ours.view().copy_out(0, &mut read).unwrap();
            assert!(read == pattern(1, BYTES), "cuda:{ordinal}, {order}: host to device");
            for from in [0_u8, 1] {
                let seed = from + 20;
                other.ask(&format!("hand-over-from {from} 4096 {seed} 600000 0 600000")).unwrap();
                ours.view().copy_out(0, &mut read).unwrap();
                let same = read[4096..604_096] == pattern(seed, 600_000);
                assert!(same, "cuda:{ordinal}, {order}: from the client's device {from}");
            }
        }
    }
}

/// A client that sees the other GPU alone is told which one it lacks.
#[test]
#[ignore = "needs two GPUs: gpu-cuda --ignored pair, docs/MEASURING.md"]
fn a_client_that_sees_only_the_other_device_is_told() {
    let device = Device::open(0).expect("a GPU was asked for");
    let ours = Region::whole(ExportedBacking::new(&device, BYTES).unwrap());
    let mut other = Other::start(&[("CUDA_VISIBLE_DEVICES", "1")]);
    let told = other.ask(&format!("open {}", text(&described(&ours)))).unwrap_err();
    assert!(told.contains("CUDA_VISIBLE_DEVICES"), "{told}");
}

/// Slots of one device, copied to the other and back.
#[test]
#[ignore = "needs two GPUs: gpu-cuda --ignored pair, docs/MEASURING.md"]
fn memory_of_two_devices_is_kept_apart() {
    let devices = [0, 1].map(|it| Device::open(it).expect("two GPUs were asked for"));
    let mut all = devices.map(|device| Region::whole(DeviceBacking::new(&device, BYTES).unwrap()));
    for (seed, one) in (1..).zip(&mut all) {
        one.view_mut().copy_in(0, &pattern(seed, BYTES)).unwrap();
    }
    for (seed, one) in (1..).zip(&all) {
        let mut read = vec![0; BYTES];
        one.view().copy_out(0, &mut read).unwrap();
        assert!(read == pattern(seed, BYTES), "device {seed}");
    }
}
