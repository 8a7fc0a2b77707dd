//! The ring under loom: every interleaving and every reordering that the memory model allows.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p ferry-memory --release --lib ring`.

use std::sync::atomic::Ordering;

use loom::sync::atomic::{AtomicU32, AtomicU64, fence};
use loom::sync::{Arc, Notify};

use super::*;

/// Two entries, so that few pushes go round the end.
#[derive(Debug)]
struct Modelled {
    tail: AtomicU64,
    head: AtomicU64,
    sleeping: AtomicU32,
    entries: [AtomicU64; 2],
}

impl RingMemory for Arc<Modelled> {
    type Index = AtomicU64;
    type Flag = AtomicU32;

    fn entries(&self) -> u64 {
        2
    }

    fn tail(&self) -> &AtomicU64 {
        &self.tail
    }

    fn head(&self) -> &AtomicU64 {
        &self.head
    }

    fn sleeping(&self) -> &AtomicU32 {
        &self.sleeping
    }

    fn entry(&self, at: u64) -> &AtomicU64 {
        &self.entries[usize::from(at % 2 == 1)]
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

impl Cell<u64> for AtomicU64 {
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }

    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.swap(value, order)
    }
}

impl Cell<u32> for AtomicU32 {
    fn load(&self, order: Ordering) -> u32 {
        self.load(order)
    }

    fn store(&self, value: u32, order: Ordering) {
        self.store(value, order);
    }

    fn swap(&self, value: u32, order: Ordering) -> u32 {
        self.swap(value, order)
    }
}

fn ends() -> (Producer<Arc<Modelled>>, Consumer<Arc<Modelled>>) {
    let memory = Arc::new(Modelled {
        tail: AtomicU64::new(0),
        head: AtomicU64::new(0),
        sleeping: AtomicU32::new(AWAKE),
        entries: [AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX)],
    });
    (Producer::new(Arc::clone(&memory)), Consumer::new(memory))
}

/// Takes one entry, sleeping on the bell as a client or a lane does.
fn take(consumer: &mut Consumer<Arc<Modelled>>, bell: &Notify) -> u64 {
    loop {
        if let Some(value) = consumer.pop().expect("an honest producer") {
            return value;
        }
        if consumer.arm().expect("an honest producer") {
            // loom reports a deadlock if nobody rings: that would be a lost wake-up.
            bell.wait();
            consumer.disarm();
        }
    }
}

#[test]
fn ring_loses_no_entry_and_no_wake_up() {
    loom::model(|| {
        let (mut producer, mut consumer) = ends();
        let bell = Arc::new(Notify::new());
        let rings = Arc::clone(&bell);
        let thread = loom::thread::spawn(move || {
            for value in 0..2 {
                producer.push(value).expect("there is room");
                if producer.must_wake() {
                    rings.notify();
                }
            }
        });
        for value in 0..2 {
            assert_eq!(take(&mut consumer, &bell), value);
        }
        thread.join().expect("the producer ends");
    });
}

#[test]
fn ring_goes_round_its_end_without_overwriting() {
    loom::model(|| {
        let (mut producer, mut consumer) = ends();
        producer.push(0).expect("there is room");
        producer.push(1).expect("there is room");
        let thread = loom::thread::spawn(move || {
            while producer.push(2) == Err(RingError::Full) {
                loom::thread::yield_now();
            }
        });
        for value in 0..3 {
            let taken = loop {
                match consumer.pop().expect("an honest producer") {
                    Some(taken) => break taken,
                    None => loom::thread::yield_now(),
                }
            };
            assert_eq!(taken, value);
        }
        thread.join().expect("the producer ends");
    });
}
