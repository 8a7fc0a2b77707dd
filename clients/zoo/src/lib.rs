//! Writes the reference models as ONNX files, offline, with seeded weights.
//!
//! Six architectures with the layers and the parameter counts of the published ones, but weights
//! drawn from a seed: they cost a server what the real ones cost and recognise nothing. The
//! seventh, `digits`, is small, trained and kept in this crate, so that an answer can be judged.
//!
//! Each can be written in single and in half precision.
//!
//! ```no_run
//! let written = ferry_zoo::write("resnet50", "models".as_ref(), 1, &mut |_| {})?;
//! assert!(written.model.ends_with("resnet50.onnx"));
//! # Ok::<(), ferry_zoo::ZooError>(())
//! ```
#![forbid(unsafe_code)]

mod catalog;
pub mod digits;
mod error;
mod files;
mod graph;
mod labels;
mod layers;
mod metadata;
mod models;
mod open;
mod plumbing;
mod precision;
mod rng;
mod writer;

pub use catalog::{
    Batch, Description, Progress, Written, describe, names, write, write_as, write_in,
};
pub use error::ZooError;
pub use graph::TensorInfo;
pub use open::with_open_batch;
pub use precision::Precision;
