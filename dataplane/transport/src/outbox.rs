//! Where replies wait that become ready on other threads than the lane's.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use crossbeam_queue::ArrayQueue;
use ferry_memory::{Departure, ReplyTo};

use crate::link::Waker;

/// The bounded queue of departures of one lane.
///
/// It cannot overflow by requests that the lane handed out: the lane hands out no more than it has
/// room for. A departure that finds no room or no lane is dropped, which frees its slot.
#[derive(Debug)]
pub struct Outbox {
    queue: ArrayQueue<Departure>,
    /// Set while the lane sleeps or is about to: only then must it be woken.
    may_sleep: AtomicBool,
    /// Set once the lane has ended.
    closed: AtomicBool,
    /// Known once the lane's link is made.
    waker: OnceLock<Waker>,
    dropped: AtomicU64,
}

impl Outbox {
    /// Room for `capacity` departures, at least 1.
    pub(crate) fn new(capacity: usize) -> Outbox {
        Outbox {
            queue: ArrayQueue::new(capacity.max(1)),
            may_sleep: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            waker: OnceLock::new(),
            dropped: AtomicU64::new(0),
        }
    }

    /// How many departures fit.
    pub fn capacity(&self) -> usize {
        self.queue.capacity()
    }

    /// How many departures found no room or no lane.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(crate) fn set_waker(&self, waker: Waker) {
        // A lane has one link and calls this once.
        drop(self.waker.set(waker));
    }

    pub(crate) fn take(&self) -> Option<Departure> {
        // The look is cheaper than an empty pop.
        if self.queue.is_empty() { None } else { self.queue.pop() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Announces that the lane is going to sleep. What is put in place before [`notify`] finds it
    /// announced or is found by the look that the lane takes after this.
    ///
    /// [`notify`]: Outbox::notify
    pub(crate) fn before_sleep(&self) {
        self.may_sleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    pub(crate) fn after_sleep(&self) {
        self.may_sleep.store(false, Ordering::Relaxed);
    }

    /// Wakes the lane if it may sleep. To be called after the work is in place.
    pub(crate) fn notify(&self) {
        fence(Ordering::SeqCst);
        if self.may_sleep.load(Ordering::Relaxed)
            && let Some(waker) = self.waker.get()
        {
            waker.wake();
        }
    }

    /// Takes nothing any more and drops what it holds.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        while let Some(departure) = self.queue.pop() {
            drop(departure);
        }
    }
}

impl ReplyTo for Outbox {
    fn depart(&self, departure: Departure) {
        let lost = self.closed.load(Ordering::SeqCst) || self.queue.push(departure).is_err();
        if lost {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.notify();
        if self.closed.load(Ordering::SeqCst) {
            // The lane closed between the look and the push: nobody else empties the queue.
            self.close();
        }
    }
}
