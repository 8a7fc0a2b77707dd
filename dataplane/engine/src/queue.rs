//! The bounded queue in front of a model's instances.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ferry_core::{BoundSignature, MemoryChoice, WaitPolicy};
use ferry_memory::{Arrival, ReplyTo};

mod gathering;

pub(crate) use gathering::Taken;

/// Most urgent requests taken in a row while normal ones wait. Priorities are the clients' own
/// choice: one that calls everything urgent must not starve the others for ever.
pub(crate) const URGENT_RUN_MAX: u32 = 16;

/// How long `adaptive` looks for work before it sleeps: about the price of one sleep and wake-up,
/// so that waiting never costs more than twice what the better choice would have.
const ADAPTIVE_SPIN: Duration = Duration::from_micros(50);

/// How long `spin` looks before it sleeps: a model that nobody uses must not hold a core.
const SPIN_IDLE_MAX: Duration = Duration::from_millis(200);

/// How long `adaptive` looks at work that a device has in flight before it sleeps: longer than most
/// models take, as a sleep ends 50 µs late or more, and somebody waits for every one of them.
const IN_FLIGHT_SPIN: Duration = Duration::from_millis(5);

/// How often the clock is read while looking: a reading costs more than a look.
const LOOKS_PER_CLOCK: u32 = 32;

/// A request on its way to an instance.
#[derive(Debug)]
pub struct Work {
    /// The request and its slot.
    pub arrival: Arrival,
    /// What its session agreed on.
    pub binding: Arc<BoundSignature>,
    /// What its session wants host memory to be to a device.
    pub memory: MemoryChoice,
    /// Where the reply goes, if it is not ready at once.
    pub reply_to: Arc<dyn ReplyTo>,
    /// Until when it must have been taken: one that still waits then is refused.
    pub deadline: Option<Instant>,
}

/// A request that waits.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) work: Work,
    /// When a worker that slept was told of it.
    pub(crate) rung: Option<Instant>,
}

/// What a queue lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Gate {
    /// Everything up to its bound.
    Open = 0,
    /// Nothing: what is there is finished.
    Draining = 1,
    /// Nothing: no instance is left.
    Dead = 2,
}

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The level has its bound of requests.
    Full { urgent: bool },
    /// The gate is not open.
    Closed(Gate),
    /// Its deadline passed while it waited.
    Late,
    /// Its caller went away while it waited.
    Gone,
}

#[derive(Debug)]
pub(crate) struct Queue {
    bound: usize,
    spin: Duration,
    /// How many wait in both levels. Written under `state`'s lock, read without it by whoever looks
    /// for work; Release and Acquire only make such a look timely, the lock orders the work itself.
    len: AtomicUsize,
    /// The gate, mirrored for the same reason.
    gate: AtomicU8,
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Debug)]
struct State {
    urgent: VecDeque<Queued>,
    normal: VecDeque<Queued>,
    urgent_run: u32,
    sleepers: usize,
    gate: Gate,
    workers: usize,
    gathering: gathering::Gathering,
}

impl Queue {
    /// A queue of `bound` requests in each level, emptied by `workers` workers.
    pub(crate) fn new(bound: usize, wait: WaitPolicy, workers: usize) -> Queue {
        Queue {
            bound,
            spin: match wait {
                WaitPolicy::Spin => SPIN_IDLE_MAX,
                WaitPolicy::Adaptive => ADAPTIVE_SPIN,
                WaitPolicy::Block => Duration::ZERO,
            },
            len: AtomicUsize::new(0),
            gate: AtomicU8::new(Gate::Open as u8),
            state: Mutex::new(State {
                urgent: VecDeque::with_capacity(bound),
                normal: VecDeque::with_capacity(bound),
                urgent_run: 0,
                sleepers: 0,
                gate: Gate::Open,
                workers,
                gathering: gathering::Gathering::default(),
            }),
            bell: Condvar::new(),
        }
    }

    /// How long a worker looks at what its engine has in flight before it sleeps.
    pub(crate) fn in_flight_spin(&self) -> Duration {
        if self.spin.is_zero() { Duration::ZERO } else { self.spin.max(IN_FLIGHT_SPIN) }
    }

    /// Most requests in one level.
    pub(crate) fn bound(&self) -> usize {
        self.bound
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Whether requests are let in.
    pub(crate) fn is_open(&self) -> bool {
        self.gate.load(Ordering::Acquire) == Gate::Open as u8
    }

    /// What is let in.
    pub(crate) fn gate(&self) -> Gate {
        self.lock().gate
    }

    /// Adds a request, and wakes a worker if one sleeps; gives it back if it is refused.
    pub(crate) fn push(&self, work: Work) -> Option<(Work, Refused)> {
        let urgent = work.arrival.what.priority > 0;
        let mut state = self.lock();
        if state.gate != Gate::Open {
            return Some((work, Refused::Closed(state.gate)));
        }
        let asleep = state.sleepers > 0;
        let level = if urgent { &mut state.urgent } else { &mut state.normal };
        if level.len() >= self.bound {
            return Some((work, Refused::Full { urgent }));
        }
        level.push_back(Queued { work, rung: asleep.then(Instant::now) });
        self.note_len(&state);
        drop(state);
        if asleep {
            self.bell.notify_one();
        }
        None
    }

    /// Takes the next request, if one waits.
    pub(crate) fn pop(&self) -> Option<Queued> {
        if self.len() == 0 {
            return None;
        }
        let mut state = self.lock();
        let work = state.next();
        self.note_len(&state);
        work
    }

    /// Returns when there is work, the gate is not open, or `attention` is set: looks for a while,
    /// then sleeps; says whether it slept.
    pub(crate) fn wait(&self, attention: &AtomicBool) -> bool {
        let done = || self.len() > 0 || !self.is_open() || attention.load(Ordering::Acquire);
        if look(self.spin, done) {
            return false;
        }
        let mut state = self.lock();
        state.sleepers += 1;
        while !done() {
            state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.sleepers -= 1;
        true
    }

    /// Sleeps for at most `at_most`, and no longer than until there is work.
    pub(crate) fn nap(&self, at_most: Duration) {
        let mut state = self.lock();
        if state.gate == Gate::Open && self.len() == 0 {
            state.sleepers += 1;
            let woken = self.bell.wait_timeout(state, at_most);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
            state.sleepers -= 1;
        } else {
            // Nothing will ring for what this worker has in flight.
            drop(state);
            std::thread::sleep(at_most);
        }
    }

    /// Sets a worker's `attention` and ends its sleep.
    pub(crate) fn call(&self, attention: &AtomicBool) {
        // Under the lock, or a worker between its look and its sleep would miss it.
        let state = self.lock();
        attention.store(true, Ordering::Release);
        drop(state);
        self.bell.notify_all();
    }

    /// Lets nothing in any more.
    pub(crate) fn drain(&self) {
        let mut state = self.lock();
        if state.gate == Gate::Open {
            self.close(&mut state, Gate::Draining);
        }
    }

    /// A worker ends. The last one closes the queue and gets what nobody will serve.
    pub(crate) fn leave(&self) -> Vec<Work> {
        let mut state = self.lock();
        state.workers = state.workers.saturating_sub(1);
        if state.workers > 0 {
            return Vec::new();
        }
        if state.gate == Gate::Open {
            self.close(&mut state, Gate::Dead);
        }
        self.clear(&mut state)
    }

    /// Takes everything that waits.
    pub(crate) fn empty(&self) -> Vec<Work> {
        self.clear(&mut self.lock())
    }

    fn close(&self, state: &mut State, gate: Gate) {
        state.gate = gate;
        self.gate.store(gate as u8, Ordering::Release);
        self.bell.notify_all();
    }

    fn clear(&self, state: &mut State) -> Vec<Work> {
        let State { urgent, normal, .. } = &mut *state;
        let all = urgent.drain(..).chain(normal.drain(..)).map(|queued| queued.work).collect();
        self.note_len(state);
        all
    }

    fn note_len(&self, state: &State) {
        self.len.store(state.urgent.len() + state.normal.len(), Ordering::Release);
    }

    /// A panic while the lock is held cannot leave the queue half-changed: nothing in here calls
    /// out.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next(&mut self) -> Option<Queued> {
        if self.is_turn_of_urgent() { self.urgent.pop_front() } else { self.normal.pop_front() }
    }

    /// Whether the urgent level is served next; counts how often in a row.
    fn is_turn_of_urgent(&mut self) -> bool {
        let turn_of_normal = self.urgent_run >= URGENT_RUN_MAX && !self.normal.is_empty();
        let urgent = !self.urgent.is_empty() && !turn_of_normal;
        let one_more = urgent && !self.normal.is_empty();
        self.urgent_run = if one_more { self.urgent_run + 1 } else { 0 };
        urgent
    }
}

/// Looks until `done` or for `at_most`; says whether it is done.
fn look(at_most: Duration, done: impl Fn() -> bool) -> bool {
    if done() {
        return true;
    }
    if at_most.is_zero() {
        return false;
    }
    let start = Instant::now();
    loop {
        for _ in 0..LOOKS_PER_CLOCK {
            std::hint::spin_loop();
            if done() {
                return true;
            }
        }
        if start.elapsed() >= at_most {
            return false;
        }
    }
}
