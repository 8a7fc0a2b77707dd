//! Work that runs on a device behind the caller's back, and what keeps its memory alive.

use std::sync::Arc;

use ferry_core::{Stage, StageTimes};
use ferry_memory::{MemoryError, View};

use crate::driver::device::Device;
use crate::driver::error::CudaError;
use crate::driver::graph::Graph;
use crate::driver::kernel::Kernels;
use crate::driver::stream::{Event, Priority, Stream};
#[cfg(feature = "pictures")]
use crate::picture::PictureStep;

/// Why work could not be started, or failed.
#[derive(Debug, thiserror::Error)]
pub enum FlightError {
    /// The driver refused.
    #[error(transparent)]
    Driver(#[from] CudaError),
    /// A range is not as long as what is to be copied, or may not be written.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Memory that this device cannot reach.
    #[error("memory of {0} cannot be reached from this device")]
    Unreachable(ferry_core::Placement),
}

/// A stream, and the events that time what runs on it.
#[derive(Debug)]
pub struct Runner {
    stream: Arc<Stream>,
    /// Events that no flight holds.
    spare: Vec<Event>,
}

/// Work under way. It owns `K`, what the work reads and writes; dropped before it is over, it
/// waits for the device.
#[derive(Debug)]
pub struct Flight<K> {
    held: UntilOver<K, Arc<Stream>>,
    marks: Vec<Mark>,
}

#[derive(Debug)]
struct Mark {
    /// The stage that ends here; `None` for the start.
    stage: Option<Stage>,
    event: Event,
}

/// What is to be done, in order; every memory is borrowed from what the flight keeps.
#[derive(Debug)]
pub struct Plan<'a> {
    runner: &'a mut Runner,
    marks: Vec<Mark>,
}

impl Runner {
    /// A stream of its own.
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(device: &Arc<Device>, priority: Priority) -> Result<Runner, CudaError> {
        Ok(Runner { stream: Arc::new(Stream::new(device, priority)?), spare: Vec::new() })
    }

    /// The stream.
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// Puts work on the stream. `keep` is held until it is over, so that what `plan` borrows from
    /// it stays where it is.
    ///
    /// # Errors
    /// `keep`, and why nothing was started; what was started already is over.
    pub fn start<K>(
        &mut self,
        keep: K,
        plan: impl FnOnce(&K, &mut Plan<'_>) -> Result<(), FlightError>,
    ) -> Result<Flight<K>, (K, FlightError)> {
        let stream = Arc::clone(&self.stream);
        let mut steps = Plan { runner: self, marks: Vec::new() };
        let begun = UntilOver::begin(keep, stream, |keep| {
            steps.mark_start()?;
            plan(keep, &mut steps)
        });
        let marks = steps.marks;
        match begun {
            Ok(held) => Ok(Flight { held, marks }),
            Err(given_up) => {
                self.spare.extend(marks.into_iter().map(|mark| mark.event));
                Err(given_up)
            }
        }
    }

    fn event(&mut self) -> Result<Event, CudaError> {
        match self.spare.pop() {
            Some(event) => Ok(event),
            None => Event::new(self.stream.device()),
        }
    }
}

impl Plan<'_> {
    fn mark_start(&mut self) -> Result<(), FlightError> {
        self.record(None)
    }

    /// Ends a stage here; it began where the last one ended.
    ///
    /// # Errors
    /// What the driver says.
    pub fn mark(&mut self, stage: Stage) -> Result<(), FlightError> {
        self.record(Some(stage))
    }

    fn record(&mut self, stage: Option<Stage>) -> Result<(), FlightError> {
        let event = self.runner.event()?;
        event.record(&self.runner.stream)?;
        self.marks.push(Mark { stage, event });
        Ok(())
    }

    /// The stream, for what puts work on it by itself.
    pub fn stream(&self) -> &Stream {
        &self.runner.stream
    }

    /// Copies the first `bytes` of `from` to the start of `to`: between host and device, either
    /// way, or within one. From registered host memory that is DMA; from other host memory the
    /// driver stages it, and this call may wait.
    ///
    /// # Errors
    /// [`FlightError`].
    ///
    /// # Safety
    /// Both views must lie in memory that what the flight keeps holds mapped, and that nobody in
    /// this process reads, writes or borrows until the flight is over: the slot of a job that it
    /// keeps, and memory of the engine's own.
    #[expect(unsafe_code, reason = "the device copies behind the caller's back")]
    pub unsafe fn copy(
        &mut self,
        to: &View<'_>,
        from: &View<'_>,
        bytes: usize,
    ) -> Result<(), FlightError> {
        let (to, from) = (to.part(0, bytes)?, from.part(0, bytes)?);
        to.check_writable()?;
        let (to, from) = (self.address(&to)?, self.address(&from)?);
        // SAFETY: both ranges are `bytes` long (checked above), `to` may be written, and by the
        // caller's argument they stay mapped and borrowed by nobody until the flight is over.
        Ok(unsafe { self.runner.stream.copy(to, from, bytes) }?)
    }

    /// Copies as many bytes as `to` has from where a library put them: memory of the device, or of
    /// the host.
    ///
    /// # Errors
    /// [`FlightError`].
    ///
    /// # Safety
    /// As [`Plan::copy`], of `to` and of as many bytes from the address `from` on.
    #[expect(unsafe_code, reason = "the device copies behind the caller's back")]
    pub unsafe fn copy_from(&mut self, to: &View<'_>, from: u64) -> Result<(), FlightError> {
        to.check_writable()?;
        let address = self.address(to)?;
        // SAFETY: `to` may be written (checked above); the rest is the caller's argument.
        Ok(unsafe { self.runner.stream.copy(address, from, to.bytes()) }?)
    }

    /// Copies as [`Plan::copy`] does, by a kernel that reads or writes host memory in place; both
    /// views must be memory that the device reaches.
    ///
    /// # Errors
    /// [`FlightError`].
    ///
    /// # Safety
    /// As [`Plan::copy`]; the views do not overlap.
    #[expect(unsafe_code, reason = "the device copies behind the caller's back")]
    pub unsafe fn copy_by_kernel(
        &mut self,
        kernels: &Kernels,
        to: &View<'_>,
        from: &View<'_>,
        bytes: usize,
    ) -> Result<(), FlightError> {
        let (to, from) = (to.part(0, bytes)?, from.part(0, bytes)?);
        to.check_writable()?;
        let (to, from) = (reached(&to)?, reached(&from)?);
        // SAFETY: as in `copy`.
        Ok(unsafe { kernels.copy(&self.runner.stream, to, from, bytes) }?)
    }

    /// Makes a model's input of a raw picture. `from` must be as long as the picture, and `to` as
    /// the input, at least.
    ///
    /// # Errors
    /// [`FlightError`].
    ///
    /// # Safety
    /// As [`Plan::copy`].
    #[cfg(feature = "pictures")]
    #[expect(unsafe_code, reason = "the device reads and writes behind the caller's back")]
    pub unsafe fn picture(
        &mut self,
        kernels: &Kernels,
        to: &View<'_>,
        from: &View<'_>,
        picture: &PictureStep,
    ) -> Result<(), FlightError> {
        let long = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let from = from.part(0, long(picture.args.source_bytes()))?;
        let to = to.part(0, long(picture.output_bytes()))?;
        to.check_writable()?;
        let (to, from) = (reached(&to)?, reached(&from)?);
        // SAFETY: both are as long as the picture and its tensor (checked above), `to` may be written,
        // and they stay mapped by the caller's argument; device memory and what is in it is aligned
        // for floats.
        Ok(unsafe { kernels.picture(&self.runner.stream, to, from, picture) }?)
    }

    /// Starts a graph.
    ///
    /// # Errors
    /// What the driver says.
    ///
    /// # Safety
    /// As [`Graph::launch`]: what it uses is kept by the flight, or for as long as the stream.
    #[expect(unsafe_code, reason = "the device runs behind the caller's back")]
    pub unsafe fn graph(&mut self, graph: &Graph) -> Result<(), FlightError> {
        // SAFETY: the caller's argument.
        Ok(unsafe { graph.launch(&self.runner.stream) }?)
    }

    /// Where the device finds a view: its own address, or the host's, as both share one space.
    fn address(&self, view: &View<'_>) -> Result<u64, FlightError> {
        if let Some(device) = view.device() {
            return Ok(device.address);
        }
        let host = view.host().ok_or(FlightError::Unreachable(view.placement()))?;
        Ok(host.addr().get() as u64)
    }
}

/// Where the device's kernels find a view.
fn reached(view: &View<'_>) -> Result<u64, FlightError> {
    let device = view.device().ok_or(FlightError::Unreachable(view.placement()))?;
    Ok(device.address)
}

impl<K> Flight<K> {
    /// Whether the device is done. Never waits.
    ///
    /// # Errors
    /// What the driver says: the work failed, and so will all other.
    pub fn is_done(&self) -> Result<bool, CudaError> {
        self.marks.last().map_or(Ok(true), |mark| mark.event.is_done())
    }

    /// Waits until the device is done, and gives back what was kept with the times of the stages.
    pub fn finish(mut self, runner: &mut Runner) -> (K, Result<StageTimes, CudaError>) {
        let times = match self.is_done() {
            Ok(true) => self.times(),
            Ok(false) => self.held.stream.synchronize().and_then(|()| self.times()),
            Err(error) => Err(error),
        };
        runner.spare.extend(self.marks.drain(..).map(|mark| mark.event));
        (self.held.release(), times)
    }

    fn times(&self) -> Result<StageTimes, CudaError> {
        let mut times = StageTimes::NONE;
        for pair in self.marks.windows(2) {
            if let Some(stage) = pair[1].stage {
                let ns = pair[1].event.ns_since(&pair[0].event)?;
                times.set(stage, times.of(stage).unwrap_or(0).saturating_add(ns));
            }
        }
        Ok(times)
    }
}

/// What can be waited for.
trait Wait {
    /// Waits until nothing that was begun is under way, or never will be: a device that is lost uses
    /// nothing any more.
    fn wait(&self);
}

impl Wait for Arc<Stream> {
    fn wait(&self) {
        if let Err(error) = self.synchronize() {
            tracing::warn!(%error, "work that nobody waits for");
        }
    }
}

/// Keeps `K` until the work that uses it is over, however this value goes: returned, given up, or
/// dropped as a panic passes.
#[derive(Debug)]
struct UntilOver<K, W: Wait> {
    stream: W,
    /// `None` once it was released.
    keep: Option<K>,
}

impl<K, W: Wait> UntilOver<K, W> {
    /// Begins work on `stream` that uses `keep`. It is held before the first of it begins.
    fn begin<E>(
        keep: K,
        stream: W,
        work: impl FnOnce(&K) -> Result<(), E>,
    ) -> Result<UntilOver<K, W>, (K, E)> {
        let held = UntilOver { stream, keep: Some(keep) };
        let begun = held.keep.as_ref().map_or(Ok(()), work);
        match begun {
            Ok(()) => Ok(held),
            Err(why) => {
                // Whatever was put on the stream still uses `keep`.
                held.stream.wait();
                Err((held.release(), why))
            }
        }
    }

    /// Hands back what was kept. The work is over.
    fn release(mut self) -> K {
        self.keep.take().expect("only `release` takes it, and ends this value")
    }
}

impl<K, W: Wait> Drop for UntilOver<K, W> {
    fn drop(&mut self) {
        if self.keep.is_some() {
            self.stream.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::rc::Rc;

    use super::*;

    /// What happened, in order.
    type Diary = Rc<RefCell<Vec<&'static str>>>;

    struct Fake(Diary);

    impl Wait for Fake {
        fn wait(&self) {
            self.0.borrow_mut().push("waited");
        }
    }

    struct Memory(Diary);

    impl Drop for Memory {
        fn drop(&mut self) {
            self.0.borrow_mut().push("freed");
        }
    }

    fn begin(
        diary: &Diary,
        work: impl FnOnce(&Memory) -> Result<(), ()>,
    ) -> Result<UntilOver<Memory, Fake>, (Memory, ())> {
        UntilOver::begin(Memory(Rc::clone(diary)), Fake(Rc::clone(diary)), work)
    }

    #[test]
    fn memory_is_freed_after_the_device_however_the_work_ends() {
        let diary = Diary::default();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            begin(&diary, |_| {
                diary.borrow_mut().push("on the stream");
                panic!("in the middle of a plan")
            })
        }));
        assert!(panicked.is_err());
        assert_eq!(diary.take(), ["on the stream", "waited", "freed"]);

        let (memory, ()) = begin(&diary, |_| Err(())).err().expect("an error is given back");
        assert_eq!(diary.take(), ["waited"]);
        drop(memory);
        assert_eq!(diary.take(), ["freed"]);

        drop(begin(&diary, |_| Ok(())).ok());
        assert_eq!(diary.take(), ["waited", "freed"]);

        drop(begin(&diary, |_| Ok(())).ok().expect("begun").release());
        assert_eq!(diary.take(), ["freed"], "whoever releases has seen that it is over");
    }
}
