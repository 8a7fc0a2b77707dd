//! Runs models: the [`Engine`] trait, the [`Pool`] of workers that drives it, preparation of
//! pictures, and the echo engine.
#![forbid(unsafe_code)]

pub mod batch;
mod binding;
mod callback;
mod clock;
pub mod echo;
pub mod engine;
pub mod files;
pub mod guard;
mod instance;
pub mod library;
pub mod options;
pub mod pool;
pub mod prepare;
mod queue;
mod runs;
mod shared;
pub mod stats;
mod worker;

pub use batch::{BatchOptions, why_not_batched};
pub use binding::check_binding;
pub use callback::contained;
pub use clock::StageClock;
pub use echo::Echo;
pub use engine::{Engine, EngineError, Finished, Interrupt, Job, JobMember, Placed, TooLarge};
pub use files::{FileBytes, FileDigest, FileError};
pub use guard::ArrivalGuard;
pub use options::{Picture, PoolError, PoolOptions, Rebuild, RunOn};
pub use pool::Pool;
pub use queue::Work;
pub use runs::RUN_AT_MOST;
pub use stats::{InstanceStats, PoolStats};
