//! What the link shm adds to a bare loop over shared memory.
//!
//! Both move 602,112 bytes in and 4,000 bytes out (ResNet50) between two threads that spin. The
//! bare loop is one copy in, two flags, and the server's copy of 4,000 bytes; the link does the
//! same and all that a link has to. Rounds are interleaved, so that both see the same machine.
//! Run with `cargo bench -p ferry-transport --bench shm`.
#![expect(clippy::print_stdout, reason = "a bench reports to a person")]
#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up has nothing to report")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ferry_core::{
    Body, Frame, Generation, Reply, Request, RequestKind, SessionId, SlotLayout, StageTimes,
    Status, Token, WaitPolicy,
};
use ferry_memory::{Backing, Region, SharedBacking, SlotTable, Word};
use ferry_transport::link::SERVER;
use ferry_transport::{Admission, Event, Events, Link, Listener, ShmClient, ShmListener, Transfer};

const IN_BYTES: usize = 602_112;
const OUT_BYTES: usize = 4_000;
const ROUNDS: usize = 20;
const REQUESTS_PER_ROUND: usize = 300;
const WARM_UP: usize = 100;
const LAYOUT: SlotLayout =
    SlotLayout { slots: 2, request_bytes: IN_BYTES as u64, reply_bytes: OUT_BYTES as u64 };

/// One end that sends `bytes` and waits for the reply.
type RoundTrip<'a> = &'a mut dyn FnMut(&[u8]);

/// The bare loop: a copy and two flags.
fn with_bare(run: impl FnOnce(RoundTrip<'_>)) {
    const REPLY_AT: usize = 4096 + 602_112;
    let (backing, memfd) = SharedBacking::create(REPLY_AT + 4096, LAYOUT).unwrap();
    let client = Arc::new(backing);
    let server = Arc::new(SharedBacking::import(memfd, REPLY_AT + 4096, LAYOUT).unwrap());
    let flags = |memory| (Word::new(memory, 0).unwrap(), Word::new(memory, 128).unwrap());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (asked, answered) = flags(&server);
            let whole = Region::whole(Arc::<SharedBacking>::clone(&server));
            let (request, reply) = (whole.part(4096, OUT_BYTES), whole.part(REPLY_AT, OUT_BYTES));
            let (request, reply) = (request.unwrap(), reply.unwrap());
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                if asked.cell().load(Ordering::Acquire) == number {
                    std::hint::spin_loop();
                    continue;
                }
                number += 1;
                reply.view().copy_from(&request.view(), OUT_BYTES).unwrap();
                answered.cell().store(number, Ordering::Release);
            }
        });
        let (asked, answered) = flags(&client);
        let mut number = 0;
        run(&mut |bytes| {
            client.copy_in(4096, bytes).unwrap();
            number += 1;
            asked.cell().store(number, Ordering::Release);
            while answered.cell().load(Ordering::Acquire) != number {
                std::hint::spin_loop();
            }
        });
        stop.store(true, Ordering::Relaxed);
    });
}

fn serve(listener: &mut ShmListener, stop: &AtomicBool) {
    let mut events = Events::new();
    while !stop.load(Ordering::Relaxed) {
        listener.poll(&mut events);
        if events.is_empty() {
            std::hint::spin_loop();
        }
        for event in events.drain(..) {
            if let Event::Arrived { peer, frame, slot, .. } = event {
                let payload_bytes = if frame.payload_bytes == 0 { 0 } else { OUT_BYTES };
                slot.reply().copy_from(&slot.request(), payload_bytes).unwrap();
                let times = StageTimes::NONE;
                let body = Reply { status: Status::Ok, times, reply_ns_previous: None };
                let payload_bytes = payload_bytes as u64;
                let frame = Frame { payload_bytes, body: Body::Reply(body), ..frame };
                listener.submit(Transfer::new(peer, frame, slot)).unwrap();
            }
        }
    }
}

fn round_trip(
    session: SessionId,
    client: &mut ShmClient,
    table: &Arc<SlotTable>,
    events: &mut Events,
    bytes: &[u8],
) {
    let slot = table.acquire().unwrap();
    slot.request().copy_in(0, bytes).unwrap();
    let frame = Frame {
        session,
        generation: Generation::FIRST,
        slot: slot.index(),
        request: 1,
        payload_bytes: bytes.len() as u64,
        body: Body::Request(Request::of(RequestKind::Tensor)),
    };
    client.submit(Transfer::new(SERVER, frame, slot)).unwrap();
    loop {
        client.poll(events);
        let replied = events.drain(..).any(|event| matches!(event, Event::Arrived { .. }));
        if replied {
            return;
        }
        std::hint::spin_loop();
    }
}

/// The link, with both ends polling.
fn with_link(run: impl FnOnce(RoundTrip<'_>)) {
    let name = format!("ferry-bench-{}", std::process::id());
    let mut listener = ShmListener::bind(&name).unwrap();
    let endpoint = listener.endpoint();
    let (session, generation) = (SessionId(1), Generation::FIRST);
    let (token, wait) = (Token::new([1; Token::BYTES]), WaitPolicy::Spin);
    let admission = Admission { session, generation, token, layout: LAYOUT, wait, placer: None };
    let descriptor = listener.admit(admission).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| serve(&mut listener, &stop));
        let deadline = Instant::now() + Duration::from_secs(10);
        let (mut client, table) =
            ShmClient::connect(&endpoint, session, generation, token, &descriptor, None, deadline)
                .unwrap();
        let mut events = Events::new();
        run(&mut |bytes| round_trip(session, &mut client, &table, &mut events, bytes));
        stop.store(true, Ordering::Relaxed);
    });
}

/// One round of one contender, in nanoseconds per round trip.
fn measure(round_trip: RoundTrip<'_>, bytes: &[u8], into: &mut Vec<u128>) {
    for _ in 0..WARM_UP {
        round_trip(bytes);
    }
    for _ in 0..REQUESTS_PER_ROUND {
        let start = Instant::now();
        round_trip(bytes);
        into.push(start.elapsed().as_nanos());
    }
}

fn percentile(sorted: &[u128], percent: usize) -> u128 {
    sorted[(sorted.len() - 1) * percent / 100]
}

fn compare(what: &str, bytes: &[u8]) {
    let (mut bare, mut link) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        with_bare(|round_trip| measure(round_trip, bytes, &mut bare));
        with_link(|round_trip| measure(round_trip, bytes, &mut link));
    }
    bare.sort_unstable();
    link.sort_unstable();
    for percent in [50, 99] {
        let (bare, link) = (percentile(&bare, percent), percentile(&link, percent));
        let hundredths = link * 100 / bare.max(1);
        let (whole, part) = (hundredths / 100, hundredths % 100);
        println!("{what} p{percent}: bare {bare} ns, link {link} ns, ratio {whole}.{part:02}");
    }
}

/// Many sessions on one lane: what each costs to open and at its first request, and what 999 silent
/// ones cost the one that is active.
fn many(count: u64) {
    let name = format!("ferry-bench-many-{}", std::process::id());
    let mut listener = ShmListener::bind(&name).unwrap();
    let endpoint = listener.endpoint();
    let (generation, token) = (Generation::FIRST, Token::new([1; Token::BYTES]));
    let (mut opened, mut joined, mut first, mut after) = (vec![], vec![], vec![], vec![]);
    let descriptors: Vec<_> = (1..=count)
        .map(|id| {
            let (session, wait) = (SessionId(id), WaitPolicy::Spin);
            let admission =
                Admission { session, generation, token, layout: LAYOUT, wait, placer: None };
            let start = Instant::now();
            let descriptor = listener.admit(admission).unwrap();
            opened.push(start.elapsed().as_nanos());
            descriptor
        })
        .collect();
    let (stop, bytes) = (AtomicBool::new(false), vec![7; IN_BYTES]);
    std::thread::scope(|scope| {
        scope.spawn(|| serve(&mut listener, &stop));
        let mut clients: Vec<_> = (1..=count)
            .zip(&descriptors)
            .map(|(id, descriptor)| {
                let (id, start) = (SessionId(id), Instant::now());
                let deadline = start + Duration::from_secs(10);
                let connected = ShmClient::connect(
                    &endpoint, id, generation, token, descriptor, None, deadline,
                );
                joined.push(start.elapsed().as_nanos());
                (id, connected.unwrap())
            })
            .collect();
        std::thread::sleep(Duration::from_millis(500));
        let mut events = Events::new();
        let mut go = |(id, (client, table)): &mut (SessionId, (ShmClient, Arc<SlotTable>))| {
            let start = Instant::now();
            round_trip(*id, client, table, &mut events, &bytes);
            start.elapsed().as_nanos()
        };
        first.extend(clients.iter_mut().map(&mut go));
        std::thread::sleep(Duration::from_millis(500));
        after.extend((0..REQUESTS_PER_ROUND * ROUNDS).map(|_| go(&mut clients[0])));
        stop.store(true, Ordering::Relaxed);
    });
    for (what, mut taken) in [
        ("admit", opened),
        ("connect", joined),
        ("first request", first),
        ("request beside the silent", after),
    ] {
        taken.sort_unstable();
        let (p50, p99) = (percentile(&taken, 50), percentile(&taken, 99));
        println!("{count} sessions, {what}: p50 {p50} ns, p99 {p99} ns");
    }
}

fn main() {
    many(1000);
    compare("602112 B in, 4000 B out", &vec![7; IN_BYTES]);
    compare("nothing in, nothing out", &[]);
}
