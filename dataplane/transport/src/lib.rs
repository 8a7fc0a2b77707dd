//! Carries doorbells and bytes: the [`Link`] trait, what drives a link at either end, and the
//! links `local`, `shm`, `tcp` and `zmq`.
#![forbid(unsafe_code)]

pub mod admitted;
pub mod link;
pub mod shm;
pub mod wait;

pub use admitted::{Admission, Admitted, Refusal};
pub use link::{
    AdmitError, Capabilities, Event, Events, Link, LinkError, Listener, Rejected, Transfer, Wake,
    Waker,
};
pub use wait::Waiter;
