//! Both engines, against each other and against their contracts.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stderr, reason = "the tests of large models are run for their times")]

mod agree;
mod batch;
mod broken;
mod cases;
mod common;
mod conformance;
mod endless;
mod external;
mod half;
mod log;
mod memory;
mod rows;
mod shapes;
mod tiny;
