//! A link that misbehaves on purpose, for tests of what stands above links.
//!
//! It wraps a client's link and, decided by a seed alone, loses, delays, reorders and repeats
//! frames of either direction, and breaks the connection at a chosen frame.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ferry_core::{Frame, Tail};
use ferry_memory::{Slot, SlotTable};

use crate::link::{
    Capabilities, EVENTS_PER_POLL_MAX, Event, Events, Link, LinkError, Rejected, SERVER, Transfer,
    Waker,
};

/// Longest sleep while something is held back: delays count polls.
const PARK_DELAYED: Duration = Duration::from_micros(200);

/// What goes wrong, and how often; chances are per 1,000 frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Decides which frames are hit.
    pub seed: u64,
    /// Frames that never arrive. Their slot stays in flight.
    pub lose: u64,
    /// Frames that arrive some polls later; others overtake them.
    pub delay: u64,
    /// Longest delay, in polls of this end.
    pub delay_polls_max: u64,
    /// Frames that arrive twice.
    pub repeat: u64,
    /// The connection breaks at this frame, counted over both directions.
    pub break_at: Option<u64>,
}

/// A small generator of numbers (splitmix64): the same seed, the same faults.
#[derive(Clone, Debug)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound.max(1)
    }
}

/// What happens to one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Pass,
    Lose,
    Delay(u64),
    Repeat(u64),
}

/// A transfer or an event that is held back until some poll.
#[derive(Debug)]
enum Held {
    Out(Transfer),
    In(Event),
    /// A frame that is sent a second time, in a slot of its own.
    OutAgain(Frame),
    /// A frame that arrives a second time.
    InAgain(Frame),
}

/// The wrapper. See the module.
#[derive(Debug)]
pub struct Faulty {
    inner: Option<Box<dyn Link>>,
    capabilities: Capabilities,
    waker: Waker,
    table: Arc<SlotTable>,
    faults: Faults,
    /// One per direction, so that faults do not depend on how the two interleave.
    dice: [Dice; 2],
    frames: u64,
    polls: u64,
    held: Vec<(u64, Held)>,
    lost: Vec<Slot>,
    ready: VecDeque<Event>,
    events: Events,
    told: bool,
}

impl Faulty {
    /// Wraps a client's link whose slots are in `table`.
    pub fn new(inner: Box<dyn Link>, table: Arc<SlotTable>, faults: Faults) -> Faulty {
        Faulty {
            capabilities: inner.capabilities(),
            waker: inner.waker(),
            inner: Some(inner),
            table,
            faults,
            dice: [Dice(faults.seed), Dice(!faults.seed)],
            frames: 0,
            polls: 0,
            held: Vec::new(),
            lost: Vec::new(),
            ready: VecDeque::new(),
            events: Vec::new(),
            told: false,
        }
    }

    /// Decides about the next frame; `None` if the connection breaks at it.
    fn fate(&mut self, direction: usize) -> Option<Fate> {
        if self.faults.break_at == Some(self.frames) {
            self.inner = None;
            return None;
        }
        self.frames += 1;
        let Faults { lose, delay, repeat, delay_polls_max, .. } = self.faults;
        let dice = &mut self.dice[direction];
        let (chance, polls) = (dice.below(1000), 1 + dice.below(delay_polls_max));
        Some(if chance < lose {
            Fate::Lose
        } else if chance < lose + delay {
            Fate::Delay(polls)
        } else if chance < lose + delay + repeat {
            Fate::Repeat(polls)
        } else {
            Fate::Pass
        })
    }

    fn hold(&mut self, polls: u64, held: Held) {
        self.held.push((self.polls + polls, held));
    }

    /// Takes in what the inner link reports.
    fn hear(&mut self, event: Event) {
        let Event::Arrived { frame, .. } = &event else {
            return self.ready.push_back(event);
        };
        let frame = *frame;
        match self.fate(1) {
            Some(Fate::Pass) => self.ready.push_back(event),
            Some(Fate::Delay(polls)) => self.hold(polls, Held::In(event)),
            Some(Fate::Repeat(polls)) => {
                self.ready.push_back(event);
                self.hold(polls, Held::InAgain(frame));
            }
            Some(Fate::Lose) | None => self.lost.extend(slot_of(event)),
        }
    }

    /// Lets go of what was held back long enough.
    fn release(&mut self) {
        let polls = self.polls;
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.held).into_iter().partition(|&(at, _)| at <= polls);
        self.held = later;
        for (_, held) in due {
            match held {
                Held::In(event) => self.ready.push_back(event),
                Held::InAgain(frame) => self.arrive_again(frame),
                Held::Out(transfer) => self.pass(transfer),
                Held::OutAgain(frame) => {
                    if let Some(slot) = self.table.acquire() {
                        let frame = Frame { slot: slot.index(), ..frame };
                        self.pass(Transfer::new(SERVER, frame, slot));
                    }
                }
            }
        }
    }

    /// A slot has one token, so the copy comes in the frame's slot if that is free again, else in
    /// another.
    fn arrive_again(&mut self, frame: Frame) {
        let slot = self.table.claim(frame.slot).or_else(|| self.table.acquire());
        let Some(slot) = slot else { return };
        let (peer, seen, tail) = (SERVER, std::time::Instant::now(), Tail::NONE);
        self.ready.push_back(Event::Arrived { peer, frame, slot, tail, seen, visible: seen });
    }

    /// Sends on; what the inner link does not take is lost.
    fn pass(&mut self, transfer: Transfer) {
        let Some(inner) = self.inner.as_mut() else { return self.lost.push(transfer.slot) };
        if let Err(rejected) = inner.submit(transfer) {
            self.lost.push(rejected.transfer.slot);
        }
    }

    /// Reports the end once, with the slots that never came back.
    fn end(&mut self) {
        if self.told {
            return;
        }
        self.told = true;
        let held = std::mem::take(&mut self.held).into_iter().filter_map(|(_, held)| match held {
            Held::Out(transfer) => Some(transfer.slot),
            Held::In(event) => slot_of(event),
            Held::OutAgain(_) | Held::InAgain(_) => None,
        });
        let slots = self.lost.drain(..).chain(held).collect();
        let why = LinkError::Closed;
        self.ready.push_back(Event::Gone { peer: SERVER, session: None, why, slots });
    }
}

fn slot_of(event: Event) -> Option<Slot> {
    match event {
        Event::Arrived { slot, .. } => Some(slot),
        _ => None,
    }
}

impl Link for Faulty {
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn submit(&mut self, transfer: Transfer) -> Result<(), Rejected> {
        let fate = if self.inner.is_some() { self.fate(0) } else { None };
        let (Some(inner), Some(fate)) = (self.inner.as_mut(), fate) else {
            return Err(Rejected { transfer: Box::new(transfer), why: LinkError::Closed });
        };
        match fate {
            Fate::Pass => return inner.submit(transfer),
            Fate::Lose => self.lost.push(transfer.slot),
            Fate::Delay(polls) => self.hold(polls, Held::Out(transfer)),
            Fate::Repeat(polls) => {
                let frame = transfer.frame;
                inner.submit(transfer)?;
                self.hold(polls, Held::OutAgain(frame));
            }
        }
        Ok(())
    }

    fn poll(&mut self, events: &mut Events) {
        self.polls += 1;
        let mut heard = std::mem::take(&mut self.events);
        if let Some(inner) = self.inner.as_mut() {
            inner.poll(&mut heard);
        }
        for event in heard.drain(..) {
            self.hear(event);
        }
        self.events = heard;
        if self.inner.is_some() {
            self.release();
        } else {
            self.end();
        }
        let many = self.ready.len().min(EVENTS_PER_POLL_MAX);
        events.extend(self.ready.drain(..many));
    }

    fn park(&mut self, at_most: Duration) {
        let pending = !self.ready.is_empty() || !self.held.is_empty();
        match self.inner.as_mut() {
            Some(inner) if pending => inner.park(at_most.min(PARK_DELAYED)),
            Some(inner) => inner.park(at_most),
            None => std::thread::sleep(at_most.min(PARK_DELAYED)),
        }
    }

    fn waker(&self) -> Waker {
        Arc::clone(&self.waker)
    }
}
