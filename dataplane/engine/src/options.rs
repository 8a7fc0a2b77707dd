//! How a pool is set up.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ferry_core::WaitPolicy;
use ferry_vision::{DecodeOptions, PictureSpec, SpecError};

use crate::batch::BatchOptions;
use crate::engine::{Engine, EngineError};
use crate::runs::RUN_AT_MOST;

/// Most requests that one level of a queue may be told to hold: 65,536 requests of some 150 bytes
/// are 10 MiB, and whoever waits behind as many has long given up.
pub const QUEUE_MAX: usize = 1 << 16;

/// How many levels of priority a queue may be told to have.
pub const LEVELS: std::ops::RangeInclusive<usize> = 1..=16;

/// How the instances of one model are run.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// Most requests that wait for an instance, in each level; 1 to [`QUEUE_MAX`]. One more is
    /// refused, so that waiting is bounded.
    pub queue: usize,
    /// How many levels of priority there are, as [`LEVELS`] allows. A request of priority N waits in
    /// level N, or in the last one; 0 is the normal level.
    pub levels: usize,
    /// Which thread runs the model.
    pub run: RunOn,
    /// Longest run of the model, where its engine can be interrupted.
    pub run_at_most: Duration,
    /// How a worker waits for work. It sleeps at last under every policy.
    pub wait: WaitPolicy,
    /// What the model wants of a picture; without it pictures are not served.
    pub picture: Option<Picture>,
    /// Makes a new instance in place of one that panicked. Without it such an instance is gone.
    pub rebuild: Option<Rebuild>,
    /// How requests that wait become one run; without it each runs alone.
    pub batch: Option<BatchOptions>,
}

impl Default for PoolOptions {
    fn default() -> Self {
        PoolOptions {
            queue: 64,
            levels: 2,
            run: RunOn::Worker,
            run_at_most: RUN_AT_MOST,
            wait: WaitPolicy::Adaptive,
            picture: None,
            rebuild: None,
            batch: None,
        }
    }
}

/// Which thread runs a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunOn {
    /// The lane that brought the request, if an instance is free: for models so cheap that waking
    /// a thread (about 19 µs) costs more than they do. The lane serves nobody else meanwhile, so
    /// picture files and large raw pictures go to the instance's own thread all the same.
    Lane,
    /// The instance's own thread.
    Worker,
}

/// How pictures become a model's input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Picture {
    /// What the model wants.
    pub spec: PictureSpec,
    /// How files are decoded.
    pub decode: DecodeOptions,
}

/// Makes an instance like those that a pool was started with. Called on a worker, which serves
/// nothing until it returns.
#[derive(Clone)]
pub struct Rebuild(Arc<dyn Fn() -> Result<Box<dyn Engine>, EngineError> + Send + Sync>);

impl Rebuild {
    /// Wraps the function that loads the model.
    pub fn new(
        load: impl Fn() -> Result<Box<dyn Engine>, EngineError> + Send + Sync + 'static,
    ) -> Rebuild {
        Rebuild(Arc::new(load))
    }

    pub(crate) fn load(&self) -> Result<Box<dyn Engine>, EngineError> {
        (self.0)()
    }
}

impl fmt::Debug for Rebuild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rebuild(…)")
    }
}

/// Why a pool cannot be started, or does not end.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// No instance was given.
    #[error("a pool needs at least one instance of its model; load one")]
    Empty,
    /// The instances are of different models.
    #[error("instance {0} has another signature than instance 0: load all from the same file")]
    Differs(usize),
    /// The queue's bound makes no sense.
    #[error("queue is {0}; allowed are 1 to {QUEUE_MAX}")]
    Queue(usize),
    /// As many levels of priority make no sense.
    #[error("priority levels are {0}; allowed are {min} to {max}", min = LEVELS.start(), max = LEVELS.end())]
    Levels(usize),
    /// The picture's description makes no sense.
    #[error("the [picture] table cannot be used")]
    Picture(#[from] SpecError),
    /// The model cannot take pictures.
    #[error(
        "the [picture] table needs a model with one input of FP32 or FP16; this one takes {0}: \
         remove it"
    )]
    NotForPictures(String),
    /// Requests cannot be batched, or not so.
    #[error("the [batch] table cannot be used: {0}")]
    Batch(String),
    /// The system has no thread left.
    #[error("start a worker's thread")]
    Thread(#[source] std::io::Error),
    /// Workers are still in their engines. They end when those return; what they hold stays.
    #[error("{0} workers did not finish in time; their engines may hang")]
    Stuck(usize),
}
