//! What clients that send one picture each get of what ONNX Runtime computes in batches:
//! `cargo bench -p ferry-onnx --bench batch [-- THREADS]`, ResNet50 on a CPU, 16 and 64 clients, beside
//! the engine called in a loop with batches that lie in place. Without `--bench` it takes a small
//! model and few rounds, to show that it runs.
#![expect(clippy::print_stdout, reason = "a benchmark's output")]
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on fails")]

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use ferry_core::{
    BoundSignature, Generation, MemoryChoice, Request, RequestKind, SessionId, SlotLayout, Status,
};
use ferry_engine::{BatchOptions, Engine, Finished, Job, Pool, PoolOptions, Work};
use ferry_memory::{Arrival, Departure, PeerId, ReplyTo, Slot, SlotTable};
use ferry_onnx::{EngineChoice, Model, Options, Search, open};
use ferry_zoo::{Batch, Precision};

const CLIENTS: [u32; 2] = [16, 64];

/// Most rows of a batch: the server's default.
const ROWS_MAX: u64 = 32;

/// Batches that the bare loop is tried with.
const BARE: [u64; 6] = [1, 2, 4, 8, 16, 32];

#[derive(Debug)]
struct Back(SyncSender<Departure>);

impl ReplyTo for Back {
    fn depart(&self, departure: Departure) {
        drop(self.0.send(departure));
    }
}

fn load(name: &str, threads: usize, folder: &Path) -> Model {
    let written =
        ferry_zoo::write_as(Precision::Fp32, Batch::Open, name, folder, 1, &mut |_| {}).unwrap();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let path = Path::new(root).join(".cache/onnxruntime/1.30.0/libonnxruntime.so");
    let library = Search { explicit: Some(path), candidates: Vec::new() };
    open(EngineChoice::Ort, &written.model, &Options { threads, library }).unwrap()
}

fn binding(model: &Model, rows: u64) -> Arc<BoundSignature> {
    let signature = model.signature();
    let mut shape = signature.bind(&[]).unwrap().inputs[0].shape.clone();
    shape[0] = rows;
    Arc::new(signature.bind(&[(signature.inputs[0].name.clone(), shape)]).unwrap())
}

/// Slots whose inputs are noise.
fn slots(binding: &BoundSignature, count: u32) -> Vec<Option<Slot>> {
    let (request_bytes, reply_bytes) = (binding.request_bytes(), binding.reply_bytes());
    let layout = SlotLayout { slots: count, request_bytes, reply_bytes };
    let table = SlotTable::private(layout).unwrap();
    let filled = (0..count).map(|_| {
        let mut slot = table.acquire().unwrap();
        let floats = (0..request_bytes / 4).map(|at| (at * 31 % 251) as f32 / 125.0 - 1.0);
        let bytes: Vec<u8> = floats.flat_map(f32::to_ne_bytes).collect();
        slot.request_mut().copy_in(0, &bytes).unwrap();
        Some(slot)
    });
    filled.collect()
}

fn arrival(slot: Slot, session: u64) -> Arrival {
    let now = Instant::now();
    Arrival {
        peer: PeerId(1),
        session: SessionId(session),
        generation: Generation::FIRST,
        request: 1,
        what: Request::of(RequestKind::Tensor),
        payload_bytes: slot.request().bytes(),
        slot,
        seen: now,
        visible: now,
    }
}

/// The engine alone, called again and again with one batch that lies in place.
struct Bare {
    engine: Box<dyn Engine>,
    binding: Arc<BoundSignature>,
    slot: Option<Slot>,
}

impl Bare {
    fn new(model: &Model, rows: u64) -> Bare {
        let binding = binding(model, rows);
        let slot = slots(&binding, 1).remove(0);
        Bare { engine: model.instance().unwrap(), binding, slot }
    }

    /// How long one run takes, on average.
    fn run(&mut self, runs: u32) -> Duration {
        let start = Instant::now();
        for _ in 0..runs {
            let job = Job {
                arrival: arrival(self.slot.take().unwrap(), 1).into(),
                binding: Arc::clone(&self.binding),
                prepared: None,
                memory: MemoryChoice::Auto,
                placed: None,
                members: Vec::new(),
            };
            let Finished { job, outcome } = self.engine.submit(job).unwrap();
            outcome.unwrap();
            self.slot = Some(job.arrival.into_arrival().slot);
        }
        start.elapsed() / runs
    }
}

/// A pool, and clients that send their next request when they have the reply to the last.
struct Served {
    pool: Pool,
    binding: Arc<BoundSignature>,
    slots: Vec<Option<Slot>>,
    sent: Vec<Instant>,
    reply_to: Arc<dyn ReplyTo>,
    replies: Receiver<Departure>,
}

impl Served {
    fn new(model: &Model, clients: u32) -> Served {
        let batch = BatchOptions {
            rows_max: ROWS_MAX,
            delay: Duration::ZERO,
            preferred: Vec::new(),
            elements_max: 16 << 20,
        };
        let options = PoolOptions { queue: 256, batch: Some(batch), ..PoolOptions::default() };
        let pool = Pool::start("model", vec![model.instance().unwrap()], options).unwrap();
        let binding = binding(model, 1);
        let slots = slots(&binding, clients);
        let sent = vec![Instant::now(); clients as usize];
        // Each client has one request in flight.
        let (sender, replies) = sync_channel(clients as usize);
        Served { pool, binding, slots, sent, reply_to: Arc::new(Back(sender)), replies }
    }

    fn send(&mut self, client: usize) {
        let arrival = arrival(self.slots[client].take().unwrap(), client as u64);
        self.sent[client] = arrival.seen;
        let work = Work {
            arrival,
            binding: Arc::clone(&self.binding),
            memory: MemoryChoice::Auto,
            reply_to: Arc::clone(&self.reply_to),
            deadline: None,
        };
        assert!(self.pool.dispatch(work).is_none(), "the queue has room");
    }

    /// Requests a second; each request's time goes to `took`, and the rows of its run to `rows`.
    fn run(&mut self, requests: usize, took: &mut Vec<Duration>, rows: &mut Vec<u32>) -> f64 {
        let clients = self.slots.len();
        let start = Instant::now();
        (0..clients).for_each(|client| self.send(client));
        for sent in clients..clients + requests {
            let reply = self.replies.recv().unwrap();
            assert_eq!(reply.status, Status::Ok);
            let client = usize::try_from(reply.session.0).unwrap();
            took.push(self.sent[client].elapsed());
            rows.push(reply.times.batch_rows().map_or(1, std::num::NonZero::get));
            self.slots[client] = Some(reply.slot);
            if sent < requests {
                self.send(client);
            }
        }
        requests as f64 / start.elapsed().as_secs_f64()
    }
}

fn at<T: Copy + PartialOrd>(values: &mut [T], percent: usize) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap());
    values[(values.len() - 1) * percent / 100]
}

fn main() {
    let measured = std::env::args().any(|argument| argument == "--bench");
    let threads = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(1);
    let (name, rounds, runs, each) =
        if measured { ("resnet50", 10, 3, 8) } else { ("digits", 2, 2, 2) };
    let folder = tempfile::tempdir().unwrap();
    let model = load(name, threads, folder.path());
    let mut bare = BARE.map(|rows| Bare::new(&model, rows));
    let mut of_bare = BARE.map(|_| Vec::new());
    let mut served = CLIENTS.map(|clients| Served::new(&model, clients));
    let mut of_served = CLIENTS.map(|_| (Vec::new(), Vec::new(), Vec::new()));
    // The first round warms up.
    for round in 0..=rounds {
        for (bare, times) in bare.iter_mut().zip(&mut of_bare) {
            times.push(bare.run(runs).as_secs_f64());
        }
        for (served, (rates, took, rows)) in served.iter_mut().zip(&mut of_served) {
            rates.push(served.run(served.slots.len() * each, took, rows));
        }
        if round == 0 {
            of_bare.iter_mut().for_each(Vec::clear);
            of_served = CLIENTS.map(|_| (Vec::new(), Vec::new(), Vec::new()));
        }
    }
    println!("{name}, threads of the engine: {threads}; medians of {rounds} interleaved rounds");
    let mut best = (0.0, 0.0);
    for (rows, times) in BARE.iter().zip(&mut of_bare) {
        let run = at(times, 50);
        let rate = *rows as f64 / run;
        println!("  bare, batches of {rows}: {rate:.1}/s, {:.1} ms a run", run * 1e3);
        if rate > best.0 {
            best = (rate, run);
        }
    }
    for (clients, (rates, took, rows)) in CLIENTS.iter().zip(&mut of_served) {
        let (rate, p99) = (at(rates, 50), at(took, 99).as_secs_f64());
        let (median, batch) = (at(rows, 50), u64::from(at(rows, 99)));
        // The bare run of the largest batch that they make.
        let same = BARE.iter().position(|&it| it >= batch.min(ROWS_MAX)).unwrap_or(BARE.len() - 1);
        let run = at(&mut of_bare[same], 50);
        println!(
            "  {clients} clients: {rate:.1}/s, {:.2} of the best bare loop (goal 0.95), {:.2} of \
             the one with {} rows; runs of {median} rows (median); p99 {:.1} ms, {:.2} x its run \
             (goal 2)",
            rate / best.0,
            rate * run / BARE[same] as f64,
            BARE[same],
            p99 * 1e3,
            p99 / run
        );
    }
}
