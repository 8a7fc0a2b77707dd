//! The CUDA driver's calls, and the only `unsafe` of this crate.
//!
//! Every object holds the [`Device`](device::Device) that it belongs to and makes its context
//! current before it calls the driver, so that any thread may use it.

pub mod device;
pub mod entered;
pub mod error;
pub mod export;
pub mod graph;
pub mod identity;
pub mod ipc;
pub mod kernel;
pub mod list;
pub mod memory;
pub mod probe;
pub mod stream;
