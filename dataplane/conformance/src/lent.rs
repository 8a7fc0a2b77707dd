//! What a [`Backing`](ferry_memory::Backing) promises that was lent for reading.

use ferry_core::{Placement, SlotLayout};
use ferry_memory::{MemoryError, PeerAccess, Region, SlotTable};

/// Makes a backing over a copy of the bytes that it is given, and gives all of it.
pub type Make<'a> = &'a dyn Fn(&[u8]) -> Region;

fn sample() -> Vec<u8> {
    (0..10_000_usize).map(|i| i.to_le_bytes()[0].wrapping_mul(31)).collect()
}

/// Size, place and address are the same at every call; host memory has an address.
pub fn it_stays_the_same(make: Make<'_>) {
    let backing = make(&sample());
    let facts = || {
        let view = backing.view();
        (view.bytes(), view.placement(), view.host(), backing.describe(), view.is_writable())
    };
    let first = facts();
    assert_eq!((first.0, first.4), (10_000, false));
    assert_eq!(first, facts());
    assert!(first.1 != Placement::Host || first.2.is_some(), "host memory has an address");
    assert!(make(&[]).view().host().is_some(), "even of no bytes");
}

/// Every access outside is an error.
pub fn bytes_outside_are_refused(make: Make<'_>) {
    let backing = make(&sample());
    for at in [10_000, 9_999, 9_937, usize::MAX, usize::MAX - 63, usize::MAX / 2] {
        let copied = backing.view().copy_out(at, &mut [0; 64]);
        assert!(matches!(copied, Err(MemoryError::OutOfRange { .. })), "out at {at}: {copied:?}");
    }
}

/// What was lent comes out, at every alignment.
pub fn what_was_lent_is_read(make: Make<'_>) {
    let (sample, backing) = (sample(), make(&sample()));
    let made = backing.view().make_visible();
    assert!(made.is_ok(), "{made:?}");
    for (at, len) in [(0, 1), (1, 3), (63, 130), (4095, 2), (4096, 4096), (0, 10_000)] {
        let mut bytes = vec![0xA5; len];
        let copied = backing.view().copy_out(at, &mut bytes);
        assert!(copied.is_ok(), "{copied:?}");
        assert_eq!(bytes, sample[at..at + len], "{len} bytes at {at}");
    }
}

/// Nothing is copied in, not even no bytes, and no slots lie there.
pub fn nothing_can_be_written(make: Make<'_>) {
    let mut backing = make(&sample());
    for (at, from) in [(0, &[9_u8; 64][..]), (0, &[]), (10_000, &[]), (9_936, &[9; 64])] {
        let copied = backing.view_mut().copy_in(at, from);
        assert!(matches!(copied, Err(MemoryError::ReadOnly)), "in at {at}: {copied:?}");
    }
    let copied = backing.view_mut().copy_from(&make(&[1; 8]).view(), 8);
    assert!(matches!(copied, Err(MemoryError::ReadOnly)), "{copied:?}");
    let mut bytes = vec![0; 10_000];
    assert!(backing.view().copy_out(0, &mut bytes).is_ok());
    assert_eq!(bytes, sample(), "a refused copy changed bytes");
    let layout = SlotLayout { slots: 1, request_bytes: 100, reply_bytes: 100 };
    let table = SlotTable::over(layout, PeerAccess::None, backing);
    assert!(matches!(table, Err(MemoryError::ReadOnly)), "{table:?}");
}
