//! From a request that arrived to the model of its session.

pub(crate) mod handler;
pub(crate) mod inline;
pub mod lanes;
pub(crate) mod payload;
pub mod refusals;
pub mod routes;
