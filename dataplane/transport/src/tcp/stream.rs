//! Reads and writes of one non-blocking stream that go on where the last one stopped.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::TcpStream;
use std::time::Instant;

use ferry_core::{FRAME_BYTES, Frame, FrameError};
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
pub(crate) type Headed = (Result<Frame, FrameError>, Instant);

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
                Ok(Some((Frame::decode(&self.bytes), seen)))
            }
            _ => Ok(None),
        }
    }
}

/// A payload that is being received into its slot. Exists only for a header that was accepted.
#[derive(Debug)]
pub(crate) struct PayloadInbox {
    pub(crate) frame: Frame,
    pub(crate) slot: Slot,
    pub(crate) seen: Instant,
    payload_bytes: usize,
    got: usize,
}

impl PayloadInbox {
    pub(crate) fn new(frame: Frame, slot: Slot, seen: Instant) -> PayloadInbox {
        // Accepted lengths fit the slot; a length that this machine cannot address does not.
        let payload_bytes = usize::try_from(frame.payload_bytes).unwrap_or(usize::MAX);
        PayloadInbox { frame, slot, seen, payload_bytes, got: 0 }
    }

    /// Reads on, straight into the slot.
    pub(crate) fn read(
        &mut self,
        half: Half,
        stream: &TcpStream,
        budget: &mut usize,
    ) -> Result<Progress, LinkError> {
        let room = half.bytes_mut(&mut self.slot);
        let Some(into) = room.and_then(|room| room.get_mut(..self.payload_bytes)) else {
            return Err(LinkError::os("receive", "the slot is not host memory of this process"));
        };
        read(stream, into, &mut self.got, budget)
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
        let (header, payload) = (&self.outgoing.header, self.outgoing.payload());
        while self.written < FRAME_BYTES + payload.len() {
            let header = &header[self.written.min(FRAME_BYTES)..];
            let rest = &payload[self.written.saturating_sub(FRAME_BYTES)..];
            match send(stream, header, rest)? {
                0 => return Ok(Progress::Blocked),
                sent => self.written += sent,
            }
        }
        Ok(Progress::Done)
    }
}

/// One gathering write. 0 if the kernel has no room.
fn send(stream: &TcpStream, header: &[u8], rest: &[u8]) -> Result<usize, LinkError> {
    let slices = [IoSlice::new(header), IoSlice::new(rest)];
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
            && matches!(send(stream, &frame.encode(), &[]), Ok(sent) if sent == FRAME_BYTES)
    }

    /// The slots of everything that was not sent wholly.
    pub(crate) fn abandon(&mut self) -> impl Iterator<Item = Slot> + '_ {
        self.queue.drain(..).map(|sending| sending.outgoing.slot)
    }
}
