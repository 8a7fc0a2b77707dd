//! GPU memory, streams, graphs and kernels over the CUDA driver.
//!
//! The driver's library is opened at run time: [`probe`] says whether it can be used, and nothing
//! else of this crate works without the [`Driver`] that it gives. A machine without a GPU builds
//! and starts the same binary.
//!
//! A client needs none of the features: they bring NVIDIA's management library (`nvml`) and what
//! makes a model's input of a picture (`pictures`).
//!
//! `unsafe` is fenced: it stands in [`driver`], and where [`libraries`] opens files and [`nvml`] asks
//! for what its wrapper does not. What it offers is safe because work that
//! runs behind the caller's back owns what it uses: see [`Flight`].
#![deny(unsafe_code)]

mod arena;
mod backing;
pub mod copying;
#[expect(unsafe_code, reason = "the fence around libcuda")]
pub mod driver;
mod flight;
mod ipc;
pub mod libraries;
#[cfg(feature = "nvml")]
pub mod nvml;
#[cfg(feature = "pictures")]
pub mod picture;
#[cfg(feature = "nvml")]
mod survey;

pub use arena::{Arena, ArenaStats};
pub use backing::{CudaPlacer, DeviceBacking, PinnedBacking, is_lost};
pub use driver::device::{Attributes, Device, OpenError};
pub use driver::error::CudaError;
pub use driver::graph::{Graph, NodeCounts};
pub use driver::ipc::{ImportError, exported_bytes};
pub use driver::kernel::{KernelError, Kernels};
pub use driver::list::{ComputeMode, Listed, list};
pub use driver::memory::DeviceBuffer;
pub use driver::probe::{Driver, Missing, probe};
pub use driver::stream::{Event, Priority, Stream};
pub use flight::{Flight, FlightError, Plan, Runner};
pub use ipc::{CudaImporter, ExportedBacking, ImportedBacking, IpcPlacer};
#[cfg(feature = "nvml")]
pub use survey::survey;
