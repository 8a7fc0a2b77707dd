//! The gRPC services: thin, each call in terms of the rest of this crate.

mod admin;
mod auth;
mod drive;
mod front;
pub(crate) mod inference;
mod local;
mod models;
mod runs;
mod sessions;
mod to_wire;

pub use admin::AdminService;
pub use auth::{Access, AuthLayer, METHODS};
pub(crate) use front::{GateLayer, Incoming, Peers};
pub use inference::InferenceService;
pub use local::LocalService;
pub use models::ModelsService;
pub(crate) use models::loaded_event;
pub use runs::RunsService;
pub use sessions::SessionsService;
