//! The bounded queue in front of a model's instances.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ferry_core::{BoundSignature, MemoryChoice, SessionId, WaitPolicy};
use ferry_memory::{Arrival, PeerId, ReplyTo};

mod gathering;
mod level;
mod outlook;

pub(crate) use gathering::{Room, Taken};
pub(crate) use level::Client;
use level::Level;
pub(crate) use outlook::{Hopeless, Outlook};

/// How often a level is passed over in a row, while requests wait in it, for the sake of more urgent
/// ones. Priorities are the clients' own choice: one that calls everything urgent must not starve
/// the others for ever. Where several levels were passed over so often, they are served one after
/// the other, so that the oldest request of each is taken after at most as many others as this and
/// the number of levels.
pub(crate) const PASSED_OVER_MAX: u32 = 16;

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
    /// From when on its answer is of no use. A request that still waits then does not run, and one
    /// that cannot be answered until then is not let in.
    pub deadline: Option<Instant>,
}

impl Work {
    fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Why it need not run any more.
    pub(crate) fn in_vain(&self, now: Instant) -> Option<Refused> {
        if self.is_late(now) {
            return Some(Refused::Late(None));
        }
        if self.arrival.slot.table().is_retired() {
            return Some(Refused::SessionOver);
        }
        self.reply_to.is_gone().then_some(Refused::Gone)
    }
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
    /// The level has its bound of requests; 0 is the normal one.
    Full { level: usize },
    /// It waited, its level is full, and requests of other clients have their turn before it.
    Displaced { level: usize },
    /// The gate is not open.
    Closed(Gate),
    /// Its deadline passed, or will have passed before it could be answered.
    Late(Option<Hopeless>),
    /// Its session ended while it waited.
    SessionOver,
    /// Its caller went away while it waited.
    Gone,
}

/// Requests that the queue gives back, and why.
pub(crate) type GivenBack = Vec<(Work, Refused)>;

/// What came of a request that was to wait.
#[derive(Debug, Default)]
pub(crate) struct Pushed {
    /// The request, if it is not let in.
    pub(crate) refused: Option<(Work, Refused)>,
    /// Others that made room.
    pub(crate) others: GivenBack,
}

#[derive(Debug)]
pub(crate) struct Queue {
    bound: usize,
    spin: Duration,
    /// How many wait in all levels. Written under `state`'s lock, read without it by whoever looks
    /// for work; Release and Acquire only make such a look timely, the lock orders the work itself.
    len: AtomicUsize,
    /// How many were let in, so that whoever found nothing to take looks again only when there is
    /// something new.
    arrived: AtomicUsize,
    /// The gate, mirrored for the same reason.
    gate: AtomicU8,
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Debug)]
struct State {
    /// The normal level first, the most urgent one last.
    levels: Box<[Level]>,
    sleepers: usize,
    gate: Gate,
    workers: usize,
    gathering: gathering::Gathering,
}

impl Queue {
    /// A queue of `bound` requests in each of `levels` levels, emptied by `workers` workers.
    pub(crate) fn new(bound: usize, levels: usize, wait: WaitPolicy, workers: usize) -> Queue {
        Queue {
            bound,
            spin: match wait {
                WaitPolicy::Spin => SPIN_IDLE_MAX,
                WaitPolicy::Adaptive => ADAPTIVE_SPIN,
                WaitPolicy::Block => Duration::ZERO,
            },
            len: AtomicUsize::new(0),
            arrived: AtomicUsize::new(0),
            gate: AtomicU8::new(Gate::Open as u8),
            state: Mutex::new(State {
                levels: (0..levels.max(1)).map(|_| Level::default()).collect(),
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

    /// Adds a request, and wakes a worker if one sleeps. `outlook` is needed where it has a deadline.
    pub(crate) fn push(&self, work: Work, outlook: Option<Outlook>) -> Pushed {
        let mut state = self.lock();
        let mut pushed = Pushed::default();
        if state.gate != Gate::Open {
            pushed.refused = Some((work, Refused::Closed(state.gate)));
            return pushed;
        }
        let at = usize::from(work.arrival.what.priority).min(state.levels.len() - 1);
        if state.levels[at].len() >= self.bound {
            pushed.others = state.levels[at].take_late(Instant::now());
        }
        if let Some(hopeless) = state.hopeless(&work, at, outlook) {
            pushed.refused = Some((work, Refused::Late(Some(hopeless))));
            self.note_len(&state);
            return pushed;
        }
        let asleep = state.sleepers > 0;
        let queued = Queued { work, rung: asleep.then(Instant::now) };
        match state.levels[at].push(queued, self.bound) {
            Ok(displaced) => {
                let why = Refused::Displaced { level: at };
                pushed.others.extend(displaced.map(|queued| (queued.work, why)));
            }
            Err(queued) => pushed.refused = Some((queued.work, Refused::Full { level: at })),
        }
        self.note_len(&state);
        self.arrived.fetch_add(1, Ordering::Release);
        drop(state);
        if asleep {
            self.bell.notify_one();
        }
        pushed
    }

    /// How many were let in since the start.
    pub(crate) fn arrived(&self) -> usize {
        self.arrived.load(Ordering::Acquire)
    }

    /// Takes out what waits of a session, or of one `peer` of it, and need not run any more.
    pub(crate) fn withdraw(
        &self,
        session: SessionId,
        peer: Option<PeerId>,
        in_vain: &dyn Fn(&Work) -> Option<Refused>,
    ) -> GivenBack {
        let mut state = self.lock();
        let mut given_back = Vec::new();
        for level in &mut state.levels {
            level.withdraw(session, peer, in_vain, &mut given_back);
        }
        self.note_len(&state);
        given_back
    }

    /// Takes the next request, if one waits.
    pub(crate) fn pop(&self) -> Option<Queued> {
        if self.len() == 0 {
            return None;
        }
        let mut state = self.lock();
        let at = state.level_in_turn(0);
        let work = state.levels[at].pop();
        state.note_turn(at);
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
        let levels = state.levels.iter_mut().rev();
        let all = levels.flat_map(Level::drain).map(|queued| queued.work).collect();
        self.note_len(state);
        all
    }

    fn note_len(&self, state: &State) {
        self.len.store(state.levels.iter().map(Level::len).sum(), Ordering::Release);
    }

    /// A panic while the lock is held cannot leave the queue half-changed: nothing in here calls
    /// out but to ask whether a caller is gone, which changes nothing.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Which level is served next, of those from `least` on: the most urgent one that has requests,
    /// unless others were passed over too often. The normal one if there is none.
    fn level_in_turn(&self, least: usize) -> usize {
        let levels = || self.levels.iter().enumerate().skip(least);
        let waiting = || levels().filter(|(_, level)| level.len() > 0);
        let starved = waiting().filter(|(_, level)| level.passed_over >= PASSED_OVER_MAX);
        let starved = starved.max_by_key(|(_, level)| level.passed_over);
        starved.or_else(|| waiting().next_back()).map_or(0, |(at, _)| at)
    }

    /// Notes that a level was served.
    fn note_turn(&mut self, served: usize) {
        for (at, level) in self.levels.iter_mut().enumerate() {
            if at == served || level.len() == 0 {
                level.passed_over = 0;
            } else if at < served {
                level.passed_over += 1;
            }
        }
    }

    /// Why a request that comes to a level cannot be answered in time.
    fn hopeless(&self, work: &Work, at: usize, outlook: Option<Outlook>) -> Option<Hopeless> {
        let (outlook, deadline) = (outlook?, work.deadline?);
        let client = Client::of(&work.arrival);
        let ahead = self.levels[at].ahead_of(client);
        let urgent: usize = self.levels[at + 1..].iter().map(Level::len).sum();
        let run_max = usize::try_from(PASSED_OVER_MAX).unwrap_or(usize::MAX);
        outlook.hopeless(ahead + urgent.min(ahead.saturating_mul(run_max)), deadline)
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
