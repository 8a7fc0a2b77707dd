//! What a lane counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter with one writer: no locked instruction on the lane's path.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Adds one. Only the lane's thread may call it.
    pub(super) fn bump(&self) {
        self.set(self.get().wrapping_add(1));
    }

    /// What was counted before is seen by whoever sees this.
    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Release);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters of a lane, all since its start but `in_flight` and `leaving`. They are
        /// read in this order.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct LaneStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// The same, as the lane writes them.
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: Counter,)*
        }

        impl Counters {
            pub(super) fn snapshot(&self) -> LaneStats {
                LaneStats { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Requests that were accepted by the link, pings included.
    arrivals,
    /// Replies that the link took.
    replies,
    /// Requests that the lane answered itself: pings.
    pings,
    /// Requests that the lane refused because it drains or has too many in flight.
    turned_away,
    /// Breaches and forgeries that the link refused.
    refusals,
    /// Clients that proved a session.
    joins,
    /// Clients that are gone.
    gone,
    /// Replies for a session that was evicted, resumed or left meanwhile.
    stale,
    /// Replies that the link did not take although the session was there.
    unsent,
    /// Requests with the handler now. Each is counted as `leaving` before it ceases to be here.
    in_flight,
    /// Replies that the link took and has not handed on, to the kernel or to a library: their
    /// clients read slowly.
    leaving,
    /// How often the link was polled.
    polls,
    /// How often the lane slept.
    parks,
}
