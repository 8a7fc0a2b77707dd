//! The listening socket, and the connections that have proved nothing yet.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use ferry_memory::{Bell, PeerId};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::notices::{Notice, Notices};
use super::wire;
use crate::link::LinkError;

/// Connections that the kernel holds until the lane looks; more are made to wait.
const BACKLOG: i32 = 128;
/// Connections that may be open without a proof. A client's hello follows its connecting at once,
/// so that an honest one is one of these for microseconds. Where one more comes, the oldest goes.
const STRANGERS_MAX: usize = 64;
/// How long a connection may stay without a proof.
pub(super) const HELLO_WITHIN: Duration = Duration::from_secs(2);

/// Somebody who connected.
#[derive(Debug)]
pub(super) struct Stranger {
    pub(super) peer: PeerId,
    pub(super) socket: OwnedFd,
    since: Instant,
}

/// Where clients knock.
#[derive(Debug)]
pub(super) struct Door {
    listening: OwnedFd,
    name: String,
    /// Users of this machine that may come in; `None`: whoever has a token.
    users: Option<Vec<u32>>,
    /// Oldest first.
    strangers: VecDeque<Stranger>,
    /// Given up for a moment to take, and close, a connection when descriptors are used up: it
    /// would be announced again and again otherwise.
    spare: Option<Bell>,
}

impl Door {
    /// Listens at `name` in the abstract namespace.
    pub(super) fn open(name: &str, notices: &Notices) -> Result<Door, LinkError> {
        let refused = |errno: Errno| LinkError::os(format!("listen at the socket {name:?}"), errno);
        let listening = wire::socket().map_err(refused)?;
        rustix::net::bind(&listening, &wire::address(name)?).map_err(refused)?;
        rustix::io::ioctl_fionbio(&listening, true).map_err(refused)?;
        rustix::net::listen(&listening, BACKLOG).map_err(refused)?;
        notices.add(&listening, Notice::Door)?;
        let strangers = VecDeque::with_capacity(STRANGERS_MAX);
        let (name, spare) = (name.to_owned(), Bell::new().ok());
        Ok(Door { listening, name, users: None, strangers, spare })
    }

    /// Lets in nobody but these users from now on.
    pub(super) fn only(&mut self, users: Vec<u32>) {
        self.users = Some(users);
    }

    /// Whether the user at the other end may come in, as the kernel says who it is.
    pub(super) fn admits(&self, socket: &OwnedFd) -> bool {
        let Some(users) = &self.users else { return true };
        let peer = rustix::net::sockopt::socket_peercred(socket.as_fd());
        peer.is_ok_and(|peer| users.contains(&peer.uid.as_raw()))
    }

    /// The abstract name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Takes one connection in. `None` if nobody knocks any more.
    pub(super) fn accept(&mut self) -> Option<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match rustix::net::accept_with(&self.listening, flags) {
            Ok(socket) => Some(socket),
            Err(errno @ (Errno::MFILE | Errno::NFILE)) => {
                tracing::warn!(%errno, "a client was turned away; raise the limit of descriptors");
                self.spare = None;
                drop(rustix::net::accept_with(&self.listening, flags));
                self.spare = Bell::new().ok();
                None
            }
            // AGAIN: nobody is there. Others: who was there is gone.
            Err(_) => None,
        }
    }

    /// Keeps a connection until it proves itself. Returns the one that had to go for it.
    pub(super) fn keep(&mut self, peer: PeerId, socket: OwnedFd) -> Option<Stranger> {
        let full = self.strangers.len() == STRANGERS_MAX;
        let oldest = if full { self.strangers.pop_front() } else { None };
        self.strangers.push_back(Stranger { peer, socket, since: Instant::now() });
        oldest
    }

    /// The connection of a stranger, still kept.
    pub(super) fn stranger(&self, peer: PeerId) -> Option<&Stranger> {
        self.strangers.iter().find(|stranger| stranger.peer == peer)
    }

    /// Gives a stranger's connection away.
    pub(super) fn take(&mut self, peer: PeerId) -> Option<Stranger> {
        let at = self.strangers.iter().position(|stranger| stranger.peer == peer)?;
        self.strangers.remove(at)
    }

    /// A stranger whose time is over.
    pub(super) fn take_late(&mut self) -> Option<Stranger> {
        let oldest = self.strangers.front()?;
        if oldest.since.elapsed() < HELLO_WITHIN {
            return None;
        }
        self.strangers.pop_front()
    }

    /// How long until a stranger's time is over.
    pub(super) fn patience(&self) -> Option<Duration> {
        let oldest = self.strangers.front()?;
        Some(HELLO_WITHIN.saturating_sub(oldest.since.elapsed()))
    }
}

/// For the log: which process is at the other end, as the kernel says.
pub(super) fn log_peer(socket: &OwnedFd, session: ferry_core::SessionId) {
    match rustix::net::sockopt::socket_peercred(socket.as_fd()) {
        Ok(peer) => {
            let (pid, uid) = (peer.pid.as_raw_nonzero().get(), peer.uid.as_raw());
            tracing::debug!(%session, pid, uid, "peer proved itself");
        }
        Err(errno) => tracing::debug!(%session, %errno, "peer proved itself"),
    }
}
