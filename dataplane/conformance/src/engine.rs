//! What every [`Engine`] promises.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{
    BoundSignature, BoundTensor, Dim, Generation, MemoryChoice, Request, RequestKind, SessionId,
    SlotIndex, SlotLayout, Stage, TensorSpec,
};
use ferry_engine::{Engine, Finished, Job};
use ferry_memory::{Arrival, PeerId, Slot, SlotTable};

/// No job takes longer unless something hangs.
const WATCHDOG: Duration = Duration::from_secs(60);

/// An engine and a request that it answers.
pub struct EngineUnderTest {
    /// Loaded, with nothing in flight.
    pub engine: Box<dyn Engine>,
    /// Shapes that it can run.
    pub binding: Arc<BoundSignature>,
    /// The payload of a `tensor` request of these shapes.
    pub request: Vec<u8>,
}

impl std::fmt::Debug for EngineUnderTest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineUnderTest").field("binding", &self.binding).finish_non_exhaustive()
    }
}

/// Loads an engine.
pub type Make<'a> = &'a dyn Fn() -> EngineUnderTest;

/// An engine with slots to run in.
struct Bench {
    under: EngineUnderTest,
    table: Arc<SlotTable>,
}

impl Bench {
    fn new(make: Make<'_>) -> Bench {
        let under = make();
        let depth = u32::try_from(under.engine.depth()).unwrap_or(u32::MAX);
        let layout = SlotLayout {
            slots: depth.clamp(1, 64),
            request_bytes: under.binding.request_bytes(),
            reply_bytes: under.binding.reply_bytes(),
        };
        let table = SlotTable::private(layout);
        let table = table.unwrap_or_else(|error| panic!("slots for the signature: {error}"));
        Bench { under, table }
    }

    /// A request of the first `payload_bytes` bytes of the payload.
    fn job(&self, request: u64, payload_bytes: usize) -> Job {
        let mut slot = self.table.acquire().expect("a slot is free");
        let filled = slot.request_mut().copy_in(0, &self.under.request);
        assert!(filled.is_ok(), "the request is as long as its signature says: {filled:?}");
        job_in(slot, &self.under.binding, request, payload_bytes)
    }

    fn whole(&self, request: u64) -> Job {
        self.job(request, self.under.request.len())
    }

    fn collect(&mut self, finished: &mut Vec<Finished>, count: usize) {
        collect(&mut *self.under.engine, finished, count);
    }

    fn run(&mut self, job: Job) -> Finished {
        finish(&mut *self.under.engine, job)
    }
}

/// Polls until `count` jobs are there.
fn collect(engine: &mut dyn Engine, finished: &mut Vec<Finished>, count: usize) {
    let start = Instant::now();
    while finished.len() < count {
        engine.poll(finished);
        assert!(start.elapsed() < WATCHDOG, "{} of {count} jobs came back", finished.len());
        std::thread::yield_now();
    }
}

/// Runs one job to its end.
pub(crate) fn finish(engine: &mut dyn Engine, job: Job) -> Finished {
    let mut finished: Vec<Finished> = engine.submit(job).into_iter().collect();
    collect(engine, &mut finished, 1);
    assert_eq!(finished.len(), 1, "one job came back as several");
    finished.remove(0)
}

/// A `tensor` request number `request` of the first `payload_bytes` bytes in its slot.
pub(crate) fn job_in(
    slot: Slot,
    binding: &Arc<BoundSignature>,
    request: u64,
    payload_bytes: usize,
) -> Job {
    let now = Instant::now();
    let arrival = Arrival {
        peer: PeerId(1),
        session: SessionId(1),
        generation: Generation::FIRST,
        request,
        what: Request::of(RequestKind::Tensor),
        payload_bytes,
        slot,
        seen: now,
        visible: now,
    };
    Job {
        arrival: arrival.into(),
        binding: Arc::clone(binding),
        prepared: None,
        placed: None,
        members: Vec::new(),
        memory: MemoryChoice::Auto,
    }
}

fn outputs(finished: &Finished) -> Vec<u8> {
    assert!(finished.outcome.is_ok(), "the job failed: {:?}", finished.outcome);
    let mut all = Vec::new();
    for (index, tensor) in finished.job.binding.outputs.iter().enumerate() {
        let view = finished.job.output(index);
        let view = view.unwrap_or_else(|error| panic!("output {index}: {error}"));
        let mut bytes = vec![0; view.bytes()];
        assert_eq!(bytes.len() as u64, tensor.bytes);
        view.copy_out(0, &mut bytes).unwrap_or_else(|error| panic!("output {index}: {error}"));
        all.extend(bytes);
    }
    all
}

fn assert_bound(specs: &[TensorSpec], bound: &[BoundTensor]) {
    assert_eq!(specs.len(), bound.len(), "the binding has other tensors than the signature");
    let mut names = HashSet::new();
    for (spec, bound) in specs.iter().zip(bound) {
        assert!(!spec.name.is_empty() && names.insert(&spec.name), "name {:?}", spec.name);
        assert_eq!((&spec.name, spec.dtype), (&bound.name, bound.dtype));
        assert_eq!(spec.shape.len(), bound.shape.len(), "rank of {}", spec.name);
        for (dim, size) in spec.shape.iter().zip(&bound.shape) {
            assert!(!matches!(dim, Dim::Fixed(fixed) if fixed != size), "shape of {}", spec.name);
        }
    }
}

/// The signature has outputs, names are there once, the binding is one of it, the depth is at
/// least 1.
pub fn the_signature_is_well_formed(make: Make<'_>) {
    let EngineUnderTest { engine, binding, request } = make();
    assert!(engine.depth() >= 1, "a depth of 0 runs nothing");
    assert!(!engine.signature().outputs.is_empty(), "a model without outputs");
    assert_bound(&engine.signature().inputs, &binding.inputs);
    assert_bound(&engine.signature().outputs, &binding.outputs);
    assert_eq!(request.len() as u64, binding.request_bytes());
}

/// The same input gives the same bytes, and outputs do not depend on what the slot held before.
pub fn the_same_input_gives_the_same_output(make: Make<'_>) {
    let mut bench = Bench::new(make);
    let job = bench.whole(1);
    let first = outputs(&bench.run(job));
    for (request, filler) in (2..).zip([0x00, 0xFF, 0x55]) {
        let mut job = bench.whole(request);
        let dirty = vec![filler; job.arrival.slot.reply().bytes()];
        assert!(job.arrival.slot.reply_mut().copy_in(0, &dirty).is_ok());
        assert!(outputs(&bench.run(job)) == first, "run {request} gave other bytes");
    }
    let mut other = Bench::new(make);
    let job = other.whole(1);
    assert!(outputs(&other.run(job)) == first, "a second instance gave other bytes");
}

/// Each job comes back exactly once, from `submit` or from `poll`, and with its stages.
pub fn every_job_comes_back_once(make: Make<'_>) {
    let mut bench = Bench::new(make);
    for request in 0..20 {
        let job = bench.whole(request);
        let finished = bench.run(job);
        assert_eq!(finished.job.arrival.request, request);
        let times = finished.outcome.as_ref().copied();
        let times = times.unwrap_or_else(|error| panic!("the job failed: {error}"));
        assert!(times.of(Stage::Infer).is_some(), "the infer stage is timed");
        for stage in [Stage::Receive, Stage::Server, Stage::Total, Stage::Send, Stage::Reply] {
            assert_eq!(times.of(stage), None, "{} is not the engine's to time", stage.name());
        }
    }
    let mut finished = Vec::new();
    bench.under.engine.poll(&mut finished);
    assert!(finished.is_empty(), "a job came back twice");
}

/// As many jobs as the depth says are in flight together.
pub fn depth_many_jobs_are_in_flight(make: Make<'_>) {
    let mut bench = Bench::new(make);
    let depth = bench.under.engine.depth().min(64);
    let mut expected = None;
    for round in 0..5 {
        let mut finished = Vec::new();
        for i in 0..depth {
            let job = bench.whole((round * depth + i) as u64);
            finished.extend(bench.under.engine.submit(job));
        }
        bench.collect(&mut finished, depth);
        let numbers: HashSet<u64> = finished.iter().map(|it| it.job.arrival.request).collect();
        assert_eq!((numbers.len(), finished.len()), (depth, depth), "each comes back once");
        for finished in &finished {
            let bytes = outputs(finished);
            assert!(*expected.get_or_insert_with(|| bytes.clone()) == bytes, "outputs differ");
        }
    }
}

/// A payload that is not as long as the signature says is an error, and no panic.
pub fn a_payload_of_the_wrong_length_is_an_error(make: Make<'_>) {
    let mut bench = Bench::new(make);
    let right = bench.under.request.len();
    for wrong in [0, 1, right / 2, right.saturating_sub(1)] {
        if wrong == right {
            continue;
        }
        let job = bench.job(1, wrong);
        let finished = bench.run(job);
        assert!(finished.outcome.is_err(), "{wrong} bytes were taken for {right}");
    }
    let job = bench.whole(2);
    assert!(bench.run(job).outcome.is_ok(), "the engine serves on after an error");
}

/// A job that failed is given back as it was, with its slot.
pub fn a_failed_job_comes_back_whole(make: Make<'_>) {
    let mut bench = Bench::new(make);
    let job = bench.job(77, 0);
    let index: SlotIndex = job.arrival.slot.index();
    let finished = bench.run(job);
    assert!(finished.outcome.is_err(), "an empty payload was taken");
    let arrival = &finished.job.arrival;
    assert_eq!((arrival.request, arrival.payload_bytes), (77, 0));
    assert_eq!((arrival.peer, arrival.session), (PeerId(1), SessionId(1)));
    assert!(arrival.slot.index() == index && Arc::ptr_eq(arrival.slot.table(), &bench.table));
    assert!(Arc::ptr_eq(&finished.job.binding, &bench.under.binding));
    drop(finished);
    assert_eq!(bench.table.free_slots(), bench.table.layout().slots, "a slot was kept");
}

/// An engine that can be interrupted fails while it is, and serves on when it is not any more.
pub fn an_interrupted_engine_fails_until_it_is_resumed(make: Make<'_>) {
    let mut bench = Bench::new(make);
    let Some(interrupt) = bench.under.engine.interrupt() else { return };
    for round in 0..3 {
        interrupt.interrupt();
        for request in 0..2 {
            let job = bench.whole(round * 10 + request);
            assert!(bench.run(job).outcome.is_err(), "it ran although it was interrupted");
        }
        interrupt.resume();
        let job = bench.whole(round * 10 + 9);
        outputs(&bench.run(job));
    }
}
