//! ONNX files as engines: ONNX Runtime, opened at run time, and tract.
//!
//! [`open`] reads a file with one of two libraries and gives instances of it:
//!
//! - **onnx**: ONNX Runtime, a native library that is found when the process starts (see
//!   [`runtime`]). Tensors are read and written where they lie, without a copy.
//! - **tract**: pure Rust, part of the build with the feature `tract`. Tensors are copied in and out; one thread per instance.
//!
//! `unsafe` is fenced: it stands in one module, which calls ONNX Runtime by its C API.
#![deny(unsafe_code)]

mod external;
mod file;
mod graph;
pub mod load;
mod log;
mod ort;
pub mod runtime;
mod signature;
#[cfg(feature = "tract")]
mod tract;
#[cfg(not(feature = "tract"))]
#[path = "no_tract.rs"]
mod tract;

pub use load::{EngineChoice, Loaded, Model, Options, UnknownEngine, load, open};
pub use ort::{Completion, CudaEngine, CudaModel, CudaOptions, Precision};
pub use ort::{OrtEngine, OrtModel, OrtOptions, leave};
pub use runtime::{Probe, Search, probe};
#[cfg(feature = "tract")]
pub use tract::TractEngine;
pub use tract::TractModel;
