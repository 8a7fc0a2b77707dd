//! Connections that prove nothing, or not the right thing.

use super::*;

/// The honest client is still let in.
#[must_use]
fn still_open(server: &mut Server) -> Hostile {
    let client = Hostile::join(server);
    assert_eq!(client.last_word(), None);
    client
}

#[test]
fn wrong_hellos_are_refused_alike_and_lock_nobody_out() {
    let right = admission(1);
    let forged = Admission { token: Token::new([8; Token::BYTES]), ..right.clone() };
    let unknown = Admission { session: SessionId(2), ..right.clone() };
    let old = Admission { generation: Generation(2), ..right.clone() };
    let cases = [
        (hello(&forged), Refusal::Credentials(SessionId(1))),
        (hello(&unknown), Refusal::Credentials(SessionId(2))),
        (
            hello(&old),
            Refusal::Generation { session: SessionId(1), named: Generation(2), now: Generation(3) },
        ),
        (request(0, 1), no_hello(SessionId(1))),
    ];
    let mut server = Server::with_session();
    for (frame, expected) in cases {
        let socket = server.connect();
        wire::send(socket.as_fd(), &frame).unwrap();
        assert_eq!(server.refused(), expected);
        assert!(server.events.is_empty(), "{:?}", server.events);
        let answer = wire::receive_welcome(&socket);
        assert!(matches!(answer, Ok(Welcome::Refused(Status::SessionEnded))), "{answer:?}");
    }
    let _client = still_open(&mut server);
}

#[test]
fn messages_that_are_no_frames_are_refused() {
    let mut server = Server::with_session();
    let right = hello(&admission(1)).encode();
    let mut long = right.to_vec();
    long.push(0);
    for message in [&b"GET / HTTP/1.1"[..], &right[..127], &long, &[0; 128]] {
        let socket = server.connect();
        rustix::net::send(&socket, message, rustix::net::SendFlags::empty()).unwrap();
        assert!(matches!(server.refused(), Refusal::Frame(_)));
    }
    let _client = still_open(&mut server);
}

#[test]
fn memory_is_handed_out_once() {
    let mut server = Server::with_session();
    let first = Hostile::join(&mut server);
    let socket = server.connect();
    wire::send(socket.as_fd(), &hello(&admission(1))).unwrap();
    assert!(matches!(server.refused(), Refusal::Breach { .. }));
    assert!(matches!(wire::receive_welcome(&socket), Ok(Welcome::Refused(_))));
    server.settle();
    assert!(server.events.is_empty(), "the first one stays: {:?}", server.events);
    drop(first);
    assert_eq!(server.gone(), (Some(SessionId(1)), LinkError::Closed));
}

#[test]
fn the_silent_make_room_and_lock_nobody_out() {
    let mut server = Server::with_session();
    let silent: Vec<OwnedFd> = (0..100)
        .map(|_| {
            let socket = server.connect();
            server.settle();
            socket
        })
        .collect();
    // 64 stay, the oldest went.
    for _ in 0..36 {
        assert_eq!(server.gone().0, None);
    }
    assert!(server.events.is_empty(), "{:?}", server.events);
    let _client = still_open(&mut server);
    drop(silent);
    let ends = (0..64).map(|_| server.gone()).filter(|(_, why)| *why == LinkError::Closed);
    assert!(ends.count() > 0);
}

#[test]
fn the_silent_are_sent_away_in_time() {
    let mut server = Server::with_session();
    let _silent = server.connect();
    let _client = still_open(&mut server);
    let (session, why) = server.gone();
    assert_eq!(session, None);
    assert!(matches!(why, LinkError::Protocol(_)), "{why}");
}

#[test]
fn users_who_are_not_on_the_list_are_refused_with_the_right_token() {
    let own = rustix::process::getuid().as_raw();
    for (users, admits) in [(vec![own], true), (vec![own + 1], false), (vec![], false)] {
        let mut server = Server::with_session();
        server.listener = server.listener.only(users);
        let socket = server.connect();
        wire::send(socket.as_fd(), &hello(&admission(1))).unwrap();
        if admits {
            server.until(|event| matches!(event, Event::Joined { .. }));
        } else {
            let refusal = server.refused();
            assert!(refusal.to_string().contains("not on the list"), "{refusal}");
        }
    }
}
