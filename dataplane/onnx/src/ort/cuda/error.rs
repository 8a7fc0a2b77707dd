//! What the driver says, as an error of the engine.

use ferry_core::error_text;
use ferry_cuda::{CudaError, FlightError, is_lost};
use ferry_engine::EngineError;
use ferry_memory::MemoryError;

/// A call that was refused; or, if the context is of no use any more, the loss of the device.
pub(super) fn failed(error: CudaError) -> EngineError {
    let text = error.to_string();
    if error.is_fatal() { EngineError::Lost(text) } else { EngineError::Run(text) }
}

/// As [`failed`], of what was put on a stream.
pub(super) fn flown(error: FlightError) -> EngineError {
    match error {
        FlightError::Driver(error) => failed(error),
        other => EngineError::Run(other.to_string()),
    }
}

/// As [`failed`], of memory that was asked for.
pub(super) fn without_memory(error: MemoryError) -> EngineError {
    if is_lost(&error) { EngineError::Lost(error_text(&error)) } else { EngineError::from(error) }
}
