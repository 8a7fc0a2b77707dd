//! Real builds, with the libraries that `fetch-tensorrt` gets, on a machine without a GPU.

#![cfg(not(feature = "enterprise"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod broken;
mod cache;
mod common;
mod dynamic;
#[path = "../../../onnx/tests/it/tiny.rs"]
mod tiny;
mod zoo;
