//! From an endpoint and a token to mapped memory.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{Body, DeviceMemory, Endpoint, Frame, LinkKind, RegionDescriptor};
use ferry_memory::{Bell, Importer, MemoryError, PeerAccess, Region, SharedBacking, SlotTable};
use rustix::io::Errno;

use crate::connect::ConnectError;
use crate::link::LinkError;
use crate::shm::layout::{SessionLayout, SessionMemory, Signals, Slots};
use crate::shm::wire::{self, Welcome};

/// What a client has once it is connected.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) socket: OwnedFd,
    pub(super) bell: Bell,
    pub(super) signals: Signals,
    pub(super) table: Arc<SlotTable>,
}

/// Proves the session by `hello` and maps what comes back, if it is as described.
pub(super) fn join(
    endpoint: &Endpoint,
    hello: &Frame,
    descriptor: &RegionDescriptor,
    importer: Option<&dyn Importer>,
    deadline: Instant,
) -> Result<Joined, ConnectError> {
    let Some(name) = endpoint.address_on(LinkKind::Shm) else {
        return Err(ConnectError::Address(endpoint.clone(), LinkKind::Shm));
    };
    let (layout, device) = SessionLayout::described(descriptor)?;
    let device = device.map(|memory| importer.ok_or_else(no_importer).map(|it| (it, memory)));
    let device = device.transpose()?;
    let unreachable = |why| ConnectError::Unreachable { address: name.to_owned(), why };
    let os = |what: &str| {
        let what = what.to_owned();
        move |errno: Errno| unreachable(LinkError::os(what, errno))
    };
    let socket = wire::socket().map_err(os("make a socket"))?;
    wire::set_patience(&socket, time_left(name, deadline)?)?;
    rustix::net::connect(&socket, &wire::address(name)?).map_err(os("connect"))?;
    wire::send(socket.as_fd(), hello).map_err(os("send the hello"))?;
    wire::set_patience(&socket, time_left(name, deadline)?)?;
    let protocol = |what: String| ConnectError::Protocol { address: name.to_owned(), what };
    let (welcome, [memfd, bell]) = match wire::receive_welcome(&socket) {
        Ok(Welcome::Accepted(frame, fds)) => (frame, fds),
        Ok(Welcome::Refused(status)) => return Err(ConnectError::Refused(status)),
        Ok(Welcome::Nonsense(what)) => return Err(protocol(what)),
        Err(Errno::AGAIN) => return Err(ConnectError::Late(name.to_owned())),
        Err(errno) => return Err(os("wait for the welcome")(errno)),
    };
    if (welcome.session, welcome.generation) != (hello.session, hello.generation)
        || welcome.body != Body::Welcome
    {
        return Err(protocol("a welcome to another session".into()));
    }
    let (signals, table) = map(memfd, &layout, device)?;
    Ok(Joined { socket, bell: Bell::from(bell), signals, table })
}

fn no_importer() -> MemoryError {
    let what = "the slots lie in memory of a CUDA device, and this client opens none: ask for shm";
    MemoryError::Foreign { what: what.into() }
}

fn map(
    memfd: OwnedFd,
    layout: &SessionLayout,
    device: Option<(&dyn Importer, DeviceMemory)>,
) -> Result<(Signals, Arc<SlotTable>), MemoryError> {
    let backing = SharedBacking::import(memfd, layout.bytes(), layout.slots())?;
    // Last, once the server has shown that it lives and the session is ours: opening a device may
    // take long.
    let slots = match device {
        Some((importer, memory)) => Slots::Apart(importer.open(&memory)?),
        None => Slots::InMemfd(None),
    };
    let memory = SessionMemory::new(Region::whole(backing), layout, slots)?;
    // The server writes only the reply half of a slot that is in flight, and is trusted to.
    let table = SlotTable::over(layout.slots(), PeerAccess::None, memory.slots)?;
    Ok((memory.signals, table))
}

fn time_left(name: &str, deadline: Instant) -> Result<Duration, ConnectError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ConnectError::Late(name.to_owned())) } else { Ok(left) }
}
