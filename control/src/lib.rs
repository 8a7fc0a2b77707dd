//! The gRPC server, the store and the composition root; the binary ferryd.
//!
//! ```text
//! api ── sessions ── serving (lanes, handler, routes) ── models (pools of engines)
//!  └──── runs ────── store                    └─── recorder
//! ```
//!
//! `app` puts them together; `host` is the process and its machine.
//!
//! [`Server::build`] starts everything but the socket, [`Server::serve`] serves on one.

#![forbid(unsafe_code)]

pub mod api;
mod app;
pub mod config;
pub mod error;
pub mod host;
pub mod inside;
pub mod metrics;
pub mod models;
pub mod runs;
pub mod sampler;
pub mod serving;
pub mod sessions;
pub mod state;
pub mod store;
pub mod tenants;

pub use app::{BuildError, Listeners, LoadingPort, Server, bind};
pub use config::{Config, ConfigError, LibrarySearch, RdmaOptions, Settings};
