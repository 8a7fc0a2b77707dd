//! Measures: closed-loop load on a server ([`measure()`]), by our sessions or over the Open Inference
//! Protocol, and our links beside bare references ([`floor`]). Everything measured is a value; nothing is printed here.
#![forbid(unsafe_code)]

mod crew;
mod error;
pub mod floor;
mod inside;
mod measure;
mod member;
mod oip;
mod own_server;
mod picture;
mod rdma;
mod session_caller;
mod stop;
mod summary;
pub mod tune;
mod way;
mod work;

pub use crew::{Crew, Load, Outcome, round_ratios};
pub use error::Error;
pub use measure::{Measured, Plan, measure, transports};
pub use member::Extent;
pub use oip::{Carrier, OipWork, oip_signature};
pub use own_server::OwnServer;
pub use picture::{Picture, PictureKind, decode_options};
pub use rdma::RdmaDevice;
pub use stop::Stop;
pub use summary::{DERIVED, Distribution, Summary, Tally};
pub use way::{Way, sessions};
pub use work::{Shapes, Work, echo_shapes};

/// Hears how far a measurement is. `()` does not listen.
pub trait Progress {
    /// So many steps begin.
    fn begin(&mut self, steps: u64, what: &str);
    /// One of them is done.
    fn step(&mut self);
    /// All are done.
    fn end(&mut self);
}

impl Progress for () {
    fn begin(&mut self, _steps: u64, _what: &str) {}
    fn step(&mut self) {}
    fn end(&mut self) {}
}
