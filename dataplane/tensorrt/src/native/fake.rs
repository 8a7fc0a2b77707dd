//! A device for tests: memory of the host, and streams that do one thing whenever they are asked
//! whether they are done. Everything that it is handed is read or written late, as a device does,
//! so that memory that went too early is found.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ferry_core::{Placement, RegionDescriptor};
use ferry_memory::{Backing, HeapBacking, MemoryError, Region, View};

use super::execution::Execution;
use super::gpu::{Gpu, GpuError};
use crate::options::Capability;

#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) capability: Capability,
    /// Whether all memory of the host counts as pinned.
    pub(crate) reaches_host: bool,
    /// Copies that were started.
    pub(crate) copies: AtomicUsize,
    /// From now on everything fails.
    pub(crate) lost: AtomicBool,
    pinned: Mutex<Vec<usize>>,
}

/// What a stream has to do.
#[derive(Debug)]
enum Step {
    Copy {
        to: usize,
        from: usize,
        bytes: usize,
    },
    Mark(Arc<AtomicBool>),
    /// Each byte of the output is the input's plus one.
    Run {
        to: usize,
        from: usize,
        bytes: usize,
    },
}

#[derive(Debug, Default)]
pub(crate) struct Queue(Mutex<VecDeque<Step>>);

#[derive(Debug)]
pub(crate) struct Event {
    passed: Mutex<Arc<AtomicBool>>,
    on: Mutex<Option<Arc<Queue>>>,
}

impl Queue {
    fn push(&self, step: Step) {
        self.0.lock().unwrap().push_back(step);
    }

    /// Does the first thing; false if there is none.
    fn step(&self) -> bool {
        let Some(step) = self.0.lock().unwrap().pop_front() else { return false };
        match step {
            // SAFETY: addresses of this device are the host's. What is under test promises that
            // they are valid until the stream is done: this is what the tests are for.
            Step::Copy { to, from, bytes } => unsafe {
                std::ptr::copy_nonoverlapping(
                    std::ptr::with_exposed_provenance::<u8>(from),
                    std::ptr::with_exposed_provenance_mut(to),
                    bytes,
                );
            },
            Step::Mark(passed) => passed.store(true, Ordering::Relaxed),
            Step::Run { to, from, bytes } => {
                let mut tensor = vec![0; bytes];
                let from = std::ptr::with_exposed_provenance::<u8>(from);
                // SAFETY: as for a copy.
                unsafe { std::ptr::copy_nonoverlapping(from, tensor.as_mut_ptr(), bytes) };
                tensor.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
                let to = std::ptr::with_exposed_provenance_mut::<u8>(to);
                // SAFETY: as for a copy.
                unsafe { std::ptr::copy_nonoverlapping(tensor.as_ptr(), to, bytes) };
            }
        }
        true
    }
}

impl Fake {
    pub(crate) fn new(reaches_host: bool) -> Arc<Fake> {
        Arc::new(Fake {
            capability: Capability { major: 8, minor: 9 },
            reaches_host,
            copies: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
            pinned: Mutex::default(),
        })
    }

    fn check(&self) -> Result<(), GpuError> {
        if self.lost.load(Ordering::Relaxed) { Err(GpuError("lost".into())) } else { Ok(()) }
    }
}

// SAFETY: a device of its own; streams run in order, and buffers are freed by who was handed them.
unsafe impl Gpu for Fake {
    type Stream = Arc<Queue>;
    type Event = Event;
    /// Twice as long as asked for, to begin at a multiple of 256.
    type Buffer = Vec<u8>;

    fn capability(&self) -> Capability {
        self.capability
    }

    fn bind(&self) -> Result<(), GpuError> {
        self.check()
    }

    fn stream(&self) -> Result<Arc<Queue>, GpuError> {
        self.check().map(|()| Arc::default())
    }

    fn raw_stream(&self, stream: &Arc<Queue>) -> *mut c_void {
        Arc::as_ptr(stream).cast_mut().cast()
    }

    fn wait(&self, stream: &Arc<Queue>) -> Result<(), GpuError> {
        if self.check().is_err() {
            stream.0.lock().unwrap().clear();
        }
        while stream.step() {}
        self.check()
    }

    fn event(&self) -> Result<Event, GpuError> {
        Ok(Event { passed: Mutex::default(), on: Mutex::default() })
    }

    fn record(&self, event: &Event, stream: &Arc<Queue>) -> Result<(), GpuError> {
        let passed = Arc::default();
        stream.push(Step::Mark(Arc::clone(&passed)));
        *event.passed.lock().unwrap() = passed;
        *event.on.lock().unwrap() = Some(Arc::clone(stream));
        self.check()
    }

    fn is_done(&self, event: &Event) -> Result<bool, GpuError> {
        self.check()?;
        if let Some(queue) = &*event.on.lock().unwrap() {
            queue.step();
        }
        Ok(event.passed.lock().unwrap().load(Ordering::Relaxed))
    }

    fn ns_between(&self, start: &Event, stop: &Event) -> Result<u64, GpuError> {
        let done = [start, stop].map(|it| it.passed.lock().unwrap().load(Ordering::Relaxed));
        assert_eq!(done, [true; 2], "asked before the device was there");
        Ok(1)
    }

    fn buffer(&self, bytes: usize) -> Result<Vec<u8>, GpuError> {
        self.check().map(|()| vec![0xEE; bytes + 256])
    }

    fn address(&self, buffer: &Vec<u8>) -> u64 {
        buffer.as_ptr().expose_provenance().next_multiple_of(256) as u64
    }

    fn pinned(&self, bytes: usize) -> Result<Region, GpuError> {
        let backing = HeapBacking::new(bytes).map_err(|error| GpuError(error.to_string()))?;
        let region = Region::whole(Arc::new(backing));
        let host = region.view().host().map_or(0, |it| it.as_ptr().expose_provenance());
        self.pinned.lock().unwrap().push(host);
        Ok(region)
    }

    fn reach(&self, view: &View<'_>) -> Option<u64> {
        let host = view.host()?.as_ptr().expose_provenance();
        let reached = self.reaches_host
            || matches!(view.placement(), Placement::Cuda(_))
            || self.pinned.lock().unwrap().contains(&host);
        reached.then_some(host as u64)
    }

    unsafe fn copy(
        &self,
        to: u64,
        from: u64,
        bytes: usize,
        stream: &Arc<Queue>,
    ) -> Result<(), GpuError> {
        self.copies.fetch_add(1, Ordering::Relaxed);
        let [to, from] = [to, from].map(|it| usize::try_from(it).unwrap());
        stream.push(Step::Copy { to, from, bytes });
        self.check()
    }
}

/// Takes one tensor and gives one of the same length.
#[derive(Debug, Default)]
pub(crate) struct FakeExecution {
    bytes: usize,
    input: usize,
    output: usize,
    set: Arc<AtomicUsize>,
}

impl FakeExecution {
    /// `set` counts how often shapes are set.
    pub(crate) fn new(set: &Arc<AtomicUsize>) -> FakeExecution {
        FakeExecution { set: Arc::clone(set), ..FakeExecution::default() }
    }
}

impl Execution for FakeExecution {
    fn set_shape(&mut self, input: &str, shape: &[u64]) -> Result<(), String> {
        assert_eq!(input, "x");
        self.set.fetch_add(1, Ordering::Relaxed);
        self.bytes = usize::try_from(shape.iter().product::<u64>()).unwrap() * 4;
        Ok(())
    }

    unsafe fn bind(&mut self, tensor: &str, address: u64) -> Result<(), String> {
        assert!(address.is_multiple_of(256), "{tensor} at {address:x}");
        let address = usize::try_from(address).unwrap();
        if tensor == "x" {
            self.input = address
        } else {
            self.output = address
        }
        Ok(())
    }

    unsafe fn enqueue(&mut self, stream: *mut c_void) -> Result<(), String> {
        // SAFETY: the pointer that `raw_stream` gave of a queue that its lane holds.
        let queue = unsafe { &*stream.cast::<Queue>() };
        queue.push(Step::Run { to: self.output, from: self.input, bytes: self.bytes });
        Ok(())
    }
}

/// Memory that says that it is the device's, and begins at a multiple of 256.
#[derive(Debug)]
pub(crate) struct FakeDeviceBacking(pub(crate) HeapBacking);

// SAFETY: what it wraps keeps the promise.
unsafe impl Backing for FakeDeviceBacking {
    fn placement(&self) -> Placement {
        Placement::Cuda(0)
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }

    fn host(&self) -> Option<std::ptr::NonNull<u8>> {
        self.0.host()
    }

    fn copy_in(&self, at: usize, from: &[u8]) -> Result<(), MemoryError> {
        self.0.copy_in(at, from)
    }

    fn copy_out(&self, at: usize, into: &mut [u8]) -> Result<(), MemoryError> {
        self.0.copy_out(at, into)
    }

    fn make_visible(&self) -> Result<(), MemoryError> {
        self.0.make_visible()
    }

    fn describe(&self) -> Option<RegionDescriptor> {
        self.0.describe()
    }

    fn dma_buf(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.0.dma_buf()
    }
}
