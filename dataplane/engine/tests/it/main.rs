//! The pool, the echo engine and the preparation of requests, from outside.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod batch;
mod batch_device;
mod batch_faults;
mod common;
mod conformance;
mod echo;
mod endings;
mod mirror;
mod pool;
mod prepare;
mod rows;
mod runs;
mod schedule;
