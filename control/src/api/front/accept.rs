//! Connections of the control plane: how many there may be, over gRPC and HTTP together.
//!
//! A connection is a stranger's until a call on it was let in. Strangers have a moment to begin
//! (`guarded`), and there is room for some only (`strangers`): where one more comes, the one that was
//! here longest goes, so that nobody is locked out by those who only wait.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ferry_memory::PeerId;
use futures_util::Stream;
use futures_util::task::AtomicWaker;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;

use super::body::{Budgets, SLOWEST};
use super::guarded::Guarded;
use super::strangers::Strangers;
use crate::config::Front;
use crate::serving::refusals::Refusals;

/// Most strangers, where there may be more connections than twice as many.
const STRANGERS_MAX: usize = 256;

/// Pause after the system could not accept: no descriptor or memory is left.
const PAUSE: Duration = Duration::from_millis(200);

/// Pause for those that were sent away to go.
const LEAVES_WITHIN: Duration = Duration::from_millis(2);

/// One connection may use this share of the bytes of all calls.
const SHARE: u64 = 4;

/// Where a connection came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Door {
    /// HTTP/2, with gRPC.
    Grpc,
    /// HTTP/1.1.
    Http,
    /// HTTP/1.1, with metrics alone.
    Metrics,
}

impl Door {
    /// As refusals name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Door::Grpc => "grpc",
            Door::Http => "http",
            Door::Metrics => "metrics",
        }
    }
}

/// Who is connected.
#[derive(Debug)]
pub(crate) struct Peers {
    max: usize,
    strangers_max: usize,
    calls_bytes_max: u64,
    /// How long the beginning may take.
    pub(super) begins_within: Duration,
    /// How long an answer may wait for its reader; long ones get more.
    pub(super) read_within: Duration,
    refusals: Arc<Refusals>,
    room: Mutex<Room>,
}

#[derive(Debug, Default)]
struct Room {
    all: usize,
    /// Of all, those that were sent away and are not gone yet.
    leaving: usize,
    next: u64,
    strangers: Strangers<Arc<Peer>>,
}

impl Peer {
    /// Its name among the callers that share a session. 0 is nobody's.
    pub(crate) fn id(&self) -> PeerId {
        PeerId(self.number)
    }
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
    pub(super) door: Door,
    pub(super) peers: Arc<Peers>,
    is_on_this_host: bool,
    /// What its calls may take of the bytes of all.
    pub(crate) budgets: Budgets,
    is_proved: AtomicBool,
    /// The head of a first request came, over HTTP.
    has_begun: AtomicBool,
    /// Length of the answer that is under way, over HTTP.
    answer_bytes: AtomicU64,
    /// It has to go.
    is_over: AtomicBool,
    pub(super) reads: AtomicWaker,
}

impl Peers {
    pub(crate) fn new(max: usize, front: &Front, refusals: &Arc<Refusals>) -> Arc<Peers> {
        Arc::new(Peers {
            max,
            strangers_max: STRANGERS_MAX.min(max / 2).max(1),
            calls_bytes_max: front.calls_bytes_max,
            begins_within: front.begins_within,
            read_within: front.body_within,
            refusals: Arc::clone(refusals),
            room: Mutex::default(),
        })
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, door: Door, what: &'static str, why: &dyn Display) {
        self.refusals.note(door.name(), what, None, None, why);
    }

    /// Takes a connection, and sends the oldest stranger away where there is no room.
    fn join(self: &Arc<Self>, stream: &TcpStream, door: Door) -> Entry {
        let mut room = self.room();
        if room.all >= self.max + self.strangers_max {
            return Entry::Wait;
        }
        let is_full = room.all - room.leaving >= self.max;
        if is_full || room.strangers.len() >= self.strangers_max {
            match room.strangers.pop(door) {
                Some(oldest) => {
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
            door,
            peers: Arc::clone(self),
            is_on_this_host: is_on_this_host(stream.peer_addr(), stream.local_addr()),
            budgets: Budgets::new(self.calls_bytes_max / SHARE),
            is_proved: AtomicBool::new(false),
            has_begun: AtomicBool::new(false),
            answer_bytes: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            reads: AtomicWaker::new(),
        });
        room.strangers.insert(door, number, Arc::clone(&peer));
        Entry::In(peer)
    }
}

impl Peer {
    /// A call was let in: it is no stranger's any more.
    pub(crate) fn prove(&self) {
        if !self.is_proved.swap(true, Ordering::Relaxed) {
            self.peers.room().strangers.remove(self.door, self.number);
        }
    }

    /// Whether it comes from this host, by its address: a proxy on this host hides who is behind it.
    pub(crate) fn is_on_this_host(&self) -> bool {
        self.is_on_this_host
    }

    /// The head of a request came, over HTTP.
    pub(crate) fn begin(&self) {
        self.has_begun.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// An answer of so many bytes begins to leave, over HTTP.
    pub(crate) fn answer(&self, bytes: u64) {
        self.answer_bytes.store(bytes, Ordering::Relaxed);
    }

    /// How long the answer that is under way may wait for its reader.
    pub(super) fn reads_within(&self) -> Duration {
        let bytes = self.answer_bytes.load(Ordering::Relaxed);
        self.peers.read_within + Duration::from_secs(bytes / SLOWEST)
    }

    /// Sends a stranger away.
    fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        self.reads.wake();
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Its connection is gone.
    pub(super) fn leave(&self) {
        let mut room = self.peers.room();
        room.all = room.all.saturating_sub(1);
        if self.is_over() {
            room.leaving = room.leaving.saturating_sub(1);
        }
        room.strangers.remove(self.door, self.number);
    }
}

/// The connections that come.
#[derive(Debug)]
pub(crate) struct Incoming {
    listener: TcpListener,
    door: Door,
    peers: Arc<Peers>,
    pause: Option<Pin<Box<Sleep>>>,
    /// Came, and waits for room.
    waiting: Option<TcpStream>,
}

impl Incoming {
    pub(crate) fn new(listener: TcpListener, door: Door, peers: Arc<Peers>) -> Incoming {
        Incoming { listener, door, peers, pause: None, waiting: None }
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
                Ok(stream) => match this.peers.join(&stream, this.door) {
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
                        this.peers.note(this.door, "connections", &why);
                    }
                },
                Err(error) if is_of_one(&error) => {}
                Err(error) => {
                    this.peers.note(this.door, "accept", &error);
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
