//! One file per command.

pub(crate) mod doctor;
pub(crate) mod infer;
pub(crate) mod models;
pub(crate) mod runs;
pub(crate) mod sessions;
pub(crate) mod sql;
pub(crate) mod tune;
pub(crate) mod zoo;
