//! The gRPC server, the store and the composition root; the binary `ferryd`.
#![forbid(unsafe_code)]

pub mod app;
mod clock;
pub mod config;
pub mod engines;
pub mod error;
pub mod findings;
pub mod handler;
pub mod lanes;
pub mod machine;
pub mod models;
pub mod refusals;
mod resources;
pub mod routes;
pub mod runs;
pub mod services;
pub mod sessions;
pub mod state;
pub mod store;
