//! What a peer may cost the control plane before it has proved anything, and while it does:
//! connections, bytes of messages that are not finished, time.
//!
//! ```text
//! accept (connections, descriptors) ── super::auth (key) ── gate ── body (length, bytes, time)
//! └── guarded (time)                                                 └── ferry_proto::codec (memory)
//! ```
//!
//! Over HTTP, `super::oip::http` is in the place of gate and body, with the same bytes and times.

mod accept;
mod body;
mod budget;
mod gate;
mod guarded;
mod methods;
mod strangers;

pub(crate) use accept::{Door, Incoming, Peer, Peers};
pub(crate) use body::{Caller, Limits, SLOWEST};
pub(crate) use budget::Held;
pub(crate) use gate::GateLayer;
pub(crate) use guarded::Guarded;
pub(crate) use methods::method;
