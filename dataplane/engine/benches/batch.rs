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
    Some(BatchOptions { rows_max: 16, delay, preferred, elements_max })
}

/// Medians of rounds that take turns.
fn compare(benches: &mut [Bench], rounds: usize, requests: u32) -> Vec<f64> {
    let mut all = vec![Vec::new(); benches.len()];
    for _ in 0..rounds {
        for (bench, times) in benches.iter_mut().zip(&mut all) {
            times.push(bench.run(requests));
        }
    }
    all.into_iter().map(median).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let measured = std::env::args().any(|argument| argument == "--bench");
    let (rounds, requests) = if measured { (100, 2_000) } else { (2, 20) };
    let delays = [None, batches(Duration::ZERO), batches(Duration::from_micros(200))];
    let free = || Model::new(Duration::ZERO, Duration::ZERO);
    let mut alone: Vec<Bench> =
        delays.iter().map(|batch| Bench::new(free(), 1, batch.clone())).collect();
    let ns = compare(&mut alone, rounds, requests);
    drop(alone);
    println!(
        "a client alone, a model that takes no time: {:.0} ns without batching, {:+.0} ns with it, \
         {:+.0} ns with a delay of 200 us (medians of {rounds} rounds of {requests})",
        ns[0],
        ns[1] - ns[0],
        ns[2] - ns[0]
    );
    let (run, row) = (Duration::from_micros(200), Duration::from_micros(20));
    let (rounds, requests) = if measured { (20, 1_000) } else { (2, 32) };
    let mut many: Vec<Bench> =
        delays.iter().map(|batch| Bench::new(Model::new(run, row), 16, batch.clone())).collect();
    let ns = compare(&mut many, rounds, requests);
    println!(
        "16 clients, a model of {run:?} a run and {row:?} a row: {:.0} requests a second without \
         batching, {:.2} times as many with it, {:.2} with a delay of 200 us (at best {:.2}; medians \
         of {rounds} rounds of {requests})",
        1e9 / ns[0],
        ns[0] / ns[1],
        ns[0] / ns[2],
        (run + row).as_secs_f64() / (run / 16 + row).as_secs_f64()
    );
}
