//! The gRPC server, the store and the composition root; the binary ferryd.
//!
//! ```text
//! services ── sessions ── lanes ── handler ── routes ── models (pools of engines)
//!     └────── runs ────── store                    └─── recorder
//! ```
//!
//! [`Server::build`] starts everything but the socket, [`Server::serve`] serves on one.

#![forbid(unsafe_code)]

mod app;
mod clock;
pub mod config;
mod control_plane;
pub mod environment;
pub mod error;
mod handler;
pub mod lanes;
pub mod limits;
pub mod machine;
pub mod models;
pub mod refusals;
mod resources;
pub mod routes;
pub mod runs;
mod serve;
pub mod services;
pub mod sessions;
pub mod state;
pub mod store;

pub use app::{BuildError, Server};
pub use config::{Config, ConfigError, LibrarySearch, RdmaOptions, Settings};
pub use serve::bind;
