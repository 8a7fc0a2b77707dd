//! The process and its machine: clock, environment, limits, what both have used.

pub(crate) mod clock;
pub mod environment;
pub mod limits;
pub mod log;
pub mod machine;
pub(crate) mod process;
pub mod rate;
