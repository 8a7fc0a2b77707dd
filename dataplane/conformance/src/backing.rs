//! What every [`Backing`](ferry_memory::Backing) promises.

use ferry_core::{Placement, RegionDescriptor, SlotLayout};
use ferry_memory::{MemoryError, PeerAccess, Region, SlotTable};

/// Makes a backing of at least 8,192 bytes, and gives all of it.
pub type Make<'a> = &'a dyn Fn() -> Region;

fn bytes_of(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| i.to_le_bytes()[0].wrapping_mul(31).wrapping_add(seed)).collect()
}

fn write(backing: &mut Region, at: usize, bytes: &[u8]) {
    backing
        .view_mut()
        .copy_in(at, bytes)
        .unwrap_or_else(|error| panic!("copy in at {at}: {error}"));
}

fn read(backing: &Region, at: usize, len: usize) -> Vec<u8> {
    backing.view().make_visible().unwrap_or_else(|error| panic!("make visible: {error}"));
    let mut bytes = vec![0xA5; len];
    backing
        .view()
        .copy_out(at, &mut bytes)
        .unwrap_or_else(|error| panic!("copy out at {at}: {error}"));
    bytes
}

/// Size, place and address are the same at every call; host memory has an address; what is
/// described is as long as what is there.
pub fn it_stays_the_same(make: Make<'_>) {
    let mut backing = make();
    let facts = |it: &Region| {
        let view = it.view();
        (it.bytes(), view.placement(), view.host(), it.describe(), view.is_writable())
    };
    let first = facts(&backing);
    assert!(first.0 >= 8192, "the suite needs 8,192 bytes, this backing has {}", first.0);
    write(&mut backing, 0, &[1; 8192]);
    assert_eq!(first, facts(&backing));
    assert!(first.4, "what can be written says so");
    if first.1 == Placement::Host {
        assert!(first.2.is_some(), "host memory has an address");
    }
    if let Some(RegionDescriptor::Memfd { bytes, .. }) = first.3 {
        assert_eq!(usize::try_from(bytes).ok(), Some(first.0), "described as long as it is");
    }
}

/// Every access outside is an error and changes nothing.
pub fn bytes_outside_are_refused(make: Make<'_>) {
    let mut backing = make();
    let bytes = backing.bytes();
    let last = bytes_of(64, 3);
    write(&mut backing, bytes - 64, &last);
    for at in [bytes, bytes - 1, bytes - 63, usize::MAX, usize::MAX - 63, usize::MAX / 2] {
        let copied = backing.view_mut().copy_in(at, &[9; 64]);
        assert!(matches!(copied, Err(MemoryError::OutOfRange { .. })), "in at {at}: {copied:?}");
        let copied = backing.view().copy_out(at, &mut [0; 64]);
        assert!(matches!(copied, Err(MemoryError::OutOfRange { .. })), "out at {at}: {copied:?}");
    }
    assert_eq!(read(&backing, bytes - 64, 64), last, "a refused copy changed bytes");
    write(&mut backing, bytes, &[]);
}

/// What is copied in comes back, at every alignment, and nothing beside it changes.
pub fn copies_come_back(make: Make<'_>) {
    let mut backing = make();
    let bytes = backing.bytes();
    write(&mut backing, 0, &vec![0; bytes]);
    for (at, len) in [(0, 1), (1, 3), (63, 130), (4095, 2), (4096, 4096), (0, bytes)] {
        let payload = bytes_of(len, 7);
        write(&mut backing, at, &payload);
        assert_eq!(read(&backing, at, len), payload, "{len} bytes at {at}");
        let after = at + len;
        let beside = [at.checked_sub(1), (after < bytes).then_some(after)];
        for beside in beside.into_iter().flatten() {
            assert_eq!(read(&backing, beside, 1), [0], "byte {beside} beside {len} at {at}");
        }
        write(&mut backing, at, &vec![0; len]);
    }
}

/// What another thread wrote is read once it is done and was made visible.
pub fn writes_of_other_threads_are_visible(make: Make<'_>) {
    let mut backing = make();
    for seed in 0..50 {
        let payload = bytes_of(8192, seed);
        std::thread::scope(|scope| {
            scope.spawn(|| write(&mut backing, 0, &payload));
        });
        assert_eq!(read(&backing, 0, 8192), payload);
    }
}

/// Slots over it do not overlap.
pub fn halves_of_slots_are_apart(make: Make<'_>) {
    let backing = make();
    let slots = u32::try_from(backing.bytes() / 8192).unwrap_or(u32::MAX).min(8);
    let layout = SlotLayout { slots, request_bytes: 4096, reply_bytes: 4000 };
    let table = SlotTable::over(layout, PeerAccess::Writes, backing);
    let table = table.unwrap_or_else(|error| panic!("slots over the backing: {error}"));
    let mut held: Vec<_> = std::iter::from_fn(|| table.acquire()).collect();
    assert_eq!(held.len(), slots as usize);
    let seed = |slot: &ferry_memory::Slot| slot.index().0.to_le_bytes()[0];
    for slot in &mut held {
        let seed = seed(slot);
        let request = slot.request_mut().copy_in(0, &bytes_of(4096, seed));
        let reply = slot.reply_mut().copy_in(0, &bytes_of(4000, seed + 100));
        assert!(request.is_ok() && reply.is_ok(), "{request:?} {reply:?}");
    }
    for slot in &held {
        let (mut request, mut reply) = (vec![0; 4096], vec![0; 4000]);
        let read = slot.request().copy_out(0, &mut request);
        assert!(read.is_ok() && slot.reply().copy_out(0, &mut reply).is_ok());
        assert_eq!(request, bytes_of(4096, seed(slot)), "request half of {:?}", slot.index());
        assert_eq!(reply, bytes_of(4000, seed(slot) + 100), "reply half of {:?}", slot.index());
    }
}
