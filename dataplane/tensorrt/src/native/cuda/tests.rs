//! The order of work on real streams, with a copy in the model's place: on any GPU, those that
//! TensorRT does not run on too.

use std::time::Instant;

use ferry_conformance::engine::{self as promises, EngineUnderTest};
use ferry_core::{
    DType, Dim, Generation, HostMemory, MemoryChoice, Request, RequestKind, SessionId, Signature,
    SlotLayout, Stage, Staged, TensorSpec, Why,
};
use ferry_engine::{Engine, Job};
use ferry_memory::{Arrival, PeerAccess, PeerId, SlotTable};
use libloading::Library;

use super::*;
use crate::engine::Lanes;
use crate::native::execution::Execution;

type CopyAsync = unsafe extern "C" fn(u64, u64, usize, *mut c_void) -> i32;

/// `y = x`, by the driver's own copy.
#[derive(Debug)]
struct Copy {
    driver: Library,
    bytes: usize,
    from: u64,
    to: u64,
}

impl Copy {
    fn new() -> Copy {
        // SAFETY: the driver's library, which the device has opened already.
        let driver = unsafe { Library::new("libcuda.so.1") }.unwrap();
        Copy { driver, bytes: 0, from: 0, to: 0 }
    }
}

impl Execution for Copy {
    fn set_shape(&mut self, _input: &str, shape: &[u64]) -> Result<(), String> {
        self.bytes = usize::try_from(shape.iter().product::<u64>()).unwrap() * 4;
        Ok(())
    }

    unsafe fn bind(&mut self, tensor: &str, address: u64) -> Result<(), String> {
        assert!(address.is_multiple_of(256), "{tensor} at {address:x}");
        if tensor == "x" {
            self.from = address
        } else {
            self.to = address
        }
        Ok(())
    }

    unsafe fn enqueue(&mut self, stream: *mut c_void) -> Result<(), String> {
        // SAFETY: declared so in cuda.h.
        let copy = unsafe { self.driver.get::<CopyAsync>("cuMemcpyAsync") }.unwrap();
        // SAFETY: both were bound as long as the shape, and stay; the stream is the lane's.
        match unsafe { copy(self.to, self.from, self.bytes, stream) } {
            0 => Ok(()),
            error => Err(format!("cuMemcpyAsync gives {error}")),
        }
    }
}

fn gpu() -> Arc<CudaGpu> {
    let device = Device::open(0).expect("this test needs a GPU");
    let capability = Capability::from(device.attributes().capability);
    Arc::new(CudaGpu { device, capability })
}

fn signature() -> Signature {
    let shape = vec![Dim::Named("n".to_owned())];
    let spec =
        |name: &str| TensorSpec { name: name.to_owned(), dtype: DType::F32, shape: shape.clone() };
    Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] }
}

fn lanes(gpu: &Arc<CudaGpu>, contexts: usize) -> Lanes<CudaGpu, Copy> {
    let executions = std::iter::repeat_with(Copy::new).take(contexts).collect();
    Lanes::new(gpu, signature(), [].into(), true, executions).unwrap()
}

#[test]
#[ignore = "needs a GPU of any kind: ./test gpu runs it"]
fn on_a_gpu_an_engine_keeps_its_promises() {
    let gpu = gpu();
    for contexts in [1, 4] {
        let make = || EngineUnderTest {
            engine: Box::new(lanes(&gpu, contexts)),
            binding: Arc::new(signature().bind(&[("x".to_owned(), vec![5])]).unwrap()),
            request: (0..20).collect(),
        };
        promises::the_signature_is_well_formed(&make);
        promises::the_same_input_gives_the_same_output(&make);
        promises::every_job_comes_back_once(&make);
        promises::depth_many_jobs_are_in_flight(&make);
        promises::a_payload_of_the_wrong_length_is_an_error(&make);
        promises::a_failed_job_comes_back_whole(&make);
        promises::an_interrupted_engine_fails_until_it_is_resumed(&make);
    }
}

/// What one request was staged as, and whether something was copied in; its answer was checked.
fn run(gpu: &Arc<CudaGpu>, region: impl FnOnce(usize) -> Region) -> (Option<Staged>, bool) {
    let n = 1 << 16;
    let binding = Arc::new(signature().bind(&[("x".to_owned(), vec![n])]).unwrap());
    let layout = SlotLayout {
        slots: 1,
        request_bytes: binding.request_bytes(),
        reply_bytes: binding.reply_bytes(),
    };
    let region = region(SlotTable::bytes(&layout).unwrap());
    let table = SlotTable::over(layout, PeerAccess::Writes, region).unwrap();
    let mut slot = table.acquire().unwrap();
    let bytes: Vec<u8> =
        (0..usize::try_from(n * 4).unwrap()).map(|it| it.to_le_bytes()[0]).collect();
    slot.request_mut().copy_in(0, &bytes).unwrap();
    let now = Instant::now();
    let arrival = Arrival {
        peer: PeerId(1),
        session: SessionId(1),
        generation: Generation::FIRST,
        request: 1,
        what: Request::of(RequestKind::Tensor),
        payload_bytes: bytes.len(),
        slot,
        seen: now,
        visible: now,
    };
    let memory = MemoryChoice::Auto;
    let job = Job {
        arrival: arrival.into(),
        binding,
        prepared: None,
        placed: None,
        memory,
        members: Vec::new(),
    };
    let mut engine = lanes(gpu, 1);
    assert!(engine.submit(job).is_none(), "in flight");
    let mut finished = Vec::new();
    while finished.is_empty() {
        engine.poll(&mut finished);
    }
    let done = finished.pop().unwrap();
    let times = done.outcome.unwrap();
    assert!(times.of(Stage::Infer).unwrap() > 0);
    let mut reply = vec![0; bytes.len()];
    done.job.output(0).unwrap().copy_out(0, &mut reply).unwrap();
    assert!(reply == bytes, "another answer");
    (times.staged(), times.of(Stage::CopyIn).is_some())
}

#[test]
#[ignore = "needs a GPU of any kind: ./test gpu runs it"]
fn on_a_gpu_tensors_are_copied_where_they_must_be() {
    let gpu = gpu();
    let staged = |memory, why| Some(Staged { memory, why });
    let heap = |bytes| Region::whole(HeapBacking::new(bytes).unwrap());
    let unregistered = staged(HostMemory::Pinned, Why::Unregistered);
    assert_eq!(run(&gpu, heap), (unregistered, true));
    let pinned = run(&gpu, |bytes| gpu.pinned(bytes).unwrap());
    assert_eq!(pinned, (staged(HostMemory::Pinned, Why::Only), true));
    assert_eq!(run(&gpu, |bytes| gpu.memory(bytes).unwrap()), (None, false));
}
