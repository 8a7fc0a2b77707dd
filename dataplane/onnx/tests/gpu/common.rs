//! Models on the device, and slots of every placement.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use ::half::f16;
use ferry_core::{
    BoundSignature, BoundTensor, Generation, MemoryChoice, Request, RequestKind, SessionId,
    SlotLayout,
};
use ferry_cuda::{Device, DeviceBacking, PinnedBacking};
use ferry_engine::{Engine, Finished, Job};
use ferry_memory::{Arrival, HeapBacking, PeerAccess, PeerId, Region, SlotTable};
use ferry_onnx::{CudaModel, CudaOptions, Search};
use ferry_vision::Numbers;
use ferry_zoo::Precision;

pub(crate) fn search() -> Search {
    let path = std::env::var_os("FERRY_ONNXRUNTIME");
    let path = path.expect("FERRY_ONNXRUNTIME names a libonnxruntime.so with its CUDA provider");
    Search { explicit: Some(PathBuf::from(path)), candidates: Vec::new() }
}

pub(crate) fn device() -> Arc<Device> {
    Device::open(0).unwrap_or_else(|error| panic!("a GPU was asked for: {error}"))
}

pub(crate) fn model(path: &Path, options: CudaOptions) -> Arc<CudaModel> {
    let opened = CudaModel::open(path, &search(), options);
    Arc::new(opened.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

pub(crate) fn zoo(directory: &Path, name: &str) -> PathBuf {
    ferry_zoo::write(name, directory, 1, &mut |_| {}).unwrap().model
}

/// Writes a model of the zoo in another precision.
pub(crate) fn zoo_in(precision: Precision, directory: &Path, name: &str) -> PathBuf {
    ferry_zoo::write_in(precision, name, directory, 1, &mut |_| {}).unwrap().model
}

/// Numbers from -1 to 1 that look like noise, the same for the same seed.
pub(crate) fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
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

/// Values as an input of these numbers has them.
pub(crate) fn stored(values: &[f32], numbers: Numbers) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * numbers.bytes()];
    numbers.store(values, &mut bytes);
    bytes
}

/// The values of each output in a reply.
pub(crate) fn outputs(binding: &BoundSignature, reply: &[u8]) -> Vec<Vec<f32>> {
    let part = |tensor: &BoundTensor| {
        let at = usize::try_from(tensor.offset).unwrap();
        let bytes = &reply[at..at + usize::try_from(tensor.bytes).unwrap()];
        match Numbers::of(tensor.dtype).unwrap() {
            Numbers::F32 => floats_of(bytes),
            Numbers::F16 => {
                bytes.as_chunks().0.iter().map(|two| f16::from_le_bytes(*two).to_f32()).collect()
            }
        }
    };
    binding.outputs.iter().map(part).collect()
}

/// Where a test's slots are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Pageable,
    Pinned,
    Device,
}

pub(crate) const EVERYWHERE: [At; 3] = [At::Pageable, At::Pinned, At::Device];

pub(crate) fn table(binding: &BoundSignature, at: At, slots: u32) -> Arc<SlotTable> {
    table_of(binding.request_bytes(), binding.reply_bytes(), at, slots)
}

pub(crate) fn table_of(request_bytes: u64, reply_bytes: u64, at: At, slots: u32) -> Arc<SlotTable> {
    let layout = SlotLayout { slots, request_bytes, reply_bytes };
    let bytes = SlotTable::bytes(&layout).unwrap();
    let heap = || Region::whole(HeapBacking::new(bytes).unwrap());
    let region = match at {
        At::Pageable => heap(),
        At::Pinned => Region::whole(PinnedBacking::new(&device(), heap()).unwrap()),
        At::Device => Region::whole(DeviceBacking::new(&device(), bytes).unwrap()),
    };
    // As if a peer could write: nothing may be borrowed.
    SlotTable::over(layout, PeerAccess::Writes, region).unwrap()
}

pub(crate) fn job(
    table: &Arc<SlotTable>,
    binding: &Arc<BoundSignature>,
    request: &[u8],
    session: u64,
    priority: u8,
) -> Job {
    let mut slot = table.acquire().unwrap();
    slot.request_mut().copy_in(0, request).unwrap();
    again(slot, binding, request.len(), session, priority)
}

/// A request of what lies in the slot already.
pub(crate) fn again(
    slot: ferry_memory::Slot,
    binding: &Arc<BoundSignature>,
    payload_bytes: usize,
    session: u64,
    priority: u8,
) -> Job {
    let now = Instant::now();
    let arrival = Arrival {
        peer: PeerId(session),
        session: SessionId(session),
        generation: Generation::FIRST,
        request: session,
        what: Request { priority, ..Request::of(RequestKind::Tensor) },
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

pub(crate) fn finish(engine: &mut dyn Engine, job: Job) -> Finished {
    let mut finished: Vec<Finished> = engine.submit(job).into_iter().collect();
    while finished.is_empty() {
        engine.poll(&mut finished);
    }
    finished.remove(0)
}

pub(crate) fn reply(finished: &Finished) -> Vec<u8> {
    assert!(finished.outcome.is_ok(), "the job failed: {:?}", finished.outcome);
    let bytes = usize::try_from(finished.job.binding.reply_bytes()).unwrap();
    let mut reply = vec![0; bytes];
    finished.job.arrival.slot.reply().copy_out(0, &mut reply).unwrap();
    reply
}

pub(crate) fn relative_error(is: &[f32], reference: &[f32]) -> f64 {
    assert_eq!(is.len(), reference.len());
    let square = |x: f64| x * x;
    let pairs = is.iter().zip(reference);
    let wrong: f64 = pairs.map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let all: f64 = reference.iter().map(|b| square(f64::from(*b))).sum();
    (wrong / all).sqrt()
}
