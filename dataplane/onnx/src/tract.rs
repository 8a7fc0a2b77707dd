//! tract.

mod declared;
mod engine;
mod half;
mod model;
mod plan;

pub use engine::TractEngine;
pub(crate) use model::TRACT_VERSION;
pub use model::TractModel;
