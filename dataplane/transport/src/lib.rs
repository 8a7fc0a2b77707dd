//! Carries doorbells and bytes: the [`Link`] trait, what drives a link at either end, and the
//! links `local`, `shm`, `tcp` and `zmq`.
#![forbid(unsafe_code)]

pub mod admitted;
mod bell;
pub mod clock;
pub mod connect;
pub mod driver;
pub mod event;
pub mod faulty;
pub mod lane;
pub mod link;
pub mod local;
pub mod outbox;
mod outgoing;
mod roster;
pub mod shm;
pub mod tcp;
pub mod wait;
#[cfg(feature = "zmq")]
pub mod zmq;

pub use admitted::{Admission, Admitted, Refusal};
pub use clock::UnixClock;
pub use connect::ConnectError;
pub use driver::{
    Completion, Driver, DriverOptions, DriverState, Ending, RecordSink, SubmitError, SubmitRefusal,
};
pub use faulty::{Faults, Faulty};
pub use lane::{ANSWER_MAX, Answer, Handler, LaneError, LaneHandle, LaneOptions, LaneStats};
pub use link::{
    AdmitError, Capabilities, Event, Events, Link, LinkError, Listener, Rejected, Transfer, Wake,
    Waker,
};
pub use local::{LocalClient, LocalDoor, LocalListener};
pub use outbox::Outbox;
pub use shm::{ShmClient, ShmListener};
pub use tcp::{TcpClient, TcpListenerLink, TcpOptions};
pub use wait::Waiter;
#[cfg(feature = "zmq")]
pub use zmq::{ZmqClient, ZmqListenerLink, ZmqOptions};
