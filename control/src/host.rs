//! The process and its machine: clock, environment, limits, what it uses.

pub(crate) mod clock;
pub mod environment;
pub mod limits;
pub mod machine;
pub(crate) mod resources;
