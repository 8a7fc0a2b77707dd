//! The Open Inference Protocol over HTTP: JSON, and tensors as bytes behind it.
//!
//! Each path is a method of the gRPC service under another name: who may call it, how long its
//! message may be, what it does and how it fails are asked there. What is here makes of JSON and
//! bytes the messages of that service, and of its answers JSON and bytes.
//!
//! ```text
//! serve (connections) ── router (path, key) ── body (length, bytes, time) ── coding (inflating)
//!                        └── infer ── json, numbers, raw ── super::service
//!                        └── questions, regions, settings ── super::{metadata, repository, …}
//! ```

mod body;
mod call;
mod coding;
mod infer;
mod json;
mod loading;
mod numbers;
mod outputs;
mod questions;
mod raw;
mod reflected;
mod refused;
mod regions;
mod router;
mod serve;
mod settings;
mod work;

use std::sync::Arc;

use crate::api::front::Limits;
use crate::state::State;
use work::Work;

pub(crate) use loading::serve_loading;
pub(crate) use router::router;
pub(crate) use serve::serve;

/// What all calls over HTTP share.
#[derive(Debug)]
pub(crate) struct Http {
    state: Arc<State>,
    limits: Arc<Limits>,
    work: Work,
}

impl Http {
    /// Serves `state` within the limits that gRPC has, too.
    pub(crate) fn new(state: Arc<State>, limits: Arc<Limits>) -> Arc<Http> {
        Arc::new(Http { state, limits, work: Work::new() })
    }
}
