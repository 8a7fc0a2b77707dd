//! A real server on port 0, a raw gRPC client and the real links.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod admin;
mod attach;
mod auth;
mod batch;
mod binary;
mod cache;
mod common;
mod docs;
mod endless;
mod fuzz;
mod gpu;
mod half;
mod hostile;
mod http;
mod inline;
mod leases;
mod limits;
mod local;
mod metrics;
mod models;
mod oip;
mod operations;
mod owners;
mod precision;
mod quotas;
mod refused;
mod reload;
mod repository;
mod residency;
mod restart;
mod runs;
mod schedule;
mod stages;
mod starting;
mod store;
#[cfg(feature = "tensorrt")]
mod tensorrt;
mod transports;
mod walls;
