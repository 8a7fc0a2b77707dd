//! Carries doorbells and bytes: the [`Link`] trait, what drives a link at either end, and the
//! links `local`, `shm`, `tcp` and `zmq`.
#![forbid(unsafe_code)]

pub mod admitted;
pub mod connect;
mod event;
pub mod link;
mod outgoing;
mod roster;
pub mod tcp;
pub mod wait;
pub mod zmq;

pub use admitted::{Admission, Admitted, Refusal};
pub use connect::ConnectError;
pub use link::{
    AdmitError, Capabilities, Event, Events, Link, LinkError, Listener, Rejected, Transfer, Wake,
    Waker,
};
pub use tcp::{TcpClient, TcpListenerLink, TcpOptions};
pub use wait::Waiter;
pub use zmq::{ZmqClient, ZmqListenerLink, ZmqOptions};
