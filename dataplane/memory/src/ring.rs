//! A bounded ring with one producer and one consumer, in memory that the other end may garble.
//!
//! Each end keeps its own index to itself and only publishes it; of the peer's it believes no more
//! than an honest peer could write. So the worst that a hostile peer can do is to be found out:
//! no access outside the entries, no endless loop.
//!
//! **The sleeping flag.** The consumer sets it before it sleeps, and then looks at the ring once
//! more ([`Consumer::arm`]). The producer publishes an entry, and then looks at the flag
//! ([`Producer::must_wake`]). Each side stores first and loads after, with a sequentially
//! consistent fence between. Fences have one total order: whichever of the two comes second, its
//! side sees what the other stored. Either the consumer sees the entry and does not sleep, or the
//! producer sees the flag and rings; both may happen, neither cannot. While the consumer polls,
//! the flag is down and no system call is made.
//!
//! The algorithm is generic over its memory so that loom runs the very same code (`ring/model.rs`).

mod shared;

pub use shared::{RING_BYTES, RING_ENTRIES, SharedRing, ring_in};

use std::sync::atomic::Ordering;

/// An atomic integer, as the ring uses one.
pub trait Cell<T> {
    /// Loads.
    fn load(&self, order: Ordering) -> T;
    /// Stores.
    fn store(&self, value: T, order: Ordering);
    /// Stores, and returns what was there.
    fn swap(&self, value: T, order: Ordering) -> T;
}

/// The cells of one ring.
pub trait RingMemory {
    /// An index or an entry.
    type Index: Cell<u64>;
    /// The flag.
    type Flag: Cell<u32>;

    /// How many entries there are: a power of two.
    fn entries(&self) -> u64;
    /// How many entries were ever published. Written by the producer.
    fn tail(&self) -> &Self::Index;
    /// How many entries were ever taken. Written by the consumer.
    fn head(&self) -> &Self::Index;
    /// [`ASLEEP`] while the consumer sleeps or is about to.
    fn sleeping(&self) -> &Self::Flag;
    /// The entry number `at`, counted for ever: it wraps around the ring.
    fn entry(&self, at: u64) -> &Self::Index;
    /// A sequentially consistent fence.
    fn fence(&self);
}

/// The flag of a consumer that polls.
pub const AWAKE: u32 = 0;
/// The flag of a consumer that sleeps, and the value that a futex waits on.
pub const ASLEEP: u32 = 1;

/// What stands against an operation on a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The consumer has not taken what is there.
    #[error("the ring is full")]
    Full,
    /// The peer's index is one that no honest peer writes.
    #[error("the peer's ring index is {index}; possible are {least} to {most}")]
    Breach {
        /// What stands there.
        index: u64,
        /// The least that is possible.
        least: u64,
        /// The most that is possible.
        most: u64,
    },
}

/// The end that publishes entries.
#[derive(Debug)]
pub struct Producer<M> {
    memory: M,
    /// How many this end published: the truth, of which the cell is a copy for the peer.
    tail: u64,
    /// The last index of the consumer that was read and believed.
    head: u64,
}

impl<M: RingMemory> Producer<M> {
    /// The producer of a ring that was never used.
    pub fn new(memory: M) -> Producer<M> {
        Producer { memory, tail: 0, head: 0 }
    }

    /// Whether there is room for an entry. If so, the next push cannot fail.
    ///
    /// # Errors
    /// [`RingError`] if there is none.
    pub fn reserve(&mut self) -> Result<(), RingError> {
        if self.tail - self.head == self.memory.entries() {
            let index = self.memory.head().load(Ordering::Acquire);
            let (least, most) = (self.head, self.tail);
            if index < least || index > most {
                return Err(RingError::Breach { index, least, most });
            }
            self.head = index;
            if index == least {
                return Err(RingError::Full);
            }
        }
        Ok(())
    }

    /// Publishes an entry, and with it everything that this thread wrote before.
    ///
    /// # Errors
    /// [`RingError`]; nothing was published then.
    pub fn push(&mut self, value: u64) -> Result<(), RingError> {
        self.reserve()?;
        self.memory.entry(self.tail).store(value, Ordering::Relaxed);
        self.tail += 1;
        self.memory.tail().store(self.tail, Ordering::Release);
        Ok(())
    }

    /// Whether the consumer sleeps and has to be woken, to be asked after each push. Says so once
    /// per sleep: the flag is taken down.
    pub fn must_wake(&mut self) -> bool {
        // The store of `tail` in `push` comes before the load of the flag; see the module's text.
        self.memory.fence();
        let flag = self.memory.sleeping();
        flag.load(Ordering::Relaxed) == ASLEEP && flag.swap(AWAKE, Ordering::Relaxed) == ASLEEP
    }

    /// The ring's memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }
}

/// The end that takes entries.
#[derive(Debug)]
pub struct Consumer<M> {
    memory: M,
    /// How many this end took: the truth, of which the cell is a copy for the peer.
    head: u64,
    /// The last index of the producer that was read and believed.
    tail: u64,
}

impl<M: RingMemory> Consumer<M> {
    /// The consumer of a ring that was never used.
    pub fn new(memory: M) -> Consumer<M> {
        Consumer { memory, head: 0, tail: 0 }
    }

    /// Takes the oldest entry; what its producer wrote before is visible then.
    ///
    /// # Errors
    /// [`RingError::Breach`].
    pub fn pop(&mut self) -> Result<Option<u64>, RingError> {
        if self.is_empty()? {
            return Ok(None);
        }
        let value = self.memory.entry(self.head).load(Ordering::Relaxed);
        self.head += 1;
        // Release: the entry was read before the producer may write it again.
        self.memory.head().store(self.head, Ordering::Release);
        Ok(Some(value))
    }

    /// Whether there is nothing to take.
    ///
    /// # Errors
    /// [`RingError::Breach`].
    pub fn is_empty(&mut self) -> Result<bool, RingError> {
        if self.head == self.tail {
            let index = self.memory.tail().load(Ordering::Acquire);
            // Far from wrapping: an entry per nanosecond fills 64 bits in 584 years. A peer that
            // writes an index near the end is found out here.
            let (least, most) = (self.tail, self.head.saturating_add(self.memory.entries()));
            if index < least || index > most {
                return Err(RingError::Breach { index, least, most });
            }
            self.tail = index;
        }
        Ok(self.head == self.tail)
    }

    /// Raises the flag and looks once more. True: nothing came and the flag is up, so that a push
    /// from now on rings. False: there is something to take, and the flag is down again.
    ///
    /// # Errors
    /// [`RingError::Breach`]; the flag is down.
    pub fn arm(&mut self) -> Result<bool, RingError> {
        // A swap where a store would do: it says that this comes after a producer's `swap` that
        // saw the flag down, which loom does not conclude by itself.
        self.memory.sleeping().swap(ASLEEP, Ordering::Relaxed);
        // The store of the flag comes before the load of `tail`; see the module's text.
        self.memory.fence();
        let empty = self.is_empty();
        if empty != Ok(true) {
            self.disarm();
        }
        empty
    }

    /// Takes the flag down: this end polls again.
    pub fn disarm(&mut self) {
        self.memory.sleeping().store(AWAKE, Ordering::Relaxed);
    }

    /// The ring's memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }
}

#[cfg(test)]
#[cfg(loom)]
mod model;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
