//! The gRPC server, the store and the composition root; the binary ferryd.

#![forbid(unsafe_code)]

pub mod store;
