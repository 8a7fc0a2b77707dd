//! What batching costs a request that is alone, and what it brings where a batch is cheaper than its
//! requests: `cargo bench -p ferry-engine --bench batch`. Without `--bench` it makes a few rounds
//! only, to show that it runs.
#![expect(clippy::print_stdout, reason = "a benchmark's output")]

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use ferry_core::{
    BoundSignature, DType, Dim, Generation, MemoryChoice, Request, RequestKind, SessionId,
    Signature, SlotLayout, Stage, StageTimes, Status, TensorSpec, WaitPolicy,
};
use ferry_engine::{BatchOptions, Engine, Finished, Job, Pool, PoolOptions, Work};
use ferry_memory::{Arrival, Departure, PeerId, ReplyTo, Slot, SlotTable};

/// Bytes of a row, in and out.
const ROW: u64 = 4_000;

/// A model that takes `run` for a run and `row` for each row of it.
struct Model {
    signature: Signature,
    run: Duration,
    row: Duration,
}

impl Model {
    fn new(run: Duration, row: Duration) -> Model {
        let spec = |name: &str| TensorSpec {
            name: name.to_owned(),
            dtype: DType::U8,
            shape: vec![Dim::Named("n".to_owned()), Dim::Fixed(ROW)],
        };
        Model {
            signature: Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] },
            run,
            row,
        }
    }
}

impl Engine for Model {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn depth(&self) -> usize {
        1
    }

    fn submit(&mut self, job: Job) -> Option<Finished> {
        let start = job.arrival.since();
        let rows = job.binding.inputs.first().and_then(|it| it.shape.first()).copied();
        let rows = u32::try_from(rows.unwrap_or(1)).unwrap_or(1);
        while start.elapsed() < self.run + self.row * rows {
            std::hint::spin_loop();
        }
        let mut times = StageTimes::NONE;
        times.set(Stage::Infer, u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        Some(Finished { job, outcome: Ok(times) })
    }

    fn poll(&mut self, _finished: &mut Vec<Finished>) {}
}

#[derive(Debug)]
struct Back(SyncSender<Departure>);

impl ReplyTo for Back {
    fn depart(&self, departure: Departure) {
        drop(self.0.send(departure));
    }
}

/// A pool, and clients that send their next request when they have the reply to the last.
struct Bench {
    pool: Pool,
    binding: Arc<BoundSignature>,
    slots: Vec<Option<Slot>>,
    reply_to: Arc<dyn ReplyTo>,
    replies: Receiver<Departure>,
}

impl Bench {
    fn new(model: Model, clients: u32, batch: Option<BatchOptions>) -> Bench {
        let shapes = [("x".to_owned(), vec![1, ROW])];
        let binding = Arc::new(model.signature.bind(&shapes).expect("binds"));
        let options = PoolOptions { batch, wait: WaitPolicy::Spin, ..PoolOptions::default() };
        let pool = Pool::start("model", vec![Box::new(model)], options).expect("starts");
        let layout = SlotLayout { slots: clients, request_bytes: ROW, reply_bytes: ROW };
        let table = SlotTable::private(layout).expect("memory");
        let slots = (0..clients).map(|_| table.acquire()).collect();
        // Each client has one request in flight.
        let (sender, replies) = sync_channel(clients as usize);
        Bench { pool, binding, slots, reply_to: Arc::new(Back(sender)), replies }
    }

    fn send(&mut self, client: usize) {
        let slot = self.slots[client].take().expect("the last reply gave it back");
        let seen = Instant::now();
        let arrival = Arrival {
            peer: PeerId(1),
            session: SessionId(client as u64),
            generation: Generation::FIRST,
            request: 1,
            what: Request::of(RequestKind::Tensor),
            payload_bytes: slot.request().bytes(),
            slot,
            seen,
            visible: seen,
        };
        let (binding, reply_to) = (Arc::clone(&self.binding), Arc::clone(&self.reply_to));
        let memory = MemoryChoice::Auto;
        let work = Work { arrival, binding, memory, reply_to, deadline: None };
        assert!(self.pool.dispatch(work).is_none(), "the queue has room");
    }

    /// Whose reply came.
    fn receive(&mut self) -> usize {
        let reply = loop {
            // Polls, as the worker does: no thread is woken in what is measured.
            if let Ok(reply) = self.replies.try_recv() {
                break reply;
            }
            std::hint::spin_loop();
        };
        assert_eq!(reply.status, Status::Ok);
        let client = usize::try_from(reply.session.0).expect("a small number");
        self.slots[client] = Some(reply.slot);
        client
    }

    /// How long `requests` take, in nanoseconds each.
    fn run(&mut self, requests: u32) -> f64 {
        let clients = self.slots.len();
        let start = Instant::now();
        (0..clients).for_each(|client| self.send(client));
        for sent in clients..clients + requests as usize {
            let client = self.receive();
            if sent < requests as usize {
                self.send(client);
            }
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(requests)
    }
}

fn batches(delay: Duration) -> Option<BatchOptions> {
    let (preferred, elements_max) = (Vec::new(), u64::MAX);
    Some(BatchOptions { rows_max: 32, delay, preferred, elements_max })
}

/// What each of the ways takes, in nanoseconds a request; a round is one of each, in turn. Each has a
/// pool of its own that ends with it: a worker that waits polls, and would take the core from the
/// next one.
fn compare(ways: &[Way], rounds: usize, requests: u32) -> Vec<Vec<f64>> {
    let measure = |way: &Way| {
        let mut bench = Bench::new(Model::new(way.run, way.row), way.clients, way.batch.clone());
        bench.run(requests / 10 + 1);
        bench.run(requests)
    };
    (0..rounds).map(|_| ways.iter().map(measure).collect()).collect()
}

/// A model, its clients, and how it is batched.
struct Way {
    run: Duration,
    row: Duration,
    clients: u32,
    batch: Option<BatchOptions>,
}

/// Quartiles.
fn quartiles(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}

fn main() {
    let measured = std::env::args().any(|argument| argument == "--bench");
    let delays = || [None, batches(Duration::ZERO), batches(Duration::from_micros(200))];
    let names = ["with it", "with a delay of 200 us"];
    let (rounds, requests) = if measured { (100, 2_000) } else { (2, 20) };
    let free = Duration::ZERO;
    let alone = delays().map(|batch| Way { run: free, row: free, clients: 1, batch });
    let ns = compare(&alone, rounds, requests);
    let [_, without, _] = quartiles(ns.iter().map(|round| round[0]));
    println!(
        "a client alone, a model that takes no time: {without:.0} ns without batching; what it adds \
         (medians and quartiles of {rounds} rounds of {requests}; the goal is 2000 ns at most):"
    );
    for (at, name) in (1..).zip(names) {
        let [low, more, high] = quartiles(ns.iter().map(|round| round[at] - round[0]));
        println!("  {name}: {more:+.0} ns ({low:+.0} to {high:+.0})");
    }
    let (run, row) = (Duration::from_micros(200), Duration::from_micros(20));
    let (rounds, requests) = if measured { (20, 1_000) } else { (2, 32) };
    let many = delays().map(|batch| Way { run, row, clients: 16, batch });
    let ns = compare(&many, rounds, requests);
    let [_, without, _] = quartiles(ns.iter().map(|round| round[0]));
    let best = (run + row).as_secs_f64() / (run / 16 + row).as_secs_f64();
    println!(
        "16 clients, a model of {run:?} a run and {row:?} a row: {:.0} requests a second without \
         batching; how many times as many ({rounds} rounds of {requests}; at best {best:.2}):",
        1e9 / without
    );
    for (at, name) in (1..).zip(names) {
        let [low, times, high] = quartiles(ns.iter().map(|round| round[0] / round[at]));
        println!("  {name}: {times:.2} ({low:.2} to {high:.2})");
    }
}
