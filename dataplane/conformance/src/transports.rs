//! The transports that tests of whole servers go through, from the table of all.

use ferry_core::{Slots, Transport};

/// Those that work on every machine, since they need no device of it.
pub fn everywhere() -> impl Iterator<Item = Transport> {
    let needs_none = |it: &Transport| !it.is_device() && !it.facts().needs_attach;
    Transport::ALL.into_iter().filter(needs_none)
}

/// Of these, those that a client outside the server can have.
pub fn outside() -> impl Iterator<Item = Transport> {
    everywhere().filter(|it| *it != Transport::Local)
}

/// Of these, those whose client end needs nothing but the endpoint: all but the control plane's own.
pub fn linked() -> impl Iterator<Item = Transport> {
    outside().filter(|it| it.facts().slots != Slots::Message)
}
