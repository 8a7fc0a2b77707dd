//! Reads and writes of one non-blocking stream that go on where the last one stopped.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::TcpStream;
use std::time::Instant;

use ferry_core::{FRAME_BYTES, Frame, FrameError, Head, Tail};
use ferry_memory::Slot;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};

use crate::link::LinkError;
use crate::outgoing::{Half, Outgoing};

/// How far a read or a write came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All of it is done.
    Done,
    /// The rest has to wait for the peer, or for this connection's next turn.
    Blocked,
}

/// Reads into `into[*got..]`, at most `budget` bytes.
fn read(
    stream: &TcpStream,
    into: &mut [u8],
    got: &mut usize,
    budget: &mut usize,
) -> Result<Progress, LinkError> {
    while *got < into.len() {
        let wanted = (into.len() - *got).min(*budget);
        if wanted == 0 {
            return Ok(Progress::Blocked);
        }
        match recv(stream, &mut into[*got..*got + wanted], RecvFlags::DONTWAIT) {
            Ok((0, _)) | Err(Errno::CONNRESET | Errno::PIPE) => return Err(LinkError::Closed),
            Ok((read, _)) => {
                *got += read;
                *budget -= read;
                if read < wanted {
                    // Less than asked for: the socket is empty, another call would say so.
                    return Ok(Progress::Blocked);
                }
            }
            Err(Errno::AGAIN) => return Ok(Progress::Blocked),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(LinkError::os("receive", errno)),
        }
    }
    Ok(Progress::Done)
}

/// The header that is being received.
#[derive(Debug)]
pub(crate) struct HeaderInbox {
    bytes: [u8; FRAME_BYTES],
    got: usize,
    seen: Option<Instant>,
}

/// A header that is complete, and when its first byte was read.
pub(crate) type Headed = (Result<Head, FrameError>, Instant);

impl HeaderInbox {
    pub(crate) fn new() -> HeaderInbox {
        HeaderInbox { bytes: [0; FRAME_BYTES], got: 0, seen: None }
    }

    /// Reads on; `None` while the header is not complete.
    pub(crate) fn read(
        &mut self,
        stream: &TcpStream,
        budget: &mut usize,
    ) -> Result<Option<Headed>, LinkError> {
        let progress = read(stream, &mut self.bytes, &mut self.got, budget)?;
        if self.got > 0 && self.seen.is_none() {
            self.seen = Some(Instant::now());
        }
        match (progress, self.seen) {
            (Progress::Done, Some(seen)) => {
                (self.got, self.seen) = (0, None);
                Ok(Some((Head::decode(&self.bytes), seen)))
            }
            _ => Ok(None),
        }
    }
}

/// A tail and a payload that are being received, the payload into its slot. Exists only for a header
/// that was accepted.
#[derive(Debug)]
pub(crate) struct PayloadInbox {
    pub(crate) frame: Frame,
    pub(crate) slot: Slot,
    pub(crate) seen: Instant,
    pub(crate) tail: Tail,
    /// Room for the tail; none once it was read, or where there is none.
    tail_bytes: Vec<u8>,
    payload_bytes: usize,
    /// Of the tail, then of the payload.
    got: usize,
}

impl PayloadInbox {
    pub(crate) fn new(head: Head, slot: Slot, seen: Instant) -> PayloadInbox {
        let Head { frame, tail_bytes } = head;
        // Accepted lengths fit the slot; a length that this machine cannot address does not.
        let payload_bytes = usize::try_from(frame.payload_bytes).unwrap_or(usize::MAX);
        // A head that was decoded tells of no more than `TAIL_BYTES_MAX`.
        let (tail, tail_bytes) = (Tail::NONE, vec![0; tail_bytes]);
        PayloadInbox { frame, slot, seen, tail, tail_bytes, payload_bytes, got: 0 }
    }

    /// Reads on, the payload straight into the slot, once the tail was found good.
    pub(crate) fn read(
        &mut self,
        half: Half,
        stream: &TcpStream,
        budget: &mut usize,
    ) -> Result<Result<Progress, FrameError>, LinkError> {
        if !self.tail_bytes.is_empty() {
            if read(stream, &mut self.tail_bytes, &mut self.got, budget)? == Progress::Blocked {
                return Ok(Ok(Progress::Blocked));
            }
            match Tail::decode(&self.tail_bytes) {
                Ok(tail) => self.tail = tail,
                Err(error) => return Ok(Err(error.into())),
            }
            (self.tail_bytes, self.got) = (Vec::new(), 0);
        }
        let room = half.bytes_mut(&mut self.slot);
        let Some(into) = room.and_then(|room| room.get_mut(..self.payload_bytes)) else {
            return Err(LinkError::os("receive", "the slot is not host memory of this process"));
        };
        read(stream, into, &mut self.got, budget).map(Ok)
    }
}

/// Something that is being sent, and how far it is.
#[derive(Debug)]
struct Sending {
    outgoing: Outgoing,
    written: usize,
}

impl Sending {
    /// Hands on to the kernel what it takes.
    fn write(&mut self, stream: &TcpStream) -> Result<Progress, LinkError> {
        let [head, tail] = self.outgoing.header.parts();
        let parts = [head, tail, self.outgoing.payload()];
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        while self.written < bytes {
            let mut skip = self.written;
            let rest = parts.map(|part| {
                let written = part.len().min(skip);
                skip -= written;
                &part[written..]
            });
            match send(stream, rest)? {
                0 => return Ok(Progress::Blocked),
                sent => self.written += sent,
            }
        }
        Ok(Progress::Done)
    }
}

/// One gathering write. 0 if the kernel has no room.
fn send<const N: usize>(stream: &TcpStream, parts: [&[u8]; N]) -> Result<usize, LinkError> {
    let slices = parts.map(IoSlice::new);
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    loop {
        match sendmsg(stream, &slices, &mut SendAncillaryBuffer::default(), flags) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(0),
            Err(Errno::CONNRESET | Errno::PIPE) => return Err(LinkError::Closed),
            Err(errno) => return Err(LinkError::os("send", errno)),
            Ok(sent) => return Ok(sent),
        }
    }
}

/// What waits to be sent on one connection, in order. Bounded by the session's slots: each entry
/// holds a different one.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: VecDeque<Sending>,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn push(&mut self, outgoing: Outgoing) {
        self.queue.push_back(Sending { outgoing, written: 0 });
    }

    /// Sends on; the next entry that was sent wholly, or `None` if the kernel takes no more.
    pub(crate) fn next_sent(&mut self, stream: &TcpStream) -> Result<Option<Outgoing>, LinkError> {
        let Some(front) = self.queue.front_mut() else { return Ok(None) };
        match front.write(stream)? {
            Progress::Done => Ok(self.queue.pop_front().map(|sent| sent.outgoing)),
            Progress::Blocked => Ok(None),
        }
    }

    /// Sends a frame without payload, if nothing is half sent and the kernel has room at once.
    pub(crate) fn send_now(&self, stream: &TcpStream, frame: &Frame) -> bool {
        self.queue.is_empty()
            && matches!(send(stream, [&frame.encode()]), Ok(sent) if sent == FRAME_BYTES)
    }

    /// The slots of everything that was not sent wholly.
    pub(crate) fn abandon(&mut self) -> impl Iterator<Item = Slot> + '_ {
        self.queue.drain(..).map(|sending| sending.outgoing.slot)
    }
}
