//! The order of work, on a device that is none.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use ferry_conformance::engine::{self as promises, EngineUnderTest};
use ferry_core::{
    DType, Generation, HostMemory, MemoryChoice, Request, RequestKind, SessionId, SlotLayout,
    Stage, Staged, TensorSpec, Why,
};
use ferry_memory::{Arrival, HeapBacking, PeerAccess, PeerId, Region, SlotTable};

use super::*;
use crate::native::fake::{Fake, FakeBacking, FakeExecution, Place};

fn signature(dtype: DType) -> Signature {
    let shape = vec![Dim::Named("n".to_owned())];
    let spec = |name: &str| TensorSpec { name: name.to_owned(), dtype, shape: shape.clone() };
    Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] }
}

fn binding(dtype: DType, n: u64) -> Arc<BoundSignature> {
    Arc::new(signature(dtype).bind(&[("x".to_owned(), vec![n])]).unwrap())
}

/// An engine of `contexts` contexts, and how often their shapes were set.
fn lanes(
    gpu: &Arc<Fake>,
    dtype: DType,
    contexts: usize,
) -> (Lanes<Fake, FakeExecution>, Arc<AtomicUsize>) {
    lanes_of(gpu, dtype, true, contexts)
}

fn lanes_of(
    gpu: &Arc<Fake>,
    dtype: DType,
    floats_are_plain: bool,
    contexts: usize,
) -> (Lanes<Fake, FakeExecution>, Arc<AtomicUsize>) {
    let set = Arc::new(AtomicUsize::new(0));
    let executions = std::iter::repeat_with(|| FakeExecution::new(&set));
    let ranges = [("n".to_owned(), DimRange { min: 1, typical: 1, max: 8 })].into();
    let executions = executions.take(contexts).collect();
    let signature = signature(dtype);
    (Lanes::new(gpu, signature, ranges, floats_are_plain, executions).unwrap(), set)
}

fn keeps_the_promises(contexts: usize) {
    let make = || {
        let (engine, _) = lanes(&Fake::new(), DType::F32, contexts);
        let request = (0..20).collect();
        EngineUnderTest { engine: Box::new(engine), binding: binding(DType::F32, 5), request }
    };
    promises::the_signature_is_well_formed(&make);
    promises::the_same_input_gives_the_same_output(&make);
    promises::every_job_comes_back_once(&make);
    promises::depth_many_jobs_are_in_flight(&make);
    promises::a_payload_of_the_wrong_length_is_an_error(&make);
    promises::a_failed_job_comes_back_whole(&make);
    promises::an_interrupted_engine_fails_until_it_is_resumed(&make);
}

#[test]
fn what_every_engine_promises() {
    for contexts in [1, 4] {
        keeps_the_promises(contexts);
    }
}

/// Slots in memory that the device finds, or, without a place, in memory that nobody registered.
fn slots(binding: &BoundSignature, place: Option<Place>) -> Arc<SlotTable> {
    let layout = SlotLayout {
        slots: 2,
        request_bytes: binding.request_bytes(),
        reply_bytes: binding.reply_bytes(),
    };
    let bytes = SlotTable::bytes(&layout).unwrap();
    let region = match place {
        Some(place) => FakeBacking::region(bytes, place).unwrap(),
        None => Region::whole(HeapBacking::new(bytes).unwrap()),
    };
    SlotTable::over(layout, PeerAccess::Writes, region).unwrap()
}

fn job(table: &Arc<SlotTable>, binding: &Arc<BoundSignature>, fill: u8) -> Job {
    let mut slot = table.acquire().unwrap();
    let bytes = usize::try_from(binding.request_bytes()).unwrap();
    slot.request_mut().copy_in(0, &vec![fill; bytes]).unwrap();
    let now = Instant::now();
    let arrival = Arrival {
        peer: PeerId(1),
        session: SessionId(1),
        generation: Generation::FIRST,
        request: u64::from(fill),
        what: Request::of(RequestKind::Tensor),
        payload_bytes: bytes,
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

fn finish(engine: &mut dyn Engine) -> Finished {
    let mut finished = Vec::new();
    for _ in 0..100 {
        engine.poll(&mut finished);
        if let Some(done) = finished.pop() {
            return done;
        }
    }
    panic!("nothing came back");
}

/// The stages of a job, and how many copies it took, after its answer was checked.
fn run(dtype: DType, place: Option<Place>) -> ([bool; 5], usize) {
    run_with(dtype, true, place)
}

fn run_with(dtype: DType, floats_are_plain: bool, place: Option<Place>) -> ([bool; 5], usize) {
    let gpu = Fake::new();
    let (mut engine, _) = lanes_of(&gpu, dtype, floats_are_plain, 1);
    let binding = binding(dtype, 8);
    let table = slots(&binding, place);
    assert!(engine.submit(job(&table, &binding, 7)).is_none(), "in flight");
    let Finished { job, outcome } = finish(&mut engine);
    let times = outcome.unwrap();
    let mut reply = vec![0; usize::try_from(binding.reply_bytes()).unwrap()];
    job.arrival.slot.reply().copy_out(0, &mut reply).unwrap();
    assert!(reply.iter().all(|&byte| byte == 8), "{reply:?}");
    let stages =
        [Stage::CopyIn, Stage::Preprocess, Stage::Infer, Stage::Postprocess, Stage::CopyOut];
    (stages.map(|stage| times.of(stage).is_some()), gpu.copies.load(Ordering::Relaxed))
}

#[test]
fn tensors_are_copied_where_they_must_be() {
    // Memory of the host that nobody pinned: by way of pinned memory.
    assert_eq!(run(DType::F32, None), ([true, true, true, true, true], 2));
    // Pinned: by the device.
    assert_eq!(run(DType::F32, Some(Place::Pinned)), ([true, false, true, false, true], 2));
    // The device's own: floats where they lie.
    assert_eq!(run(DType::F32, Some(Place::Device)), ([false, false, true, false, false], 0));
    // Another device's: as the host's that nobody pinned.
    let other = run(DType::F32, Some(Place::OtherDevice));
    assert_eq!(other, ([true, true, true, true, true], 2));
    // Integers are copied: the peer may change them; so are floats that may become indices.
    let copied = ([true, false, true, false, true], 2);
    assert_eq!(run(DType::I32, Some(Place::Device)), copied);
    assert_eq!(run_with(DType::F32, false, Some(Place::Device)), copied);
}

/// What became of a request that wanted `memory`, from slots in `place`.
fn wanting(memory: MemoryChoice, place: Option<Place>) -> Result<Option<Staged>, String> {
    let (mut engine, _) = lanes(&Fake::new(), DType::F32, 1);
    let binding = binding(DType::F32, 8);
    let job = Job { memory, ..job(&slots(&binding, place), &binding, 7) };
    let finished = engine.submit(job).unwrap_or_else(|| finish(&mut engine));
    finished.outcome.map(|times| times.staged()).map_err(|error| error.to_string())
}

#[test]
fn what_host_memory_was_is_told_and_what_cannot_be_is_refused() {
    use HostMemory::{Mapped, Pageable, Pinned};
    let told = |memory, why| Ok(Some(Staged { memory, why }));
    let (auto, always) = (MemoryChoice::Auto, MemoryChoice::Always);
    assert_eq!(wanting(auto, None), told(Pinned, Why::Unregistered));
    assert_eq!(wanting(always(Pinned), None), told(Pinned, Why::Unregistered));
    assert_eq!(wanting(auto, Some(Place::Pinned)), told(Pinned, Why::Only));
    assert_eq!(wanting(always(Pinned), Some(Place::Pinned)), told(Pinned, Why::Asked));
    assert_eq!(wanting(always(Pageable), Some(Place::Pinned)), told(Pageable, Why::Asked));
    assert_eq!(wanting(auto, Some(Place::Device)), Ok(None));
    let refused = wanting(always(Mapped), Some(Place::Pinned)).unwrap_err();
    assert!(refused.contains("mapped") && refused.contains("pinned or auto"), "{refused}");
}

#[test]
fn shapes_are_set_when_they_change_and_refused_out_of_range() {
    let gpu = Fake::new();
    let (mut engine, set) = lanes(&gpu, DType::F32, 1);
    let once = |engine: &mut Lanes<_, _>, n| {
        // Another one each time: equal counts as much as the same.
        let binding = binding(DType::F32, n);
        let submitted = engine.submit(job(&slots(&binding, None), &binding, 1));
        submitted.unwrap_or_else(|| finish(engine)).outcome.map(drop)
    };
    for n in [3, 3, 8, 1, 1] {
        once(&mut engine, n).unwrap();
    }
    assert_eq!(set.load(Ordering::Relaxed), 3);
    let text = once(&mut engine, 9).unwrap_err().to_string();
    assert!(text.contains("\"n\" is 9") && text.contains("1 to 8"), "{text}");
    once(&mut engine, 1).unwrap();

    let foreign = binding(DType::I32, 3);
    let finished = engine.submit(job(&slots(&foreign, None), &foreign, 1)).unwrap();
    assert!(matches!(finished.outcome, Err(EngineError::Shapes(_))));
}

#[test]
fn one_job_too_many_comes_back() {
    let (mut engine, _) = lanes(&Fake::new(), DType::F32, 1);
    let binding = binding(DType::F32, 4);
    let table = slots(&binding, None);
    assert!(engine.submit(job(&table, &binding, 1)).is_none());
    let refused = engine.submit(job(&table, &binding, 2)).unwrap();
    assert!(matches!(refused.outcome, Err(EngineError::Run(_))));
    assert_eq!(refused.job.arrival.request, 2);
    assert_eq!(finish(&mut engine).job.arrival.request, 1);
}

#[test]
fn a_lost_device_gives_the_jobs_back() {
    let gpu = Fake::new();
    let (mut engine, _) = lanes(&gpu, DType::F32, 2);
    let binding = binding(DType::F32, 4);
    let table = slots(&binding, None);
    assert!(engine.submit(job(&table, &binding, 1)).is_none());
    gpu.lost.store(true, Ordering::Relaxed);
    let lost = finish(&mut engine);
    assert!(matches!(lost.outcome, Err(EngineError::Lost(_))));
    let refused = engine.submit(job(&table, &binding, 2)).unwrap();
    assert!(matches!(refused.outcome, Err(EngineError::Lost(_))));
}

/// The device writes into the slot until it is done: an engine that goes waits for it.
#[test]
fn an_engine_that_is_dropped_waits_for_the_device() {
    let gpu = Fake::new();
    let (mut engine, _) = lanes(&gpu, DType::F32, 2);
    let binding = binding(DType::F32, 4);
    let table = slots(&binding, Some(Place::Pinned));
    for fill in [1, 2] {
        assert!(engine.submit(job(&table, &binding, fill)).is_none());
    }
    assert_eq!(table.free_slots(), 0);
    drop(engine);
    assert_eq!(table.free_slots(), 2);
}
