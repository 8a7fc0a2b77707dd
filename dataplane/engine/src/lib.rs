//! Runs models: the [`Engine`] trait, the pool of workers that drives it, preparation of pictures,
//! and the echo engine.
#![forbid(unsafe_code)]

pub mod engine;

pub use engine::{Engine, EngineError, Finished, Job};
