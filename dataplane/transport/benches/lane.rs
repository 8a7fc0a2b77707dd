//! What a request costs over the local link: driver, link, lane and a handler that does nothing.
//!
//! 4,000 bytes are agreed for each half; the local link moves the slot and copies none of them.
//! Prints nanoseconds per request. `cargo bench -p ferry-transport --bench lane [requests]`
#![expect(clippy::print_stdout, reason = "a benchmark prints its result")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ferry_core::{
    Body, Frame, Generation, LinkKind, Reply, Request, RequestKind, RequestRecord, SessionId,
    SlotLayout, StageTimes, Status, Token, WaitPolicy,
};
use ferry_memory::{Arrival, Departure, SlotTable};
use ferry_transport::lane::{self, Handler, LaneOptions};
use ferry_transport::{
    Admission, Capabilities, Driver, DriverOptions, Event, Events, Link, RecordSink, Rejected,
    Transfer, UnixClock, Wake, Waker, local,
};

const PAYLOAD_BYTES: usize = 4000;

/// Answers with as many bytes as came.
struct Echo;

impl Handler for Echo {
    fn handle(&mut self, arrival: Arrival) -> Option<Departure> {
        let bytes = arrival.payload_bytes;
        Some(arrival.depart(bytes, StageTimes::NONE))
    }
}

/// Answers every request at the next poll, on the caller's thread: what is left is the driver.
struct Mirror(Vec<Transfer>);

struct NoSleep;

impl Wake for NoSleep {
    fn wake(&self) {}
}

impl Link for Mirror {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            kind: LinkKind::Local,
            one_sided: true,
            reports_completion: true,
            carries_frames: true,
            threads: 2,
        }
    }

    fn submit(&mut self, transfer: Transfer) -> Result<(), Rejected> {
        self.0.push(transfer);
        Ok(())
    }

    fn poll(&mut self, events: &mut Events) {
        for Transfer { peer, frame, slot, tail } in self.0.drain(..) {
            let request = frame.request;
            events.push(Event::Sent { peer, request, elapsed_ns: 1 });
            let (times, reply_ns_previous) = (StageTimes::NONE, Some(1));
            let body = Body::Reply(Reply { status: Status::Ok, times, reply_ns_previous });
            let (frame, seen) = (Frame { body, ..frame }, Instant::now());
            events.push(Event::Arrived { peer, frame, slot, tail, seen, visible: seen });
        }
    }

    fn park(&mut self, _at_most: std::time::Duration) {}

    fn waker(&self) -> Waker {
        Arc::new(NoSleep)
    }
}

#[derive(Debug, Default)]
struct Count(AtomicU64);

impl RecordSink for Count {
    fn record(&self, record: RequestRecord) {
        std::hint::black_box(record);
        self.0.store(self.0.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<(), Failed> {
    let given = std::env::args().skip(1).find_map(|arg| arg.parse().ok());
    let requests: u64 = given.unwrap_or(300_000);
    println!("clock: {:.1} ns per reading", clock_ns());
    for window in [1, 8] {
        let mut rounds = (0..5).map(|_| mirrored(window, requests));
        let best = rounds.try_fold(f64::MAX, |best, ns| Ok::<_, Failed>(ns?.min(best)))?;
        println!("  driver alone, window {window}: {best:4.0} ns per request (best of 5)");
    }
    for wait in WaitPolicy::ALL {
        for window in [1, 8] {
            let requests = if wait == WaitPolicy::Block { requests / 10 } else { requests };
            let mut rounds = (0..5).map(|_| round(wait, window, requests));
            let best = rounds.try_fold(f64::MAX, |best, ns| Ok::<_, Failed>(ns?.min(best)))?;
            println!("{wait:>8}, window {window}: {best:8.0} ns per request (best of 5)");
        }
    }
    Ok(())
}

fn clock_ns() -> f64 {
    const READINGS: u32 = 1_000_000;
    let start = Instant::now();
    for _ in 0..READINGS {
        std::hint::black_box(Instant::now());
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(READINGS)
}

fn round(wait: WaitPolicy, window: u32, requests: u64) -> Result<f64, Failed> {
    let (listener, door) = local::listener();
    let options = LaneOptions { most_eager: wait, ..LaneOptions::default() };
    let lane = lane::spawn(options, move |_| Ok((Box::new(listener), Box::new(Echo))))?;
    let bytes = PAYLOAD_BYTES as u64;
    let admission = Admission {
        session: SessionId(1),
        generation: Generation::FIRST,
        token: Token::new([7; Token::BYTES]),
        layout: SlotLayout { slots: window, request_bytes: bytes, reply_bytes: bytes },
        wait,
        placer: None,
    };
    lane.admit(admission.clone())?;
    let (link, table) = door.connect(admission.session, admission.generation, &admission.token)?;
    let count = Arc::new(Count::default());
    let mut driver = Driver::new(Box::new(link), options_of(wait), Arc::clone(&count) as _);
    let taken = drive(&mut driver, &table, requests)?;
    driver.flush();
    lane.stop()?;
    let recorded = count.0.load(Ordering::Relaxed);
    if recorded != requests {
        return Err(format!("{recorded} records of {requests} requests").into());
    }
    Ok(taken)
}

/// The driver alone.
fn mirrored(window: u32, requests: u64) -> Result<f64, Failed> {
    let bytes = PAYLOAD_BYTES as u64;
    let layout = SlotLayout { slots: window, request_bytes: bytes, reply_bytes: bytes };
    let table = SlotTable::private(layout)?;
    let link = Mirror(Vec::with_capacity(64));
    let count = Arc::new(Count::default());
    let mut driver = Driver::new(Box::new(link), options_of(WaitPolicy::Spin), count);
    drive(&mut driver, &table, requests)
}

fn options_of(wait: WaitPolicy) -> DriverOptions {
    DriverOptions {
        session: SessionId(1),
        generation: Generation::FIRST,
        run: 0,
        wait,
        first_request: 1,
        clock: UnixClock::read(),
    }
}

/// Keeps all slots in flight; nanoseconds per request.
fn drive(driver: &mut Driver, table: &Arc<SlotTable>, requests: u64) -> Result<f64, Failed> {
    let what = Request::of(RequestKind::Tensor);
    let start = Instant::now();
    let mut done = 0;
    let mut sent = 0;
    while done < requests {
        while sent < requests
            && let Some(slot) = table.acquire()
        {
            driver.submit(slot, PAYLOAD_BYTES, what, None)?;
            sent += 1;
        }
        if !driver.wait(None) {
            return Err(format!("the link was lost: {:?}", driver.state()).into());
        }
        while let Some(completion) = driver.take() {
            std::hint::black_box(completion.times);
            done += 1;
        }
    }
    Ok(start.elapsed().as_secs_f64() * 1e9 / requests as f64)
}
