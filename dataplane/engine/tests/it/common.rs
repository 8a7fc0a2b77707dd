//! What the tests of the pool share: requests, a place for replies, and engines to go wrong.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use ferry_core::{
    BoundSignature, Generation, MemoryChoice, Request, RequestKind, SessionId, Signature,
    SlotLayout, Stage, StageTimes, Status,
};
use ferry_engine::{Echo, Engine, EngineError, Finished, Job, Work};
use ferry_memory::{Arrival, Departure, HeapBacking, PeerAccess, PeerId, Region};
use ferry_memory::{ReplyTo, SlotTable};

/// No test waits for longer: a watchdog, not a measure.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(30);

/// A session with the echo's signature and slots of its own.
pub(crate) struct Client {
    pub(crate) table: Arc<SlotTable>,
    pub(crate) binding: Arc<BoundSignature>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) session: u64,
    next: u64,
}

impl Client {
    pub(crate) fn new(slots: u32, in_bytes: u64, out_bytes: u64) -> Client {
        let shapes = [("input".to_owned(), vec![in_bytes]), ("output".to_owned(), vec![out_bytes])];
        let binding = Echo::new().signature().bind(&shapes).unwrap();
        Client::with(slots, in_bytes, binding, PeerAccess::None)
    }

    /// `request_bytes` is the room for a payload; replies have room for an error's text.
    pub(crate) fn with(
        slots: u32,
        request_bytes: u64,
        bound: BoundSignature,
        peer: PeerAccess,
    ) -> Client {
        let reply_bytes = bound.reply_bytes().max(1024);
        let layout = SlotLayout { slots, request_bytes, reply_bytes };
        let bytes = SlotTable::bytes(&layout).unwrap();
        let region = Region::whole(HeapBacking::new(bytes).unwrap());
        let table = SlotTable::over(layout, peer, region).unwrap();
        Client { table, binding: Arc::new(bound), inbox: Arc::default(), session: 9, next: 0 }
    }

    /// The next request, numbered from 0.
    pub(crate) fn work(&mut self, kind: RequestKind, priority: u8, payload: &[u8]) -> Work {
        let mut slot = self.table.acquire().expect("a free slot");
        slot.request_mut().copy_in(0, payload).unwrap();
        let seen = Instant::now();
        let arrival = Arrival {
            peer: PeerId(7),
            session: SessionId(self.session),
            generation: Generation::FIRST,
            request: self.next,
            what: Request { priority, ..Request::of(kind) },
            payload_bytes: payload.len(),
            slot,
            seen,
            visible: Instant::now(),
        };
        self.next += 1;
        let reply_to = Arc::clone(&self.inbox) as Arc<dyn ReplyTo>;
        Work {
            arrival,
            binding: Arc::clone(&self.binding),
            memory: MemoryChoice::Auto,
            reply_to,
            deadline: None,
        }
    }

    pub(crate) fn tensor(&mut self, payload: &[u8]) -> Work {
        self.work(RequestKind::Tensor, 0, payload)
    }
}

/// Keeps replies in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    replies: Mutex<Vec<Departure>>,
    came: Condvar,
}

impl ReplyTo for Inbox {
    fn depart(&self, departure: Departure) {
        self.replies.lock().unwrap().push(departure);
        self.came.notify_all();
    }
}

impl Inbox {
    /// Waits for `count` replies in all and takes them.
    pub(crate) fn take(&self, count: usize) -> Vec<Departure> {
        let replies = self.replies.lock().unwrap();
        let (mut replies, timeout) =
            self.came.wait_timeout_while(replies, WATCHDOG, |all| all.len() < count).unwrap();
        assert!(!timeout.timed_out(), "{} of {count} replies came", replies.len());
        std::mem::take(&mut *replies)
    }

    pub(crate) fn one(&self) -> Departure {
        self.take(1).remove(0)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.replies.lock().unwrap().is_empty()
    }
}

/// The payload of a reply.
pub(crate) fn payload(departure: &Departure) -> Vec<u8> {
    let mut bytes = vec![0; departure.payload_bytes];
    departure.slot.reply().copy_out(0, &mut bytes).unwrap();
    bytes
}

/// The text of a reply that is not Ok.
pub(crate) fn text(departure: &Departure) -> String {
    assert_ne!(departure.status, Status::Ok);
    String::from_utf8(payload(departure)).unwrap()
}

/// Waits until `done`.
pub(crate) fn until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < WATCHDOG, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Holds engines back until the test opens it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Barrier(Arc<(Mutex<BarrierState>, Condvar)>);

#[derive(Debug, Default)]
struct BarrierState {
    open: bool,
    inside: usize,
}

impl Barrier {
    pub(crate) fn open(&self) {
        self.0.0.lock().unwrap().open = true;
        self.0.1.notify_all();
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0.0.lock().unwrap().open
    }

    pub(crate) fn pass(&self) {
        let mut state = self.0.0.lock().unwrap();
        state.inside += 1;
        self.0.1.notify_all();
        let (state, timeout) =
            self.0.1.wait_timeout_while(state, WATCHDOG, |state| !state.open).unwrap();
        drop(state);
        assert!(!timeout.timed_out(), "the barrier was never opened");
    }

    /// Waits until `count` engines have come to it.
    pub(crate) fn wait_for(&self, count: usize) {
        let state = self.0.0.lock().unwrap();
        let (state, timeout) =
            self.0.1.wait_timeout_while(state, WATCHDOG, |s| s.inside < count).unwrap();
        drop(state);
        assert!(!timeout.timed_out(), "no engine came to the barrier");
    }
}

/// An echo that calls a closure before each run.
pub(crate) struct Before<F> {
    echo: Echo,
    before: F,
}

pub(crate) fn before<F>(before: F) -> Box<dyn Engine>
where
    F: FnMut(&Job) -> Result<(), EngineError> + Send + 'static,
{
    Box::new(Before { echo: Echo::new(), before })
}

impl<F: FnMut(&Job) -> Result<(), EngineError> + Send> Engine for Before<F> {
    fn signature(&self) -> &Signature {
        self.echo.signature()
    }

    fn depth(&self) -> usize {
        1
    }

    fn submit(&mut self, job: Job) -> Option<Finished> {
        match (self.before)(&job) {
            Ok(()) => self.echo.submit(job),
            Err(error) => Some(Finished { job, outcome: Err(error) }),
        }
    }

    fn poll(&mut self, _finished: &mut Vec<Finished>) {}
}

/// The first byte of a job's input.
pub(crate) fn first_byte(job: &Job) -> u8 {
    let mut byte = [0];
    job.input(0).unwrap().copy_out(0, &mut byte).unwrap();
    byte[0]
}

/// An asynchronous echo: a job is pending until the barrier is open, and the latest ends first. A
/// job whose first byte is [`POISON`] makes `poll` panic.
pub(crate) struct Pending {
    pub(crate) echo: Echo,
    pub(crate) depth: usize,
    pub(crate) barrier: Barrier,
    pub(crate) jobs: Vec<Job>,
    /// Most jobs that were in flight at once.
    pub(crate) most: Arc<Mutex<usize>>,
    /// Loses its device at a poisoned job, in place of a panic, and gives back one job per poll.
    pub(crate) loses: bool,
}

pub(crate) const POISON: u8 = 0xee;

impl Pending {
    pub(crate) fn boxed(depth: usize, barrier: &Barrier) -> (Box<dyn Engine>, Arc<Mutex<usize>>) {
        let (engine, most) = Pending::new(depth, barrier);
        (Box::new(engine), most)
    }

    pub(crate) fn losing(depth: usize, barrier: &Barrier) -> Box<dyn Engine> {
        Box::new(Pending { loses: true, ..Pending::new(depth, barrier).0 })
    }

    fn new(depth: usize, barrier: &Barrier) -> (Pending, Arc<Mutex<usize>>) {
        let most = Arc::new(Mutex::new(0));
        let (echo, barrier, jobs) = (Echo::new(), barrier.clone(), Vec::new());
        (Pending { echo, depth, barrier, jobs, most: most.clone(), loses: false }, most)
    }
}

impl Engine for Pending {
    fn signature(&self) -> &Signature {
        self.echo.signature()
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn submit(&mut self, job: Job) -> Option<Finished> {
        self.jobs.push(job);
        assert!(self.jobs.len() <= self.depth, "more in flight than the engine's depth");
        let mut most = self.most.lock().unwrap();
        *most = self.jobs.len().max(*most);
        None
    }

    fn poll(&mut self, finished: &mut Vec<Finished>) {
        if !self.barrier.is_open() {
            return;
        }
        while let Some(job) = self.jobs.pop() {
            let poisoned = first_byte(&job) == POISON;
            if self.loses && poisoned {
                let outcome = Err(EngineError::Lost("error 700".to_owned()));
                finished.push(Finished { job, outcome });
            } else {
                assert!(!poisoned, "poisoned");
                finished.extend(self.echo.submit(job));
            }
            if self.loses {
                return;
            }
        }
    }
}

/// The parts of the server's time, which must not be more than the whole.
pub(crate) fn parts_ns(times: &StageTimes) -> u64 {
    Stage::SERVER_PARTS.iter().filter_map(|&part| times.of(part)).sum()
}
