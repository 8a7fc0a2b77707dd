//! What a peer may cost the control plane before it has proved anything, and while it does:
//! connections, bytes of messages that are not finished, time.
//!
//! ```text
//! accept (connections, descriptors) ── super::auth (key) ── gate ── body (length, bytes, time)
//!                                                                    └── ferry_proto::codec (memory)
//! ```

mod accept;
mod body;
mod budget;
mod gate;
mod methods;

pub(crate) use accept::{Incoming, Peer, Peers};
pub(crate) use gate::GateLayer;
