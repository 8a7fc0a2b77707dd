//! A device for tests: memory of the host, and streams that do one thing whenever they are asked
//! whether they are done. Everything that it is handed is read or written late, as a device does,
//! so that memory that went too early is found.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ferry_core::Placement;
use ferry_memory::{Backing, DeviceAddress, HeapBacking, Region};

use super::execution::Execution;
use super::gpu::{Gpu, GpuError};
use crate::options::Capability;

/// The number of the device.
const ORDINAL: u32 = 1;

#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) capability: Capability,
    /// Copies that were started.
    pub(crate) copies: AtomicUsize,
    /// From now on everything fails.
    pub(crate) lost: AtomicBool,
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
    pub(crate) fn new() -> Arc<Fake> {
        Arc::new(Fake {
            capability: Capability { major: 8, minor: 9 },
            copies: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
        })
    }

    fn check(&self) -> Result<(), GpuError> {
        if self.lost.load(Ordering::Relaxed) { Err(GpuError::Lost("lost".into())) } else { Ok(()) }
    }
}

// SAFETY: a device of its own; streams run in order, and buffers are freed by who was handed them.
unsafe impl Gpu for Fake {
    type Stream = Arc<Queue>;
    type Event = Event;

    fn ordinal(&self) -> u32 {
        ORDINAL
    }

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

    fn memory(&self, bytes: usize) -> Result<Region, GpuError> {
        self.check()?;
        FakeBacking::region(bytes, Place::Device)
    }

    fn pinned(&self, bytes: usize) -> Result<Region, GpuError> {
        FakeBacking::region(bytes, Place::Pinned)
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

/// What memory of the host says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The device's own; it begins at a multiple of 256.
    Device,
    /// The host's, and registered with the device.
    Pinned,
    /// Another device's.
    OtherDevice,
}

/// Memory of the host that says that a device finds it at the host's own address.
#[derive(Debug)]
pub(crate) struct FakeBacking(HeapBacking, Place);

impl FakeBacking {
    pub(crate) fn region(bytes: usize, place: Place) -> Result<Region, GpuError> {
        let heap = HeapBacking::new(bytes).map_err(|error| GpuError::Refused(error.to_string()))?;
        Ok(Region::whole(FakeBacking(heap, place)))
    }
}

// SAFETY: what it wraps keeps the promise.
unsafe impl Backing for FakeBacking {
    fn placement(&self) -> Placement {
        match self.1 {
            Place::Device => Placement::Cuda(ORDINAL),
            Place::OtherDevice => Placement::Cuda(ORDINAL + 1),
            Place::Pinned => Placement::Host,
        }
    }

    fn device(&self) -> Option<DeviceAddress> {
        let ordinal = ORDINAL + u32::from(self.1 == Place::OtherDevice);
        let address = self.0.host()?.as_ptr().expose_provenance() as u64;
        Some(DeviceAddress { ordinal, address })
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }

    fn host(&self) -> Option<std::ptr::NonNull<u8>> {
        self.0.host()
    }
}
