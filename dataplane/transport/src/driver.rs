//! The client's end of a session over any link: numbers requests, checks replies, times both.
//!
//! Synchronous, without a thread and without a lock: whoever owns the driver calls it.

mod events;
mod finish;
mod flight;
mod types;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::session::SLOTS_MAX;
use ferry_core::{Body, Frame, Request, RequestRecord};
use ferry_memory::{Slot, SlotTable};

use crate::link::{EVENTS_PER_POLL_MAX, Events, Link, LinkError, SERVER, Transfer, Waker};
use crate::wait::{LONG_SLEEP, Waiter, where_it_pays};
use flight::{Flight, Flights};

pub use types::{
    Completion, DriverOptions, DriverState, Ending, RecordSink, SubmitError, SubmitRefusal,
};

/// Most completions that wait to be taken. Each slot can leave one for a deadline and one for its
/// reply; who takes none for so long is told so by `submit`.
pub const COMPLETIONS_MAX: usize = 2 * SLOTS_MAX as usize;

/// Longest sleep in one go while waiting. Only a guard: a reply ends the sleep.
const PARK_MAX: Duration = Duration::from_secs(1);

/// How often the clock is compared with the deadline while polling.
const POLLS_PER_DEADLINE: u32 = 64;

/// The client's end of one lease of one session.
#[derive(Debug)]
pub struct Driver {
    link: Option<Box<dyn Link>>,
    options: DriverOptions,
    sink: Arc<dyn RecordSink>,
    state: DriverState,
    /// The lease's slots, known from the first submit on.
    table: Option<Arc<SlotTable>>,
    flights: Flights,
    completions: VecDeque<Completion>,
    /// The earliest deadline in flight, so that a poll without one reads no clock.
    next_deadline: Option<Instant>,
    next_request: u64,
    /// The last record: its `reply` stage comes with the next reply.
    held: Option<RequestRecord>,
    events: Events,
    waiter: Waiter,
    /// When the last reply came, or the driver began.
    replied: Instant,
}

impl Driver {
    /// Drives `link`, whose client end has been connected for the session of `options`.
    pub fn new(link: Box<dyn Link>, options: DriverOptions, sink: Arc<dyn RecordSink>) -> Driver {
        Driver {
            sink,
            state: DriverState::Live,
            table: None,
            flights: Flights::new(),
            completions: VecDeque::with_capacity(COMPLETIONS_MAX),
            next_deadline: None,
            next_request: options.first_request,
            held: None,
            events: Vec::with_capacity(EVENTS_PER_POLL_MAX),
            waiter: Waiter::new(where_it_pays(options.wait, link.capabilities().threads)),
            link: Some(link),
            replied: Instant::now(),
            options,
        }
    }

    /// Whether the link carries, and if not, why.
    pub fn state(&self) -> &DriverState {
        &self.state
    }

    /// How many requests the link has; those whose deadline passed count until the link is done.
    pub fn in_flight(&self) -> u32 {
        self.flights.count()
    }

    /// The number that the next request gets. A resumed session goes on from here, so that its
    /// numbers stay unique.
    pub fn next_request(&self) -> u64 {
        self.next_request
    }

    /// Sends the first `payload_bytes` bytes of the slot's request half. `fill_ns` is how long the
    /// caller took to fill it. Returns the request's number.
    ///
    /// # Errors
    /// [`SubmitError`] gives the slot back.
    pub fn submit(
        &mut self,
        slot: Slot,
        payload_bytes: usize,
        what: Request,
        fill_ns: Option<u64>,
    ) -> Result<u64, SubmitError> {
        if let Err(why) = self.may_submit(&slot, payload_bytes) {
            return Err(SubmitError { slot, why });
        }
        let Some(link) = self.link.as_mut() else {
            return Err(SubmitError { slot, why: SubmitRefusal::Lost(LinkError::Closed) });
        };
        let index = slot.index();
        let request = self.next_request;
        let frame = Frame {
            session: self.options.session,
            generation: self.options.generation,
            slot: index,
            request,
            payload_bytes: payload_bytes as u64,
            body: Body::Request(what),
        };
        let submitted = Instant::now();
        if self.flights.count() == 0 && submitted.duration_since(self.replied) >= LONG_SLEEP {
            // The server's end sleeps by now, or is about to.
            self.waiter.expect_long();
        }
        if let Err(rejected) = link.submit(Transfer::new(SERVER, frame, slot)) {
            let slot = rejected.transfer.slot;
            return Err(SubmitError { slot, why: SubmitRefusal::Link(rejected.why) });
        }
        self.next_request += 1;
        self.flights.put(
            index,
            Flight {
                request,
                what,
                bytes_in: payload_bytes as u64,
                submitted,
                fill_ns,
                send_ns: None,
                deadline: None,
                given_up: false,
            },
        );
        Ok(request)
    }

    fn may_submit(&mut self, slot: &Slot, payload_bytes: usize) -> Result<(), SubmitRefusal> {
        if let DriverState::Lost(why) = &self.state {
            return Err(SubmitRefusal::Lost(why.clone()));
        }
        let bytes_max = slot.request().bytes();
        if payload_bytes > bytes_max {
            return Err(SubmitRefusal::TooLong { bytes: payload_bytes, bytes_max });
        }
        let table = self.table.get_or_insert_with(|| Arc::clone(slot.table()));
        if !Arc::ptr_eq(table, slot.table()) || self.flights.get(slot.index()).is_some() {
            return Err(SubmitRefusal::ForeignSlot(slot.index()));
        }
        if self.completions.len() >= COMPLETIONS_MAX - SLOTS_MAX as usize {
            return Err(SubmitRefusal::NotTaken(self.completions.len()));
        }
        Ok(())
    }

    /// Gives a request in flight a deadline: once it has passed, a poll completes the request
    /// with [`Ending::DeadlinePassed`]. Its slot stays in flight until the link is done with it.
    /// Returns whether the request was in flight.
    pub fn set_deadline(&mut self, request: u64, deadline: Instant) -> bool {
        let Some(flight) = self.flights.find(request) else { return false };
        flight.deadline = Some(deadline);
        self.next_deadline = Some(self.next_deadline.map_or(deadline, |next| next.min(deadline)));
        true
    }

    /// Moves bytes and notes what came. Never waits.
    pub fn poll(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        if let Some(link) = self.link.as_mut() {
            link.poll(&mut events);
        }
        for event in events.drain(..) {
            self.on_event(event);
        }
        self.events = events;
        self.expire();
    }

    /// Polls and sleeps, as the session's policy says, until a completion can be taken. `false` if
    /// `deadline` passed first, if nothing is in flight that could complete, or if a reply that
    /// came after its request's deadline freed a slot: who waits for one looks again.
    pub fn wait(&mut self, deadline: Option<Instant>) -> bool {
        self.waiter.busy();
        let mut polls = 0_u32;
        let in_flight = self.flights.count();
        loop {
            self.poll();
            if !self.completions.is_empty() {
                return true;
            }
            let now_in_flight = self.flights.count();
            if now_in_flight == 0 || now_in_flight < in_flight {
                return false;
            }
            let keeps_polling = self.waiter.keeps_polling();
            polls = polls.wrapping_add(1);
            if keeps_polling && !polls.is_multiple_of(POLLS_PER_DEADLINE) {
                std::hint::spin_loop();
                continue;
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| now >= deadline) {
                return false;
            }
            if !keeps_polling && let Some(link) = self.link.as_mut() {
                let until = [deadline, self.next_deadline].into_iter().flatten().min();
                let left = until.map_or(PARK_MAX, |at| at.saturating_duration_since(now));
                link.park(left.min(PARK_MAX));
                self.waiter.slept(now.elapsed());
            }
        }
    }

    /// Nothing was found by the last poll: polls on, or sleeps, as the session's policy says. For
    /// an owner that has more to watch than this driver; [`waker`](Driver::waker) ends the sleep.
    pub fn idle(&mut self, at_most: Duration) {
        if let Some(link) = self.link.as_mut() {
            self.waiter.idle(&mut **link, at_most);
        }
    }

    /// Something was found: polling starts over.
    pub fn busy(&mut self) {
        self.waiter.busy();
    }

    /// Ends a sleep of [`idle`](Driver::idle) or [`wait`](Driver::wait) from any thread; `None`
    /// once the link is lost.
    pub fn waker(&self) -> Option<Waker> {
        self.link.as_ref().map(|link| link.waker())
    }

    /// The oldest completion, if any.
    pub fn take(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    /// Ends the link from this side. What is in flight completes as lost; nothing changes where the
    /// link was over already.
    pub fn end(&mut self, why: LinkError) {
        if self.link.is_some() {
            self.give_up(why, Vec::new());
        }
    }

    /// Hands the last record to the sink without its `reply` stage. For the end of a session or a
    /// long pause; dropping the driver does it too.
    pub fn flush(&mut self) {
        if let Some(held) = self.held.take() {
            self.sink.record(held);
        }
    }
}
