//! ONNX Runtime.

mod cuda;
mod declarations;
mod engine;
mod model;
#[expect(unsafe_code, reason = "ONNX Runtime binds foreign memory by its C API only")]
mod native;
mod private;

pub use cuda::{Completion, CudaEngine, CudaModel, CudaOptions, Precision};
pub use engine::OrtEngine;
pub use model::{OrtModel, OrtOptions};
pub use native::leave::leave;
pub(crate) use native::library_version;
#[cfg(feature = "tract")]
pub(crate) use private::only_true_and_false;
