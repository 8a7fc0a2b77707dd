//! ONNX Runtime on a CUDA device, against the CPU and against its contract. `./test gpu` runs it
//! where there is a device; `FERRY_ONNXRUNTIME` names the library.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stderr, reason = "what was measured belongs beside what was checked")]

mod batch;
mod cases;
mod common;
mod conformance;
mod half;
mod lost;
mod numbers;
mod outputs;
mod pictures;
mod products;
mod side_by_side;
#[path = "../it/tiny.rs"]
#[expect(dead_code, reason = "shared with the tests of the CPU")]
mod tiny;
mod waits;
