//! What is in flight, by slot.

use std::time::Instant;

use ferry_core::session::SLOTS_MAX;
use ferry_core::{Request, SlotIndex, Stage, StageTimes};

/// One request that the link has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub(super) request: u64,
    pub(super) what: Request,
    pub(super) bytes_in: u64,
    pub(super) submitted: Instant,
    pub(super) fill_ns: Option<u64>,
    pub(super) send_ns: Option<u64>,
    pub(super) deadline: Option<Instant>,
    /// The caller was told that the deadline passed.
    pub(super) given_up: bool,
}

impl Flight {
    /// Length of its payload.
    pub(super) fn request_bytes(&self) -> usize {
        // It fitted a slot.
        usize::try_from(self.bytes_in).unwrap_or(usize::MAX)
    }

    /// The stages that this end timed, so far.
    pub(super) fn times(&self) -> StageTimes {
        let mut times = StageTimes::NONE;
        times.put(Stage::Fill, self.fill_ns);
        times.put(Stage::Send, self.send_ns);
        times
    }
}

/// At most one flight per slot. Made once; nothing is allocated later.
#[derive(Debug)]
pub(super) struct Flights {
    by_slot: Vec<Option<Flight>>,
    /// Bit i is set while slot i is in flight, so that only those are looked at.
    busy: u64,
}

impl Flights {
    pub(super) fn new() -> Flights {
        Flights { by_slot: vec![None; SLOTS_MAX as usize], busy: 0 }
    }

    pub(super) fn count(&self) -> u32 {
        self.busy.count_ones()
    }

    pub(super) fn put(&mut self, slot: SlotIndex, flight: Flight) {
        self.by_slot[slot.at()] = Some(flight);
        self.busy |= 1 << slot.0;
    }

    pub(super) fn get(&self, slot: SlotIndex) -> Option<&Flight> {
        self.by_slot.get(slot.at())?.as_ref()
    }

    pub(super) fn take(&mut self, slot: SlotIndex) -> Option<Flight> {
        let flight = self.by_slot.get_mut(slot.at())?.take()?;
        self.busy &= !(1 << slot.0);
        Some(flight)
    }

    pub(super) fn take_any(&mut self) -> Option<(SlotIndex, Flight)> {
        let slot = SlotIndex(self.busy.trailing_zeros());
        Some((slot, self.take(slot)?))
    }

    /// The flight of a request.
    pub(super) fn find(&mut self, request: u64) -> Option<&mut Flight> {
        let mut left = self.busy;
        while left != 0 {
            let at = left.trailing_zeros() as usize;
            if self.by_slot[at].as_ref().is_some_and(|flight| flight.request == request) {
                return self.by_slot[at].as_mut();
            }
            left &= left - 1;
        }
        None
    }

    pub(super) fn each(&mut self, mut visit: impl FnMut(&mut Flight)) {
        self.by_slot.iter_mut().flatten().for_each(&mut visit);
    }
}
