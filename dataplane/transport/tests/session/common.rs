//! What the tests of driver and lane share.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ferry_core::{
    Generation, Request, RequestKind, RequestRecord, SessionId, SlotLayout, StageTimes, Status,
    Token, WaitPolicy,
};
use ferry_memory::{Arrival, Departure, SlotTable};
use ferry_transport::lane::{self, Handler, LaneHandle, LaneOptions};
use ferry_transport::{
    Admission, Completion, Driver, DriverOptions, LocalDoor, RecordSink, UnixClock, local,
};

/// No test takes longer unless something hangs.
pub(super) const WATCHDOG: Duration = Duration::from_secs(60);

pub(super) const TENSOR: Request = Request::of(RequestKind::Tensor);
pub(super) const PING: Request = Request::of(RequestKind::Ping);

pub(super) fn admission(session: u64, slots: u32) -> Admission {
    Admission {
        session: SessionId(session),
        generation: Generation::FIRST,
        token: Token::new([session.to_le_bytes()[0]; 32]),
        layout: SlotLayout { slots, request_bytes: 256, reply_bytes: 256 },
        wait: WaitPolicy::Adaptive,
        placer: None,
    }
}

/// Keeps every record.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<Vec<RequestRecord>>);

impl Kept {
    pub(super) fn all(&self) -> Vec<RequestRecord> {
        self.0.lock().unwrap().clone()
    }
}

impl RecordSink for Kept {
    fn record(&self, record: RequestRecord) {
        self.0.lock().unwrap().push(record);
    }
}

/// Answers with the request's payload, every byte plus one.
pub(super) struct PlusOne;

impl Handler for PlusOne {
    fn handle(&mut self, arrival: Arrival) -> Option<Departure> {
        Some(plus_one(arrival))
    }
}

pub(super) fn plus_one(arrival: Arrival) -> Departure {
    let mut bytes = vec![0; arrival.payload_bytes];
    arrival.slot.request().copy_out(0, &mut bytes).unwrap();
    bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
    arrival.slot.reply().copy_in(0, &bytes).unwrap();
    let bytes = bytes.len();
    arrival.depart(bytes, StageTimes::NONE)
}

/// A lane over a local link.
pub(super) fn local_lane(
    in_flight_max: usize,
    handler: impl Handler + Send + 'static,
) -> (LaneHandle, LocalDoor) {
    let (listener, door) = local::listener();
    let options = LaneOptions { in_flight_max, ..LaneOptions::default() };
    let made = lane::spawn(options, move |_| Ok((Box::new(listener), Box::new(handler))));
    (made.unwrap(), door)
}

/// A session's driver, its slots, and what was recorded.
pub(super) struct Client {
    pub(super) driver: Driver,
    pub(super) table: Arc<SlotTable>,
    pub(super) kept: Arc<Kept>,
}

pub(super) fn options(admission: &Admission) -> DriverOptions {
    DriverOptions {
        session: admission.session,
        generation: admission.generation,
        run: 7,
        wait: admission.wait,
        first_request: 1,
        clock: UnixClock::read(),
    }
}

pub(super) fn connect(door: &LocalDoor, admission: &Admission) -> Client {
    let (session, generation) = (admission.session, admission.generation);
    let (link, table) = door.connect(session, generation, &admission.token).unwrap();
    let kept = Arc::new(Kept::default());
    let driver = Driver::new(Box::new(link), options(admission), Arc::clone(&kept) as _);
    Client { driver, table, kept }
}

impl Client {
    /// Submits `len` bytes of `value`.
    pub(super) fn send(&mut self, value: u8, len: usize) -> u64 {
        let slot = self.table.acquire().expect("a free slot");
        slot.request().copy_in(0, &vec![value; len]).unwrap();
        self.driver.submit(slot, len, TENSOR, Some(5)).unwrap()
    }

    pub(super) fn next(&mut self) -> Completion {
        assert!(self.driver.wait(Some(Instant::now() + WATCHDOG)), "no completion");
        self.driver.take().unwrap()
    }
}

pub(super) fn reply_of(done: &Completion) -> Vec<u8> {
    assert_eq!(done.status, Status::Ok, "{done:?}");
    let mut bytes = vec![0; done.payload_bytes];
    done.slot.as_ref().unwrap().reply().copy_out(0, &mut bytes).unwrap();
    bytes
}

/// Waits until something is so.
pub(super) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < WATCHDOG, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
