use super::*;

fn layout(slots: u32) -> SlotLayout {
    SlotLayout { slots, request_bytes: 5000, reply_bytes: 10 }
}

#[test]
fn a_slot_has_one_holder_and_comes_back() {
    let table = SlotTable::private(layout(2)).unwrap();
    let first = table.acquire().unwrap();
    assert_eq!(first.index(), SlotIndex(0));
    assert!(table.claim(SlotIndex(0)).is_none(), "held");
    let second = table.claim(SlotIndex(1)).unwrap();
    assert!(table.acquire().is_none(), "all held");
    drop(first);
    assert_eq!(table.free_slots(), 1);
    assert_eq!(table.acquire().unwrap().index(), SlotIndex(0));
    drop(second);
    assert!(table.claim(SlotIndex(2)).is_none(), "no such slot");
}

#[test]
fn a_slot_comes_back_when_its_holder_and_every_hold_are_gone() {
    let table = SlotTable::private(layout(1)).unwrap();
    for holder_goes_first in [true, false] {
        let mut slot = table.acquire().unwrap();
        let holds = [slot.hold(), slot.hold()];
        let mut parts: [Box<dyn std::any::Any>; 2] = [Box::new(slot), Box::new(holds)];
        if !holder_goes_first {
            parts.reverse();
        }
        let [first, last] = parts;
        drop(first);
        assert!(table.acquire().is_none(), "somebody may still use its memory");
        drop(last);
        assert_eq!(table.free_slots(), 1);
    }
    let hold = table.acquire().unwrap().hold();
    table.retire();
    let weak = Arc::downgrade(&table);
    drop(table);
    assert!(weak.upgrade().is_some(), "its memory stays mapped");
    drop(hold);
    assert!(weak.upgrade().is_none());
}

#[test]
fn a_retired_table_gives_out_nothing() {
    let table = SlotTable::private(layout(2)).unwrap();
    let held = table.acquire().unwrap();
    table.retire();
    drop(held);
    assert!(table.is_retired());
    assert!(table.acquire().is_none() && table.claim(SlotIndex(1)).is_none());
}

#[test]
fn halves_do_not_overlap_and_are_as_long_as_agreed() {
    let table = SlotTable::private(layout(2)).unwrap();
    let (mut a, mut b) = (table.acquire().unwrap(), table.acquire().unwrap());
    a.request_bytes_mut().unwrap().fill(1);
    a.reply_bytes_mut().unwrap().fill(2);
    b.request_bytes_mut().unwrap().fill(3);
    b.reply_bytes_mut().unwrap().fill(4);
    assert_eq!(a.request_bytes().unwrap(), vec![1; 5000]);
    assert_eq!(a.reply_bytes().unwrap(), [2; 10]);
    assert_eq!(b.request_bytes().unwrap(), vec![3; 5000]);
    let mut out = [0; 4];
    assert!(a.request().copy_out(4997, &mut out).is_err(), "past the end of the half");
}

#[test]
fn what_a_peer_writes_is_never_a_slice() {
    let region = Region::whole(HeapBacking::new(1 << 16).unwrap());
    let table = SlotTable::over(layout(1), PeerAccess::Writes, region).unwrap();
    let mut slot = table.acquire().unwrap();
    assert!(slot.request_bytes().is_none() && slot.request_bytes_mut().is_none());
    assert!(slot.reply_bytes().is_none() && slot.reply_bytes_mut().is_none());
    slot.request_mut().copy_in(3, &[7, 8]).unwrap();
    let mut out = [0; 3];
    slot.request().copy_out(2, &mut out).unwrap();
    assert_eq!(out, [0, 7, 8]);
}

#[test]
fn wrong_layouts_are_refused() {
    assert!(SlotTable::private(layout(0)).is_err());
    assert!(SlotTable::private(layout(65)).is_err());
    let huge = SlotLayout { slots: 64, request_bytes: u64::MAX, reply_bytes: 1 };
    assert!(SlotTable::private(huge).is_err());
    let small = Region::whole(HeapBacking::new(4096).unwrap());
    assert!(SlotTable::over(layout(1), PeerAccess::None, small).is_err());
}

#[test]
fn placed_halves_must_be_what_the_layout_says() {
    let layout = SlotLayout { slots: 2, request_bytes: 100, reply_bytes: 10 };
    let pair = |reply: usize| {
        let (request, behind) =
            Region::whole(HeapBacking::new(4096).unwrap()).split_at(128).unwrap();
        (request.part(0, 100).unwrap(), behind.part(0, reply).unwrap())
    };
    let (first, second) = (pair(10), pair(10));
    let place = second.0.view().host();
    let table = SlotTable::placed(layout, PeerAccess::None, [first, second]).unwrap();
    let slot = table.claim(SlotIndex(1)).unwrap();
    assert_eq!(slot.request().host(), place);
    let address = |view: View<'_>| view.host().map(|base| base.addr().get());
    assert_eq!(address(slot.reply()), place.map(|base| base.addr().get() + 128));
    let short = SlotTable::placed(layout, PeerAccess::None, [pair(10), pair(9)]);
    assert!(matches!(short, Err(MemoryError::Layout { .. })));
    let few = SlotTable::placed(layout, PeerAccess::None, [pair(10)]);
    assert!(matches!(few, Err(MemoryError::Layout { .. })));
}

#[test]
fn a_lent_request_is_read_where_it_lies_and_never_written() {
    let table = SlotTable::private(layout(1)).unwrap();
    let mut slot = table.acquire().unwrap();
    slot.request_bytes_mut().unwrap().fill(1);
    let lent = Bytes::from(vec![7; 300]);
    slot.lend_request(lent.clone());
    let bytes = slot.request_bytes().unwrap();
    assert_eq!((bytes.as_ptr(), bytes.len()), (lent.as_ptr(), 300));
    assert_eq!(slot.request().bytes(), 300);
    assert!(slot.request_bytes_mut().is_none());
    let copied = slot.request_mut().copy_in(0, &[2]);
    assert!(matches!(copied, Err(MemoryError::ReadOnly)), "{copied:?}");
    let copied = slot.request_mut().copy_in_for_device(0, &[2]);
    assert!(matches!(copied, Err(MemoryError::ReadOnly)), "{copied:?}");
    slot.reply_bytes_mut().unwrap().fill(3);
    assert_eq!(lent, vec![7; 300]);
    drop(slot);
    // The next holder has the slot's own half again.
    assert_eq!(table.acquire().unwrap().request_bytes().unwrap(), vec![1; 5000]);
    assert!(lent.is_unique(), "what was lent is let go with the slot");
}
