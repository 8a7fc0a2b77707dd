//! Starts that take long, beside the thread that drives the streams.
//!
//! Recording a graph takes milliseconds, and the driver copies pageable memory while the calling
//! thread waits, also for what is on the stream already. A request that needs either is started by
//! a thread of its own, which takes the stream with it meanwhile; all other streams go on. Urgent
//! requests have another thread than normal ones.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use ferry_cuda::Priority;
use ferry_engine::EngineError;

use super::context::Context;
use super::model::CudaModel;
use super::start::{Launched, Start, launch};

/// One stream with what is to be started on it.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) stream: usize,
    pub(super) start: Start,
    pub(super) context: Box<Context>,
}

/// A stream that is back.
#[derive(Debug)]
pub(super) struct Back {
    pub(super) stream: usize,
    /// Before the context: a flight ends before the stream that it is on. A panic is for the
    /// thread that drives the engine.
    pub(super) outcome: std::thread::Result<Launched>,
    pub(super) context: Box<Context>,
}

/// The threads, and the way to them.
#[derive(Debug)]
pub(super) struct Errands {
    /// Normal and urgent. Closed before the threads are waited for.
    ways: Option<[SyncSender<Errand>; 2]>,
    back: Receiver<Back>,
    threads: Vec<JoinHandle<()>>,
}

impl Errands {
    /// Starts the threads. At most `streams` errands are under way: each takes a stream with it.
    pub(super) fn new(model: &Arc<CudaModel>, streams: usize) -> Result<Errands, EngineError> {
        let (done, back) = sync_channel(streams);
        let mut threads = Vec::with_capacity(2);
        let mut spawn = |name: &str| {
            let (way, errands) = sync_channel(streams);
            let (model, done) = (Arc::clone(model), done.clone());
            let thread = std::thread::Builder::new().name(name.to_owned());
            let thread = thread.spawn(move || run(&model, &errands, &done));
            threads.push(thread.map_err(|error| {
                EngineError::Run(format!("start a thread for a GPU's slow starts: {error}"))
            })?);
            Ok::<_, EngineError>(way)
        };
        let ways = Some([spawn("gpu-starts")?, spawn("gpu-starts-high")?]);
        Ok(Errands { ways, back, threads })
    }

    /// Hands an errand over; gives it back if no thread takes it.
    pub(super) fn send(&self, errand: Errand) -> Result<(), Box<Errand>> {
        let which = usize::from(errand.context.priority() == Priority::High);
        let Some(ways) = &self.ways else { return Err(Box::new(errand)) };
        ways[which].try_send(errand).map_err(|refused| match refused {
            TrySendError::Full(errand) | TrySendError::Disconnected(errand) => Box::new(errand),
        })
    }

    /// A stream that is back, if there is one. Never waits.
    pub(super) fn take(&self) -> Option<Back> {
        self.back.try_recv().ok()
    }
}

impl Drop for Errands {
    fn drop(&mut self) {
        self.ways = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread for a GPU's slow starts panicked");
            }
        }
    }
}

fn run(model: &Arc<CudaModel>, errands: &Receiver<Errand>, done: &SyncSender<Back>) {
    while let Ok(Errand { stream, start, mut context }) = errands.recv() {
        let outcome = catch_unwind(AssertUnwindSafe(|| launch(model, &mut context, start)));
        // There is room for every stream; the engine is gone if nobody listens.
        if done.send(Back { stream, outcome, context }).is_err() {
            return;
        }
    }
}
