//! The calls that Rust cannot check.

pub(crate) mod cuda;
pub(crate) mod execution;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod gpu;
pub(crate) mod lane;
pub(crate) mod library;
mod room;
