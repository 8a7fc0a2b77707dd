//! Frames and descriptors on the session's Unix socket. Only sessions begin and end here; no
//! request ever comes this way.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use ferry_core::{Body, FRAME_BYTES, Frame, FrameError, Generation, SessionId, SlotIndex, Status};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::link::LinkError;

/// Descriptors that go with a welcome: the memory and the lane's bell.
const WELCOME_FDS: usize = 2;

/// What came on the socket.
#[derive(Debug)]
pub(super) enum Received {
    /// Nothing yet.
    Nothing,
    /// The peer closed it or died.
    End,
    /// A message.
    Message(Result<Frame, FrameError>),
}

/// A frame without payload.
pub(super) fn bare(session: SessionId, generation: Generation, body: Body) -> Frame {
    Frame { session, generation, slot: SlotIndex(0), request: 0, payload_bytes: 0, body }
}

/// A socket that keeps messages apart: one message is one frame.
pub(super) fn socket() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// The address of `name` in the abstract namespace: no file, and gone with the server.
pub(super) fn address(name: &str) -> Result<SocketAddrUnix, LinkError> {
    SocketAddrUnix::new_abstract_name(name.as_bytes())
        .map_err(|errno| LinkError::os(format!("name a socket {name:?}"), errno))
}

/// Sends a frame without waiting. The error is for the log: a peer that does not read is told
/// nothing more.
pub(super) fn send(socket: BorrowedFd<'_>, frame: &Frame) -> Result<(), Errno> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::send(socket, &frame.encode(), flags).map(drop)
}

/// Looks for a message without waiting.
pub(super) fn receive(socket: BorrowedFd<'_>) -> Received {
    receive_with(socket, RecvFlags::DONTWAIT)
}

fn receive_with(socket: BorrowedFd<'_>, flags: RecvFlags) -> Received {
    // One byte more than a frame, to see that a message is longer.
    let mut message = [0; FRAME_BYTES + 1];
    match rustix::net::recv(socket, &mut message, flags) {
        Err(Errno::AGAIN | Errno::INTR) => Received::Nothing,
        Ok((0, _)) | Err(_) => Received::End,
        Ok((len, _)) => Received::Message(decode(&message[..len])),
    }
}

fn decode(message: &[u8]) -> Result<Frame, FrameError> {
    // Of the wrong length there is no field to name: it is not a frame of this protocol.
    let header = message.try_into().map_err(|_len| FrameError::Magic(0))?;
    Frame::decode(header)
}

/// Accepts the peer: a frame, and the descriptors of the memory and of the bell.
pub(super) fn send_welcome(
    socket: BorrowedFd<'_>,
    frame: &Frame,
    memfd: BorrowedFd<'_>,
    bell: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let fds = [memfd, bell];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(WELCOME_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::NOBUFS);
    }
    let header = frame.encode();
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::sendmsg(socket, &[IoSlice::new(&header)], &mut control, flags).map(drop)
}

/// What a server answers to a hello.
#[derive(Debug)]
pub(super) enum Welcome {
    /// The frame, and the descriptors of the memory and of the bell.
    Accepted(Frame, [OwnedFd; WELCOME_FDS]),
    /// A goodbye.
    Refused(Status),
    /// Something else.
    Nonsense(String),
}

/// Waits for the welcome, as long as the socket's timeout lets it.
pub(super) fn receive_welcome(socket: &OwnedFd) -> Result<Welcome, Errno> {
    let mut header = [0; FRAME_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(WELCOME_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut header)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(socket, &mut into, &mut control, flags)?;
    let fds: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    if received.bytes == 0 {
        return Err(Errno::CONNRESET);
    }
    let cut = received.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC);
    if cut || received.bytes != FRAME_BYTES {
        return Ok(Welcome::Nonsense("an answer that is not one frame".into()));
    }
    let frame = match Frame::decode(&header) {
        Ok(frame) => frame,
        Err(error) => return Ok(Welcome::Nonsense(error.to_string())),
    };
    if let Body::Bye { status } = frame.body {
        return Ok(Welcome::Refused(status));
    }
    Ok(match <[OwnedFd; WELCOME_FDS]>::try_from(fds) {
        Ok(fds) => Welcome::Accepted(frame, fds),
        Err(fds) => Welcome::Nonsense(format!("a welcome with {} descriptors", fds.len())),
    })
}

/// Bounds connecting and the wait for the welcome.
pub(super) fn set_patience(socket: &OwnedFd, patience: Duration) -> Result<(), LinkError> {
    use rustix::net::sockopt::{Timeout, set_socket_timeout};
    // Zero would mean for ever.
    let patience = Some(patience.max(Duration::from_millis(1)));
    for which in [Timeout::Send, Timeout::Recv] {
        set_socket_timeout(socket.as_fd(), which, patience)
            .map_err(|errno| LinkError::os("set a socket's timeout", errno))?;
    }
    Ok(())
}
