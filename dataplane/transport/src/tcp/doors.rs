//! What the kernel is asked: who connects, who has sent something, who can take more.

use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_memory::PeerId;
use rustix::event::{Timespec, epoll};
use rustix::net::sockopt;

use crate::event::EventWaker;
use crate::link::LinkError;
use crate::tcp::connection::Connection;

/// Most connections taken at a time, so that a storm of them does not starve those there are.
const ACCEPTS_PER_LOOK_MAX: usize = 16;

/// How long no connection is taken after the system refused one (it has no file descriptors
/// left): without a pause the waiting connection would end every sleep at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Most that one look reports; the kernel reports the others next time.
const KNOCKS_MAX: usize = 64;

const WAKER: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 1;

/// Who wants something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Knock {
    Waker,
    Listener,
    Peer(PeerId),
}

/// The listening socket and the epoll instance.
#[derive(Debug)]
pub(crate) struct Doors {
    epoll: OwnedFd,
    listener: TcpListener,
    socket_buffer_bytes: Option<usize>,
    knocks: Vec<Knock>,
    paused_until: Option<Instant>,
}

impl Doors {
    pub(crate) fn new(
        listener: TcpListener,
        waker: &Arc<EventWaker>,
        socket_buffer_bytes: Option<usize>,
    ) -> Result<Doors, LinkError> {
        let setup = || -> std::io::Result<OwnedFd> {
            listener.set_nonblocking(true)?;
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let data = epoll::EventData::new_u64;
            epoll::add(&epoll, waker.as_fd(), data(WAKER), epoll::EventFlags::IN)?;
            epoll::add(&epoll, &listener, data(LISTENER), epoll::EventFlags::IN)?;
            Ok(epoll)
        };
        let epoll = setup().map_err(|error| LinkError::os("set up the listener", error))?;
        let knocks = Vec::with_capacity(KNOCKS_MAX);
        Ok(Doors { epoll, listener, socket_buffer_bytes, knocks, paused_until: None })
    }

    /// Waits until there is news, at most `at_most`. Keeps the news of the last look until it was
    /// taken.
    pub(crate) fn look(&mut self, at_most: Duration) {
        if !self.knocks.is_empty() {
            return;
        }
        self.end_pause();
        // A time too long to be written down is as good as for ever.
        let timeout = Timespec::try_from(at_most).ok();
        let mut buffer = [const { MaybeUninit::<epoll::Event>::uninit() }; KNOCKS_MAX];
        // Interrupted by a signal is as good as early.
        if let Ok((news, _)) = epoll::wait(&self.epoll, &mut buffer[..], timeout.as_ref()) {
            self.knocks.extend(news.iter().map(|event| match event.data.u64() {
                WAKER => Knock::Waker,
                LISTENER => Knock::Listener,
                peer => Knock::Peer(PeerId(peer)),
            }));
        }
    }

    /// Whether the last look's news are still to be taken.
    pub(crate) fn has_news(&self) -> bool {
        !self.knocks.is_empty()
    }

    /// Whether the waker is among the news.
    pub(crate) fn waker_rang(&self) -> bool {
        self.knocks.contains(&Knock::Waker)
    }

    /// Takes the news.
    pub(crate) fn knocks(&mut self) -> impl Iterator<Item = Knock> + '_ {
        self.knocks.drain(..)
    }

    /// The connections that wait, ready to use.
    pub(crate) fn accept(&mut self) -> Vec<TcpStream> {
        let mut streams = Vec::new();
        for _ in 0..ACCEPTS_PER_LOOK_MAX {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if prepare(&stream, self.socket_buffer_bytes).is_ok() {
                        streams.push(stream);
                    }
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => break,
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    _ => {
                        tracing::warn!(%error, "tcp: no connection taken; pausing");
                        self.pause();
                        break;
                    }
                },
            }
        }
        streams
    }

    /// Reports on a connection from now on; closing it ends that.
    pub(crate) fn add(&self, stream: &TcpStream, peer: PeerId) -> rustix::io::Result<()> {
        epoll::add(&self.epoll, stream, epoll::EventData::new_u64(peer.0), epoll::EventFlags::IN)
    }

    /// Reports room for writing too, or no more.
    pub(crate) fn arm(&self, connection: &mut Connection, armed: bool) {
        if connection.armed == armed {
            return;
        }
        let out = if armed { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
        let data = epoll::EventData::new_u64(connection.peer.0);
        let flags = epoll::EventFlags::IN | out;
        // Cannot fail for a descriptor that was added; if it did, the next poll flushes anyway.
        if epoll::modify(&self.epoll, &connection.stream, data, flags).is_ok() {
            connection.armed = armed;
        }
    }

    fn pause(&mut self) {
        if self.listen(epoll::EventFlags::empty()) {
            self.paused_until = Some(Instant::now() + ACCEPT_PAUSE);
        }
    }

    fn end_pause(&mut self) {
        if self.paused_until.is_some_and(|until| until <= Instant::now())
            && self.listen(epoll::EventFlags::IN)
        {
            self.paused_until = None;
        }
    }

    fn listen(&self, flags: epoll::EventFlags) -> bool {
        let data = epoll::EventData::new_u64(LISTENER);
        epoll::modify(&self.epoll, &self.listener, data, flags).is_ok()
    }
}

/// Sets what both ends set on a stream.
pub(crate) fn prepare(stream: &TcpStream, buffer_bytes: Option<usize>) -> std::io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    if let Some(bytes) = buffer_bytes {
        sockopt::set_socket_send_buffer_size(stream.as_fd(), bytes)?;
        sockopt::set_socket_recv_buffer_size(stream.as_fd(), bytes)?;
    }
    Ok(())
}
