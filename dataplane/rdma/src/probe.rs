//! What a device's memory windows are worth, found out by trying: they are the fence between
//! tenants, and there are drivers that do not check their bounds.

use std::sync::Arc;

use ferry_transport::LinkError;

use crate::loopback::Loopback;
use crate::pool::{Room, own};
use crate::port::Port;
use crate::verbs::{Access, CompletionStatus, Window, Write};

/// The window of the probe: the first page of its memory.
const WINDOW_BYTES: u64 = 4096;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WindowProbe {
    /// Bounds are checked and a key that was taken back is of no use.
    Hold,
    /// A key that was taken back is of no use, but a write may cross the window's end.
    Unbounded,
    /// There are none, or they do not fence; why.
    None(String),
}

impl std::fmt::Display for WindowProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WindowProbe::Hold => f.write_str("type 2B, bounds and invalidation hold"),
            WindowProbe::Unbounded => f.write_str(
                "type 2B, invalidation holds, bounds are not checked: each lease has a \
                 registration of its own",
            ),
            WindowProbe::None(why) => write!(f, "not used: {why}"),
        }
    }
}

/// Tries the windows of a port's device with two queue pairs connected to each other.
pub(crate) fn probe(port: &Port) -> WindowProbe {
    if !port.facts.windows_2b || port.facts.windows_max == 0 {
        return WindowProbe::None("the device has no windows of type 2B".into());
    }
    match try_out(port) {
        Ok(found) => found,
        Err(error) => WindowProbe::None(format!("the trial failed: {error}")),
    }
}

fn try_out(port: &Port) -> Result<WindowProbe, LinkError> {
    let mut stale = Rig::new(port)?;
    stale.bind()?;
    if !stale.write(0)?.is_success() {
        return Ok(WindowProbe::None("a write inside a window was refused".into()));
    }
    stale.take_back()?;
    if stale.write(0)?.is_success() {
        return Ok(WindowProbe::None("a window that was taken back still takes writes".into()));
    }
    let mut crossing = Rig::new(port)?;
    crossing.bind()?;
    let status = crossing.write(WINDOW_BYTES - 8)?;
    let intact = crossing.is_intact_from(WINDOW_BYTES)?;
    Ok(if intact && !status.is_success() { WindowProbe::Hold } else { WindowProbe::Unbounded })
}

/// Two queue pairs, one writing into a window of the other's.
struct Rig {
    // A queue pair with a bound window must not be destroyed: the window goes first.
    window: Window,
    loopback: Loopback,
    memory: Room,
    source: Room,
}

impl Rig {
    fn new(port: &Port) -> Result<Rig, LinkError> {
        let make = |bytes, access| {
            own(&port.domain, bytes, access).map_err(|error| LinkError::os("register", error))
        };
        let memory = make(3 * 4096, Access::Windowed)?;
        let source = make(4096, Access::Source)?;
        let loopback = Loopback::new(port, &port.domain)?;
        let window = Window::new(&port.domain, Arc::clone(memory.registered.registration()))?;
        Ok(Rig { window, loopback, memory, source })
    }

    fn bind(&mut self) -> Result<(), LinkError> {
        let base = self.memory.registered.address();
        self.loopback.target.bind(1, &mut self.window, base, WINDOW_BYTES)?;
        self.expect(1, "bind a window")
    }

    fn take_back(&mut self) -> Result<(), LinkError> {
        self.loopback.target.invalidate(2, &self.window)?;
        self.expect(2, "invalidate a window")
    }

    fn expect(&self, id: u64, what: &str) -> Result<(), LinkError> {
        match self.loopback.wait(id)? {
            status if status.is_success() => Ok(()),
            status => Err(LinkError::os(what, status)),
        }
    }

    /// Writes 16 bytes at an offset, with the window's key; how it ended.
    fn write(&mut self, at: u64) -> Result<CompletionStatus, LinkError> {
        self.source
            .region
            .view_mut()
            .copy_in(0, &[0xa5; 16])
            .map_err(|error| LinkError::os("fill", error))?;
        self.loopback.write(&Write {
            id: 3,
            part: self.source.registered.part(0, 16)?,
            remote_address: self.memory.registered.address() + at,
            remote_key: self.window.key(),
            immediate: 0,
        })
    }

    /// Whether nothing was written from an offset on.
    fn is_intact_from(&self, at: u64) -> Result<bool, LinkError> {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let mut seen = [0; 64];
        let read = self.memory.region.view().copy_out(at, &mut seen);
        read.map_err(|error| LinkError::os("read", error))?;
        Ok(seen.iter().all(|&byte| byte == 0))
    }
}
