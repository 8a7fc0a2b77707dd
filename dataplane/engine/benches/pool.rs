//! What dispatching costs beside the copy that the echo engine makes: `cargo bench -p
//! ferry-engine`. Without `--bench` it makes a few rounds only, to show that it runs.
#![expect(clippy::print_stdout, reason = "a benchmark's output")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{
    BoundSignature, Generation, MemoryChoice, Request, RequestKind, SessionId, SlotLayout, Status,
};
use ferry_engine::{Echo, Engine, Pool, PoolOptions, RunOn, Work};
use ferry_memory::{Arrival, Departure, PeerId, ReplyTo, Slot, SlotTable};

/// Rounds of the two that are compared, one after the other, so that both meet the same machine.
const ROUNDS: usize = 200;

/// Nothing comes back late from a lane.
#[derive(Debug)]
struct Never;

impl ReplyTo for Never {
    fn depart(&self, _departure: Departure) {}
}

fn main() {
    let measured = std::env::args().any(|argument| argument == "--bench");
    for (in_bytes, out_bytes, calls) in [(4_000, 4_000, 2_000), (602_112, 4_000, 2_000)] {
        let (rounds, calls) = if measured { (ROUNDS, calls) } else { (2, 10) };
        compare(in_bytes, out_bytes, rounds, calls);
    }
}

fn compare(in_bytes: u64, out_bytes: u64, rounds: usize, calls: u32) {
    let options = PoolOptions { run: RunOn::Lane, ..PoolOptions::default() };
    let pool = Pool::start("echo", vec![Box::new(Echo::new())], options).expect("starts");
    let shapes = [("input".to_owned(), vec![in_bytes]), ("output".to_owned(), vec![out_bytes])];
    let binding = Arc::new(Echo::new().signature().bind(&shapes).expect("binds"));
    let layout = SlotLayout { slots: 1, request_bytes: in_bytes, reply_bytes: out_bytes };
    let table = SlotTable::private(layout).expect("memory");
    let mut slot = table.acquire();
    if let Some(bytes) = slot.as_mut().and_then(Slot::request_bytes_mut) {
        bytes.fill(1);
    }
    let reply_to: Arc<dyn ReplyTo> = Arc::new(Never);
    let (mut dispatch_ns, mut copy_ns, mut clock_ns) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let start = Instant::now();
        for _ in 0..calls {
            let held = slot.take().expect("the last reply gave it back");
            slot = Some(dispatch(&pool, held, &binding, &reply_to));
        }
        dispatch_ns.push(per_call_ns(start.elapsed(), calls));
        let held = slot.as_mut().expect("as above");
        let start = Instant::now();
        for _ in 0..calls {
            let bytes = black_box(held.reply().bytes());
            let (request, mut reply) = held.halves_mut();
            reply.copy_from(&request, bytes).expect("fits");
        }
        copy_ns.push(per_call_ns(start.elapsed(), calls));
        let start = Instant::now();
        for _ in 0..calls {
            black_box(Instant::now());
        }
        clock_ns.push(per_call_ns(start.elapsed(), calls));
    }
    let [dispatch_ns, copy_ns, clock_ns] = [dispatch_ns, copy_ns, clock_ns].map(median);
    println!(
        "echo on its lane, {in_bytes} B -> {out_bytes} B: dispatch {dispatch_ns:.0} ns, of which \
         the copy alone is {copy_ns:.0} ns and each of 3 clock readings {clock_ns:.0} ns (medians of {rounds} rounds of {calls} calls)"
    );
}

fn dispatch(
    pool: &Pool,
    slot: Slot,
    binding: &Arc<BoundSignature>,
    reply_to: &Arc<dyn ReplyTo>,
) -> Slot {
    let seen = Instant::now();
    let payload_bytes = slot.request().bytes();
    let arrival = Arrival {
        peer: PeerId(1),
        session: SessionId(1),
        generation: Generation::FIRST,
        request: 1,
        what: Request::of(RequestKind::Tensor),
        payload_bytes,
        slot,
        seen,
        visible: seen,
    };
    let (binding, reply_to) = (Arc::clone(binding), Arc::clone(reply_to));
    let reply = pool
        .dispatch(Work { arrival, binding, memory: MemoryChoice::Auto, reply_to, deadline: None })
        .expect("the lane runs it");
    assert_eq!(reply.status, Status::Ok);
    reply.slot
}

fn per_call_ns(elapsed: Duration, calls: u32) -> f64 {
    elapsed.as_secs_f64() * 1e9 / f64::from(calls)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
