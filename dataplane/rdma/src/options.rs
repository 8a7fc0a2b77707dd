//! What can be chosen.

/// How a peer is kept from memory that is not its own any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Fence {
    /// Windows where the device has them, else a registration per session.
    #[default]
    Auto,
    /// A type-2B memory window per lease; an error where the device has none.
    Window,
    /// A registration per lease.
    Registration,
}

/// Which device is used, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RdmaOptions {
    /// The device's name, as `ibv_devices` shows it; `None`: the first with an active port.
    pub device: Option<String>,
    /// Its port, from 1; `None`: the first active one.
    pub port: Option<u8>,
    /// Entry of the port's table to use instead of choosing by rank.
    pub gid_index: Option<u8>,
    /// Of the server's memory. A client's memory always has a registration of its own.
    pub fence: Fence,
    /// Lets sessions share a registration although the device does not check a window's bounds.
    /// Only for tests of the fence: a tenant could write into another's memory.
    #[doc(hidden)]
    pub trust_window_bounds: bool,
    /// Most sessions of one listener.
    pub sessions_max: usize,
    /// Most completions that may be outstanding on one listener; fewer where the device has fewer.
    /// A session of n slots takes 2 n + 7 of them; one for which there are none is not admitted.
    pub completions_max: u32,
    /// Frames up to this many bytes, header included, are handed to the device in the work
    /// request itself, if it takes so many.
    pub inline_bytes: u32,
}

impl Default for RdmaOptions {
    /// The first device that works; 4,096 sessions: with 8 slots each they need 90,112 entries of
    /// a completion queue, more than most devices have, so that the device is the bound.
    fn default() -> RdmaOptions {
        RdmaOptions {
            device: None,
            port: None,
            gid_index: None,
            fence: Fence::Auto,
            trust_window_bounds: false,
            sessions_max: 4096,
            completions_max: 65_536,
            inline_bytes: 192,
        }
    }
}
