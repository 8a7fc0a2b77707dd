//! ONNX files as engines of TensorRT, whose libraries are opened at run time.
//!
//! TensorRT-RTX 1.7 by default; with the feature `enterprise`, TensorRT 11.4. Both have a parser
//! of ONNX files in a second library. Nothing of either is needed to build this crate or to start
//! what contains it: [`probe`] says whether they are there, and what to install if not.
//!
//! A model goes three steps:
//!
//! 1. [`build`] parses the file and makes an [`EnginePlan`]: what TensorRT calls a serialised
//!    engine, and the model's signature. TensorRT-RTX does that without a GPU.
//! 2. A [`Cache`] keeps plans in a folder, so that the next start does not build them again.
//! 3. [`TrtModel`] loads a plan on a GPU, and [`TrtEngine`]s run it. TensorRT-RTX runs on
//!    compute capability 8.0, 8.6, 8.9, 12.0 and above, and on no other: see
//!    [`Capability::check`].
//!
//! The GPU is a [`CudaGpu`], opened by `ferry-cuda`; it is behind the trait [`Gpu`] so that the
//! order of work can be tested without one.
//!
//! `unsafe` is fenced: it stands in the module `native` alone, which opens the libraries, runs
//! engines, and says what a [`Gpu`] must promise.
#![deny(unsafe_code)]

mod build;
mod cache;
mod engine;
mod half;
mod log;
mod model;
#[expect(unsafe_code, reason = "the fence around TensorRT's libraries")]
mod native;
mod options;
mod plan;
mod search;
mod signature;
mod source;
mod survey;

pub use build::{build, signature};
pub use cache::{Cache, CacheUse};
pub use engine::TrtEngine;
pub use ferry_engine::library::{Probe, Search};
pub use model::{TrtModel, TrtOptions};
pub use native::cuda::CudaGpu;
pub use native::gpu::{Gpu, GpuError};
pub use options::{BuildOptions, Capability, DimRange, Precision, UnknownPrecision};
pub use plan::EnginePlan;
pub use search::{FETCHED, probe, standard as search};
pub use survey::survey;

/// What errors call the library.
#[cfg(not(feature = "enterprise"))]
pub(crate) const LIBRARY: &str = "tensorrt-rtx";
#[cfg(feature = "enterprise")]
pub(crate) const LIBRARY: &str = "tensorrt";
