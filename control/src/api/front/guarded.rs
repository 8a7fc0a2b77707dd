//! The bytes of one connection: what it has to do in time to stay.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use super::accept::{Door, Peer};

/// What every client of HTTP/2 sends first: the preface and the head of its settings.
const BEGINNING_BYTES: usize = 24 + 9;

/// A connection's bytes.
///
/// Over HTTP/2 the transport itself finds out who does not answer and how much may be under way.
/// Over HTTP/1.1 that is done here: nothing is read while an answer waits for its reader, and it
/// does not wait for ever.
#[derive(Debug)]
pub(crate) struct Guarded {
    stream: TcpStream,
    peer: Arc<Peer>,
    /// Of the beginning, as far as it is there.
    begun: usize,
    /// Until the beginning is there.
    deadline: Option<Pin<Box<Sleep>>>,
    /// While the kernel takes no more of an answer, over HTTP.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Guarded {
    pub(super) fn new(stream: TcpStream, peer: Arc<Peer>) -> Guarded {
        let within = peer.peers.begins_within;
        let deadline = Some(Box::pin(tokio::time::sleep(within)));
        Guarded { stream, peer, begun: 0, deadline, stalled: None }
    }

    fn refuse(&self, what: &'static str, why: &'static str) -> io::Error {
        self.peer.peers.note(self.peer.door, what, &why);
        io::Error::new(io::ErrorKind::TimedOut, why)
    }

    fn has_begun(&self) -> bool {
        match self.peer.door {
            Door::Grpc => self.begun >= BEGINNING_BYTES,
            Door::Http | Door::Metrics => self.peer.has_begun(),
        }
    }

    /// Looks at what became of a write of `offered` bytes.
    fn paced(
        &mut self,
        context: &mut Context<'_>,
        wrote: Poll<io::Result<usize>>,
        offered: usize,
    ) -> Poll<io::Result<usize>> {
        if self.peer.door == Door::Grpc {
            return wrote;
        }
        match &wrote {
            // All that was to be written is with the kernel.
            Poll::Ready(Ok(bytes)) if *bytes == offered => {
                if self.stalled.take().is_some() {
                    // Reading was put off.
                    context.waker().wake_by_ref();
                }
            }
            Poll::Ready(_) => {}
            Poll::Pending => {
                let within = self.peer.reads_within();
                let stalled =
                    self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(within)));
                if stalled.as_mut().poll(context).is_ready() {
                    let why = "an answer that was not read in time (body-seconds)";
                    return Poll::Ready(Err(self.refuse("slow_reader", why)));
                }
            }
        }
        wrote
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.peer.leave();
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
        if this.peer.is_over() {
            let why = "too many connections on which no call was let in; the oldest goes";
            return Poll::Ready(Err(this.refuse("strangers", why)));
        }
        if this.stalled.is_some() {
            return Poll::Pending;
        }
        let before = into.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, into);
        this.begun = this.begun.saturating_add(into.filled().len() - before);
        if this.deadline.is_some() && this.has_begun() {
            this.deadline = None;
        }
        if let Some(deadline) = &mut this.deadline
            && read.is_pending()
            && deadline.as_mut().poll(context).is_ready()
        {
            let why = "a connection that did not begin in time (handshake-seconds)";
            return Poll::Ready(Err(this.refuse("handshake", why)));
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
        let wrote = Pin::new(&mut self.stream).poll_write(context, from);
        self.paced(context, wrote, from.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(context, from);
        let offered = from.iter().map(|part| part.len()).sum();
        self.paced(context, wrote, offered)
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
