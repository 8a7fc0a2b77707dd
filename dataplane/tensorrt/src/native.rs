//! The calls that Rust cannot check.

pub(crate) mod library;
