//! Engines, and slots to run them in.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use ::half::f16;
use ferry_core::{
    BoundSignature, Generation, MemoryChoice, Request, RequestKind, SessionId, SlotLayout,
    StageTimes,
};
use ferry_engine::{Engine, EngineError, Finished, Job};
use ferry_memory::{Arrival, HeapBacking, PeerAccess, PeerId, Region, SlotTable};
use ferry_onnx::{EngineChoice, Model, Options, Probe, Search, open, probe};
use ferry_zoo::Precision;

/// Both libraries.
pub(crate) const BOTH: [EngineChoice; 2] = [EngineChoice::Ort, EngineChoice::Tract];

/// Where `fetch-onnxruntime` puts the library.
pub(crate) fn search() -> Search {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let path = Path::new(root).join(".cache/onnxruntime/1.30.0/libonnxruntime.so");
    Search { explicit: Some(path), candidates: Vec::new() }
}

pub(crate) fn options() -> Options {
    if let Probe::Missing { why, fix } = probe(&search()) {
        panic!("this test needs ONNX Runtime: {why}: {fix}");
    }
    Options { threads: 1, library: search() }
}

pub(crate) fn model(choice: EngineChoice, path: &Path) -> Model {
    open(choice, path, &options()).unwrap_or_else(|error| panic!("{choice:?}: {error}"))
}

/// Writes a model of the zoo.
pub(crate) fn zoo(directory: &Path, name: &str) -> PathBuf {
    ferry_zoo::write(name, directory, 1, &mut |_| {}).unwrap().model
}

/// Writes a model of the zoo in another precision.
pub(crate) fn zoo_in(precision: Precision, directory: &Path, name: &str) -> PathBuf {
    ferry_zoo::write_in(precision, name, directory, 1, &mut |_| {}).unwrap().model
}

/// Numbers from -1 to 1 that look like noise, the same each time.
pub(crate) fn noise(count: usize) -> Vec<f32> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(state >> 16).unwrap()) / 32_768.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

pub(crate) fn bytes_of(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

pub(crate) fn floats_of(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}

/// The values of 16-bit floats.
pub(crate) fn halves_of(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|two| f16::from_le_bytes(*two).to_f32()).collect()
}

/// Slots for the shapes of a session.
pub(crate) fn table(binding: &BoundSignature, peer: PeerAccess, slots: u32) -> Arc<SlotTable> {
    let layout = SlotLayout {
        slots,
        request_bytes: binding.request_bytes(),
        reply_bytes: binding.reply_bytes(),
    };
    let bytes = SlotTable::bytes(&layout).unwrap();
    let region = Region::whole(HeapBacking::new(bytes).unwrap());
    SlotTable::over(layout, peer, region).unwrap()
}

/// A `tensor` request in a free slot.
pub(crate) fn job(table: &Arc<SlotTable>, binding: &Arc<BoundSignature>, request: &[u8]) -> Job {
    let mut slot = table.acquire().unwrap();
    slot.request_mut().copy_in(0, request).unwrap();
    let now = Instant::now();
    let arrival = Arrival {
        peer: PeerId(1),
        session: SessionId(1),
        generation: Generation::FIRST,
        request: 1,
        what: Request::of(RequestKind::Tensor),
        payload_bytes: request.len(),
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

/// Runs a job to its end; the reply's payload and the stages.
pub(crate) fn finish(
    engine: &mut dyn Engine,
    job: Job,
) -> Result<(Vec<u8>, StageTimes), EngineError> {
    let Finished { job, outcome } = engine.submit(job).expect("done when submit returns");
    let times = outcome?;
    let mut reply = vec![0; usize::try_from(job.binding.reply_bytes()).unwrap()];
    job.arrival.slot.reply().copy_out(0, &mut reply).unwrap();
    Ok((reply, times))
}

/// Runs one request in slots of its own.
pub(crate) fn run(
    engine: &mut dyn Engine,
    binding: &Arc<BoundSignature>,
    peer: PeerAccess,
    request: &[u8],
) -> Result<(Vec<u8>, StageTimes), EngineError> {
    finish(engine, job(&table(binding, peer, 1), binding, request))
}

/// The largest difference, relative to the largest number.
pub(crate) fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = a.iter().fold(f32::MIN_POSITIVE, |largest, it| largest.max(it.abs()));
    let apart = a.iter().zip(b).map(|(a, b)| {
        assert!(a.is_finite() && b.is_finite(), "{a} {b}");
        (a - b).abs()
    });
    apart.fold(0.0, f32::max) / largest
}
