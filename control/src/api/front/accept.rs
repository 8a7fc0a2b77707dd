//! Connections of the control plane: how many there may be, and what each has to do to stay.
//!
//! A connection is a stranger's until a call on it was let in. Strangers have a moment to begin
//! HTTP/2, and there is room for some only: where one more comes, the one that was here longest
//! goes, so that nobody is locked out by those who only wait.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use super::body::Budgets;
use crate::serving::refusals::Refusals;

/// What every client of HTTP/2 sends first: the preface and the head of its settings.
const BEGINNING_BYTES: usize = 24 + 9;

/// Most strangers, where there may be more connections than twice as many.
const STRANGERS_MAX: usize = 256;

/// Pause after the system could not accept: no descriptor or memory is left.
const PAUSE: Duration = Duration::from_millis(200);

/// Pause for those that were sent away to go.
const LEAVES_WITHIN: Duration = Duration::from_millis(2);

/// One connection may use this share of the bytes of all calls.
const SHARE: u64 = 4;

/// Who is connected.
#[derive(Debug)]
pub(crate) struct Peers {
    max: usize,
    strangers_max: usize,
    calls_bytes_max: u64,
    /// How long the beginning may take.
    begins_within: Duration,
    refusals: Arc<Refusals>,
    room: Mutex<Room>,
}

#[derive(Debug, Default)]
struct Room {
    all: usize,
    /// Of all, those that were sent away and are not gone yet.
    leaving: usize,
    next: u64,
    /// By number, hence by age.
    strangers: BTreeMap<u64, Arc<Peer>>,
}

/// What becomes of a connection that comes.
#[derive(Debug)]
enum Entry {
    In(Arc<Peer>),
    /// There is room once those that were sent away are gone.
    Wait,
    /// All others have proved themselves.
    Full,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Peer {
    number: u64,
    peers: Arc<Peers>,
    is_on_this_host: bool,
    /// What its calls may take of the bytes of all.
    pub(crate) budgets: Budgets,
    is_proved: AtomicBool,
    /// It has to go.
    is_over: AtomicBool,
    reads: AtomicWaker,
}

impl Peers {
    pub(crate) fn new(
        max: usize,
        calls_bytes_max: u64,
        begins_within: Duration,
        refusals: &Arc<Refusals>,
    ) -> Arc<Peers> {
        Arc::new(Peers {
            max,
            strangers_max: STRANGERS_MAX.min(max / 2).max(1),
            calls_bytes_max,
            begins_within,
            refusals: Arc::clone(refusals),
            room: Mutex::default(),
        })
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, what: &'static str, why: &dyn Display) {
        self.refusals.note("grpc", what, None, None, why);
    }

    /// Takes a connection, and sends the oldest stranger away where there is no room.
    fn join(self: &Arc<Self>, stream: &TcpStream) -> Entry {
        let mut room = self.room();
        if room.all >= self.max + self.strangers_max {
            return Entry::Wait;
        }
        let is_full = room.all - room.leaving >= self.max;
        if is_full || room.strangers.len() >= self.strangers_max {
            match room.strangers.pop_first() {
                Some((_, oldest)) => {
                    room.leaving += 1;
                    oldest.end();
                }
                None if is_full => return Entry::Full,
                None => {}
            }
        }
        room.all += 1;
        room.next += 1;
        let number = room.next;
        let peer = Arc::new(Peer {
            number,
            peers: Arc::clone(self),
            is_on_this_host: is_on_this_host(stream.peer_addr(), stream.local_addr()),
            budgets: Budgets::new(self.calls_bytes_max / SHARE),
            is_proved: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            reads: AtomicWaker::new(),
        });
        room.strangers.insert(number, Arc::clone(&peer));
        Entry::In(peer)
    }
}

impl Peer {
    /// A call was let in: it is no stranger's any more.
    pub(crate) fn prove(&self) {
        if !self.is_proved.swap(true, Ordering::Relaxed) {
            self.peers.room().strangers.remove(&self.number);
        }
    }

    /// Whether it comes from this host, by its address: a proxy on this host hides who is behind it.
    pub(crate) fn is_on_this_host(&self) -> bool {
        self.is_on_this_host
    }

    /// Sends a stranger away.
    fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        self.reads.wake();
    }
}

/// A connection's bytes.
#[derive(Debug)]
pub(crate) struct Guarded {
    stream: TcpStream,
    peer: Arc<Peer>,
    /// Of the beginning, as far as it is there.
    begun: usize,
    /// Until the beginning is there.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Guarded {
    fn new(stream: TcpStream, peer: Arc<Peer>) -> Guarded {
        let within = peer.peers.begins_within;
        let deadline = Some(Box::pin(tokio::time::sleep(within)));
        Guarded { stream, peer, begun: 0, deadline }
    }

    fn refuse(&self, what: &'static str, why: &'static str) -> io::Error {
        self.peer.peers.note(what, &why);
        io::Error::new(io::ErrorKind::TimedOut, why)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let mut room = self.peer.peers.room();
        room.all = room.all.saturating_sub(1);
        if self.peer.is_over.load(Ordering::Acquire) {
            room.leaving = room.leaving.saturating_sub(1);
        }
        room.strangers.remove(&self.peer.number);
    }
}

impl Connected for Guarded {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Arc<Peer> {
        Arc::clone(&self.peer)
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.peer.reads.register(context.waker());
        if this.peer.is_over.load(Ordering::Acquire) {
            let why = "too many connections on which no call was let in; the oldest goes";
            return Poll::Ready(Err(this.refuse("strangers", why)));
        }
        let before = into.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, into);
        if let Some(deadline) = &mut this.deadline {
            this.begun += into.filled().len() - before;
            if this.begun >= BEGINNING_BYTES {
                this.deadline = None;
            } else if read.is_pending() && deadline.as_mut().poll(context).is_ready() {
                let why = "a connection that did not begin HTTP/2 in time";
                return Poll::Ready(Err(this.refuse("handshake", why)));
            }
        }
        read
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, from)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The connections that come.
#[derive(Debug)]
pub(crate) struct Incoming {
    listener: TcpListener,
    peers: Arc<Peers>,
    pause: Option<Pin<Box<Sleep>>>,
    /// Came, and waits for room.
    waiting: Option<TcpStream>,
}

impl Incoming {
    pub(crate) fn new(listener: TcpListener, peers: Arc<Peers>) -> Incoming {
        Incoming { listener, peers, pause: None, waiting: None }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Guarded>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Guarded>>> {
        let this = &mut *self;
        loop {
            if let Some(pause) = &mut this.pause {
                ready!(pause.as_mut().poll(context));
                this.pause = None;
            }
            let came = match this.waiting.take() {
                Some(stream) => Ok(stream),
                None => ready!(this.listener.poll_accept(context)).map(|(stream, _)| stream),
            };
            match came {
                Ok(stream) => match this.peers.join(&stream) {
                    Entry::In(peer) => {
                        // A connection that is gone already says so when it is read.
                        drop(stream.set_nodelay(true));
                        return Poll::Ready(Some(Ok(Guarded::new(stream, peer))));
                    }
                    Entry::Wait => {
                        this.waiting = Some(stream);
                        this.pause = Some(Box::pin(tokio::time::sleep(LEAVES_WITHIN)));
                    }
                    Entry::Full => {
                        let max = this.peers.max;
                        let why = format!("{max} connections are open (connections-max)");
                        this.peers.note("connections", &why);
                    }
                },
                Err(error) if is_of_one(&error) => {}
                Err(error) => {
                    this.peers.note("accept", &error);
                    this.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
                }
            }
        }
    }
}

/// Whether both ends of a connection have one address. One that is gone already is nobody's.
fn is_on_this_host(peer: io::Result<SocketAddr>, own: io::Result<SocketAddr>) -> bool {
    let (Ok(peer), Ok(own)) = (peer, own) else { return false };
    let [peer, own] = [peer, own].map(|address| address.ip().to_canonical());
    peer == own || peer.is_loopback()
}

/// Whether the error is of the connection that came, not of the server.
fn is_of_one(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_told_by_its_address() {
        for (peer, own, expected) in [
            ("127.0.0.1:5", "127.0.0.1:7077", true),
            ("127.0.0.2:5", "127.0.0.1:7077", true),
            ("[::ffff:10.0.0.1]:5", "10.0.0.1:7077", true),
            ("[::1]:5", "[::1]:7077", true),
            ("10.0.0.2:5", "10.0.0.1:7077", false),
            ("[2001:db8::2]:5", "[2001:db8::1]:7077", false),
        ] {
            let [peer, own] = [peer, own].map(|it| Ok(it.parse().unwrap()));
            assert_eq!(is_on_this_host(peer, own), expected);
        }
        let gone = || Err(io::ErrorKind::NotConnected.into());
        assert!(!is_on_this_host(gone(), gone()));
    }
}
