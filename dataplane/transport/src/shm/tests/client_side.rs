//! A server that is not what the client was promised.

use std::mem::MaybeUninit;

use ferry_core::RegionDescriptor;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use super::*;
use crate::connect::ConnectError;

/// Answers one hello as told, and returns what the client makes of it.
fn connect_to(answer: impl FnOnce(&OwnedFd) + Send) -> ConnectError {
    let name = unique_name();
    let door = wire::socket().unwrap();
    rustix::net::bind(&door, &wire::address(&name).unwrap()).unwrap();
    rustix::net::listen(&door, 1).unwrap();
    let bytes = SessionLayout::new(LAYOUT).unwrap().bytes() as u64;
    let descriptor = RegionDescriptor::Memfd { bytes, layout: LAYOUT };
    std::thread::scope(|scope| {
        let client = scope.spawn(move || {
            let endpoint = Endpoint::new(LinkKind::Shm, name);
            let Admission { session, generation, token, .. } = admission(1);
            let deadline = Instant::now() + Duration::from_secs(1);
            ShmClient::connect(&endpoint, session, generation, token, &descriptor, None, deadline)
        });
        let socket = rustix::net::accept(&door).unwrap();
        answer(&socket);
        client.join().unwrap().map(|_| ()).unwrap_err()
    })
}

fn memfd(bytes: usize, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = memfd_create("test", flags).unwrap();
    ftruncate(&memfd, bytes as u64).unwrap();
    fcntl_add_seals(&memfd, seals).unwrap();
    memfd
}

fn welcome(session: u64) -> Frame {
    wire::bare(SessionId(session), Generation(3), Body::Welcome)
}

#[test]
fn unsealed_and_short_memory_is_refused() {
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    let bytes = SessionLayout::new(LAYOUT).unwrap().bytes();
    for (bytes, seals) in [
        (bytes, SealFlags::empty()),
        (bytes, SealFlags::GROW | SealFlags::SEAL),
        (bytes - 4096, all),
        (bytes + 4096, all),
        (0, all),
    ] {
        let error = connect_to(|socket| {
            let (memfd, bell) = (memfd(bytes, seals), Bell::new().unwrap());
            wire::send_welcome(socket.as_fd(), &welcome(1), memfd.as_fd(), bell.as_fd()).unwrap();
        });
        assert!(matches!(error, ConnectError::Memory(_)), "{bytes} {seals:?}: {error}");
    }
}

#[test]
fn other_answers_are_refused() {
    let other = connect_to(|socket| {
        let (memfd, bell) = (memfd(4096, SealFlags::empty()), Bell::new().unwrap());
        wire::send_welcome(socket.as_fd(), &welcome(2), memfd.as_fd(), bell.as_fd()).unwrap();
    });
    assert!(matches!(other, ConnectError::Protocol { .. }), "{other}");
    let bare = connect_to(|socket| wire::send(socket.as_fd(), &welcome(1)).unwrap());
    assert!(matches!(bare, ConnectError::Protocol { .. }), "{bare}");
    let bye = connect_to(|socket| {
        let bye = wire::bare(SessionId(0), Generation(0), Body::Bye { status: Status::Draining });
        wire::send(socket.as_fd(), &bye).unwrap();
    });
    assert!(matches!(bye, ConnectError::Refused(Status::Draining)), "{bye}");
    let garbage = connect_to(|socket| {
        rustix::net::send(socket, &[7; 300], rustix::net::SendFlags::empty()).unwrap();
    });
    assert!(matches!(garbage, ConnectError::Protocol { .. }), "{garbage}");
}

#[test]
fn descriptors_too_many_are_closed_and_refused() {
    let error = connect_to(|socket| {
        let bell = Bell::new().unwrap();
        let fds = [bell.as_fd(); 3];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
        assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&fds)));
        let header = welcome(1).encode();
        let header = [std::io::IoSlice::new(&header)];
        rustix::net::sendmsg(socket, &header, &mut control, rustix::net::SendFlags::empty())
            .unwrap();
    });
    assert!(matches!(error, ConnectError::Protocol { .. }), "{error}");
}

#[test]
fn silence_and_absence_are_told_apart() {
    let late = connect_to(|_socket| std::thread::sleep(Duration::from_millis(1500)));
    assert!(matches!(late, ConnectError::Late(_)), "{late}");
    let bytes = SessionLayout::new(LAYOUT).unwrap().bytes() as u64;
    let Admission { session, generation, token, .. } = admission(1);
    let deadline = Instant::now() + Duration::from_secs(1);
    let connect = |endpoint: &Endpoint, descriptor: &RegionDescriptor| {
        ShmClient::connect(endpoint, session, generation, token, descriptor, None, deadline)
            .map(|_| ())
            .unwrap_err()
    };
    let nobody = Endpoint::new(LinkKind::Shm, unique_name());
    let memory = RegionDescriptor::Memfd { bytes, layout: LAYOUT };
    assert!(matches!(connect(&nobody, &memory), ConnectError::Unreachable { .. }));
    assert!(matches!(
        connect(&Endpoint::bare(LinkKind::Local), &memory),
        ConnectError::Address(..)
    ));
    let framed = connect(&nobody, &RegionDescriptor::Framed);
    assert!(matches!(framed, ConnectError::Memory(_)), "{framed}");
}
