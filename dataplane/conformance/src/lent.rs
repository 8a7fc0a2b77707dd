//! What a [`Backing`] promises that was lent for reading.

use std::sync::Arc;

use ferry_core::{Placement, SlotLayout};
use ferry_memory::{Backing, MemoryError, PeerAccess, Region, SlotTable};

/// Makes a backing over a copy of the bytes that it is given.
pub type Make<'a> = &'a dyn Fn(&[u8]) -> Arc<dyn Backing>;

fn sample() -> Vec<u8> {
    (0..10_000_usize).map(|i| i.to_le_bytes()[0].wrapping_mul(31)).collect()
}

/// Size, place and address are the same at every call; host memory has an address.
pub fn it_stays_the_same(make: Make<'_>) {
    let backing = make(&sample());
    let first = (backing.bytes(), backing.placement(), backing.host(), backing.describe());
    assert_eq!(first.0, 10_000);
    let again = (backing.bytes(), backing.placement(), backing.host(), backing.describe());
    assert_eq!(first, again);
    assert!(first.1 != Placement::Host || first.2.is_some(), "host memory has an address");
    assert!(make(&[]).host().is_some(), "even of no bytes");
}

/// Every access outside is an error.
pub fn bytes_outside_are_refused(make: Make<'_>) {
    let backing = make(&sample());
    for at in [10_000, 9_999, 9_937, usize::MAX, usize::MAX - 63, usize::MAX / 2] {
        let copied = backing.copy_out(at, &mut [0; 64]);
        assert!(matches!(copied, Err(MemoryError::OutOfRange { .. })), "out at {at}: {copied:?}");
    }
}

/// What was lent comes out, at every alignment.
pub fn what_was_lent_is_read(make: Make<'_>) {
    let (sample, backing) = (sample(), make(&sample()));
    let made = backing.make_visible();
    assert!(made.is_ok(), "{made:?}");
    for (at, len) in [(0, 1), (1, 3), (63, 130), (4095, 2), (4096, 4096), (0, 10_000)] {
        let mut bytes = vec![0xA5; len];
        let copied = backing.copy_out(at, &mut bytes);
        assert!(copied.is_ok(), "{copied:?}");
        assert_eq!(bytes, sample[at..at + len], "{len} bytes at {at}");
    }
}

/// Nothing is copied in, not even no bytes, and no slots lie there.
pub fn nothing_can_be_written(make: Make<'_>) {
    let backing = make(&sample());
    for (at, from) in [(0, &[9_u8; 64][..]), (0, &[]), (10_000, &[]), (9_999, &[9; 64])] {
        let copied = backing.copy_in(at, from);
        assert!(matches!(copied, Err(MemoryError::ReadOnly)), "in at {at}: {copied:?}");
    }
    let region = Region::whole(Arc::clone(&backing));
    let copied = region.view().copy_from(&Region::whole(make(&[1; 8])).view(), 8);
    assert!(matches!(copied, Err(MemoryError::ReadOnly)), "{copied:?}");
    let layout = SlotLayout { slots: 1, request_bytes: 100, reply_bytes: 100 };
    let table = SlotTable::over(layout, PeerAccess::None, &region);
    assert!(matches!(table, Err(MemoryError::ReadOnly)), "{table:?}");
    let mut bytes = vec![0; 10_000];
    assert!(backing.copy_out(0, &mut bytes).is_ok());
    assert_eq!(bytes, sample(), "a refused copy changed bytes");
}
