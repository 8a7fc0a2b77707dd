//! Plain TCP: every message is a head of 128 bytes, its tail and its payload.
//!
//! A payload is read straight into its slot, after the header in front of it was checked; there
//! is no staging buffer at either end. Each connection is one session: the client says hello with
//! the session's token and is answered by a welcome or a goodbye.
//!
//! **What is timed.** TCP has no doorbell. `seen` is when the first byte of a header was read and
//! `visible` is when the last byte of its payload was in the slot, so the time that a payload
//! spends on the wire counts as `receive`, as far as it comes after its header. `Sent` means that
//! the last byte was handed to the kernel, not that the peer has it: `send` and `reply` are the
//! time of that hand-over, and [`Capabilities::reports_completion`] is false.
//!
//! **One connection per lease.** A second connection of a session is refused while the first
//! lives. Once the first broke, the lease is spent: the session has to be resumed, which is a new
//! admission with a higher generation. Admitting it cuts off whatever was connected under the
//! older one.
//!
//! **What is left to the session's lease.** A peer whose host vanishes without a word is not
//! noticed here until something is sent to it.
//!
//! [`Capabilities::reports_completion`]: crate::link::Capabilities::reports_completion

mod client;
mod connection;
mod doors;
mod listener;
mod stream;

use std::time::Duration;

use ferry_core::LinkKind;

use crate::link::Capabilities;

pub use client::TcpClient;
pub use listener::TcpListenerLink;

const CAPABILITIES: Capabilities = Capabilities {
    kind: LinkKind::Tcp,
    one_sided: false,
    reports_completion: false,
    carries_frames: true,
    threads: 2,
};

/// Most bytes read from one connection before the next one has its turn: a few of the usual
/// tensors, and about a millisecond of copying.
const TURN_BYTES_MAX: usize = 4 << 20;

/// Most frames taken from one connection before the next one has its turn.
const TURN_FRAMES_MAX: usize = 16;

/// Limits of the server's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// Most sessions at a time.
    pub sessions_max: usize,
    /// Most connections that have not said hello. When one more comes, the one that has been
    /// silent longest is closed, so that the silent cannot keep others out.
    pub unproven_max: usize,
    /// How long a connection may take to say hello.
    pub hello_within: Duration,
    /// `SO_SNDBUF` and `SO_RCVBUF`; `None` leaves the sizes to the kernel, which tunes them as it
    /// goes.
    pub socket_buffer_bytes: Option<usize>,
}

impl Default for TcpOptions {
    fn default() -> TcpOptions {
        TcpOptions {
            sessions_max: 1024,
            unproven_max: 64,
            hello_within: Duration::from_secs(5),
            socket_buffer_bytes: None,
        }
    }
}
