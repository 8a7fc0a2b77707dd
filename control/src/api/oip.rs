//! `inference.GRPCInferenceService`: the Open Inference Protocol, for clients that exist already.
//!
//! It ends where `ferry.v1.Inference` does: an [`InlineRequest`](crate::serving::inline) that names
//! a model and its inputs. What is here turns messages into that, and its reply into messages.
//! docs/OIP.md says what is served, and what bad input gets.

mod classes;
mod config;
mod contents;
pub(super) mod http;
mod memory;
mod metadata;
mod offer;
mod parameters;
mod reply;
mod repository;
mod request;
mod service;
mod settings;
mod statistics;
mod stream;

pub use service::OipService;
