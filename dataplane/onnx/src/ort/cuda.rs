//! ONNX Runtime on a CUDA device.
//!
//! The library computes on one stream per session, and a session holds its own weights, so that N
//! streams would take N times the weights. Here one session of each shape serves any number of
//! streams (see [`sessions`]): its
//! work is recorded once per stream as a graph whose workspace lies in an [`Arena`] of that
//! stream's own, and from then on the graphs run without the library, side by side, over the one
//! set of weights. What makes that possible is an allocator of ours, which gives the library
//! memory of the arena that the current thread names: see [`allocator`].
//!
//! A graph has one size for each tensor, and repeats what the library put on the stream and nothing
//! else. Requests for which that is not all run without: see [`plain`].
//!
//! [`Arena`]: ferry_cuda::Arena

#[expect(unsafe_code, reason = "ONNX Runtime takes allocators by its C API only")]
mod allocator;
mod context;
mod engine;
mod errands;
mod error;
mod held;
mod model;
#[expect(unsafe_code, reason = "ONNX Runtime binds foreign memory by its C API only")]
mod native;
mod pictures;
mod pins;
mod plain;
mod recording;
mod schedule;
mod sessions;
mod start;
#[expect(unsafe_code, reason = "the device works behind the caller's back")]
mod steps;

pub use engine::CudaEngine;
pub use model::{Completion, CudaModel, CudaOptions, Precision};
