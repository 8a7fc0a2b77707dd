//! The wire: `.proto` files, generated code, and the only place where wire types and ours meet.
#![forbid(unsafe_code)]

/// Generated from `ferry/v1/*.proto`.
#[expect(missing_docs, clippy::allow_attributes, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("ferry.v1");
}

/// Generated from `inference/*.proto`: the Open Inference Protocol.
#[expect(missing_docs, clippy::allow_attributes, reason = "generated code")]
pub mod oip {
    tonic::include_proto!("inference");
}

/// The compiled descriptors of all packages, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

pub mod channel;
pub mod codec;
pub mod cost;
mod error;
mod model;
mod open;
mod rdma;
mod session;
mod timing;

pub use error::WireError;
pub use model::{output_shapes_from_wire, output_shapes_to_wire};
pub use open::{named_shapes, timeout, wait};
pub use timing::{
    BATCH_ROWS_MAX, append_row, batch_rows_to_wire, rows, server_times_from_wire,
    server_times_to_wire, stages_from_wire, stages_to_wire,
};
