//! From a request that arrived to the model of its session.

pub(crate) mod call;
pub mod gate;
pub(crate) mod handler;
pub mod inline;
pub mod lanes;
pub(crate) mod payload;
pub mod refusals;
pub mod regions;
pub mod residents;
pub mod routes;
mod standing;
