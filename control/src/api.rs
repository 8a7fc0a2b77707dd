//! The gRPC services: thin, each call in terms of the rest of this crate.

mod admin;
mod auth;
mod came;
mod from_wire;
mod front;
mod inference;
mod local;
mod metrics;
mod models;
mod oip;
mod router;
mod runs;
mod sessions;
mod status;
mod status_of;
mod to_wire;
mod told;
mod whole;

pub use admin::AdminService;
pub use auth::{Access, AuthLayer, METHODS};
pub(crate) use front::{Door, Incoming, Limits, Peers};
pub use inference::InferenceService;
pub use local::LocalService;
pub(crate) use metrics::router as metrics_router;
pub use models::ModelsService;
pub use oip::OipService;
pub(crate) use oip::http::{
    Http, router as http_router, serve as serve_http, serve_loading as serve_http_loading,
};
pub use router::SERVICES;
pub(crate) use router::router;
pub use runs::RunsService;
pub use sessions::SessionsService;
