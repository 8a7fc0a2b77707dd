use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::backing::MemoryError;
use crate::heap::HeapBacking;
use crate::region::Region;

fn ends() -> (Producer<SharedRing>, Consumer<SharedRing>) {
    let memory = Arc::new(Region::whole(HeapBacking::new(4096).unwrap()));
    let ring = || SharedRing::inside(&memory).unwrap();
    (Producer::new(ring()), Consumer::new(ring()))
}

#[test]
fn entries_come_out_in_order_and_round_the_end() {
    let (mut producer, mut consumer) = ends();
    for round in 0..5_u64 {
        for i in 0..48 {
            producer.push(round * 100 + i).unwrap();
        }
        for i in 0..48 {
            assert_eq!(consumer.pop(), Ok(Some(round * 100 + i)));
        }
        assert_eq!(consumer.pop(), Ok(None));
    }
}

#[test]
fn a_full_ring_takes_nothing_until_one_is_taken() {
    let (mut producer, mut consumer) = ends();
    for i in 0..RING_ENTRIES as u64 {
        producer.push(i).unwrap();
    }
    assert_eq!(producer.push(99), Err(RingError::Full));
    assert_eq!(consumer.pop(), Ok(Some(0)));
    assert_eq!(producer.push(99), Ok(()));
    assert_eq!(producer.push(100), Err(RingError::Full));
    for i in 1..RING_ENTRIES as u64 {
        assert_eq!(consumer.pop(), Ok(Some(i)));
    }
    assert_eq!(consumer.pop(), Ok(Some(99)));
}

#[test]
fn garbage_in_the_producers_index_is_found_out() {
    let most = RING_ENTRIES as u64;
    for garbage in [most + 11, u64::MAX, u64::MAX / 2, 0, 9] {
        let (mut producer, mut consumer) = ends();
        for i in 0..10 {
            producer.push(i).unwrap();
            assert_eq!(consumer.pop(), Ok(Some(i)));
        }
        producer.memory().tail().store(garbage, Ordering::SeqCst);
        let breach = Err(RingError::Breach { index: garbage, least: 10, most: most + 10 });
        assert_eq!(consumer.pop(), breach.map(|_: bool| None));
        assert_eq!(consumer.arm(), breach);
        assert_eq!(consumer.memory().sleeping().load(Ordering::SeqCst), AWAKE);
    }
}

#[test]
fn a_lying_index_yields_at_most_one_ring_of_entries() {
    let (producer, mut consumer) = ends();
    producer.memory().tail().store(RING_ENTRIES as u64, Ordering::SeqCst);
    let taken = std::iter::from_fn(|| consumer.pop().unwrap()).count();
    assert_eq!(taken, RING_ENTRIES);
}

#[test]
fn garbage_in_the_consumers_index_is_found_out() {
    for garbage in [RING_ENTRIES as u64 + 1, u64::MAX] {
        let (mut producer, consumer) = ends();
        for i in 0..RING_ENTRIES as u64 {
            producer.push(i).unwrap();
        }
        consumer.memory().head().store(garbage, Ordering::SeqCst);
        let most = RING_ENTRIES as u64;
        let breach = RingError::Breach { index: garbage, least: 0, most };
        assert_eq!(producer.push(1), Err(breach));
    }
}

#[test]
fn garbage_in_the_flag_is_no_reason_to_ring() {
    let (mut producer, consumer) = ends();
    producer.push(1).unwrap();
    consumer.memory().sleeping().store(77, Ordering::SeqCst);
    assert!(!producer.must_wake());
}

#[test]
fn one_sleep_is_one_wake() {
    let (mut producer, mut consumer) = ends();
    producer.push(1).unwrap();
    assert!(!producer.must_wake(), "it polls");
    assert_eq!(consumer.arm(), Ok(false), "there is an entry");
    assert_eq!(consumer.pop(), Ok(Some(1)));
    assert_eq!(consumer.arm(), Ok(true));
    producer.push(2).unwrap();
    assert!(producer.must_wake());
    producer.push(3).unwrap();
    assert!(!producer.must_wake(), "woken already");
}

#[test]
fn rings_lie_inside_and_are_aligned() {
    let ring = |at| {
        let memory = Region::whole(HeapBacking::new(4096).unwrap());
        ring_in(memory.split_at(at).unwrap().1)
    };
    assert!(ring(4096 - RING_BYTES).is_ok());
    assert!(matches!(ring(4096 - RING_BYTES + 8), Err(MemoryError::OutOfRange { .. })));
    assert!(matches!(ring(4), Err(MemoryError::Layout { .. })));
}

#[test]
fn two_threads_pass_everything_on_with_sleeps() {
    const COUNT: u64 = 200_000;
    let (mut producer, mut consumer) = ends();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut next = 0;
            while next < COUNT {
                if producer.push(next).is_ok() {
                    next += 1;
                }
                if producer.must_wake() {
                    producer.memory().sleeper().wake();
                }
            }
        });
        for expected in 0..COUNT {
            loop {
                if let Some(value) = consumer.pop().unwrap() {
                    assert_eq!(value, expected);
                    break;
                }
                if consumer.arm().unwrap() {
                    // A lost wake-up would hang here for ever.
                    consumer.memory().sleeper().wait(ASLEEP, Duration::MAX);
                    consumer.disarm();
                }
            }
        }
    });
}
