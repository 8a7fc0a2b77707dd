//! A client that proved its session and then breaks the protocol.

use ferry_memory::ring::RingMemory;

use super::*;

/// The peer is refused, cut off and told; nothing arrived; another session is served on.
fn is_cut_off(server: &mut Server, hostile: &Hostile) -> Refusal {
    let refusal = server.refused();
    let (session, why) = server.gone();
    assert_eq!(session, Some(SessionId(1)));
    assert!(matches!(why, LinkError::Protocol(_)), "{why}");
    assert_eq!(hostile.last_word(), Some(Status::BadRequest));
    server.settle();
    assert!(server.events.is_empty(), "{:?}", server.events);
    refusal
}

#[test]
fn headers_that_break_the_agreement_are_refused() {
    let frame = request(0, 1);
    let garble = |at: usize, byte: u8| {
        let mut header = frame.encode();
        header[at] = byte;
        header
    };
    let too_long = Frame { payload_bytes: 5001, ..frame };
    let endless = Frame { payload_bytes: u64::MAX, ..frame };
    type Expected = fn(&Refusal) -> bool;
    let cases: [(&str, [u8; 128], Expected); 12] = [
        ("magic", garble(0, 0), |it| matches!(it, Refusal::Frame(_))),
        ("version", garble(4, 9), |it| matches!(it, Refusal::Frame(_))),
        ("kind", garble(5, 77), |it| matches!(it, Refusal::Frame(_))),
        ("a tail of odd length", garble(6, 77), |it| matches!(it, Refusal::Frame(_))),
        ("a tail longer than its room", garble(7, 8), |it| matches!(it, Refusal::Frame(_))),
        ("session", garble(8, 2), |it| matches!(it, Refusal::Session { .. })),
        ("generation", garble(16, 2), |it| matches!(it, Refusal::Generation { .. })),
        ("slot", garble(20, 1), |it| matches!(it, Refusal::Slot { slot: 1, .. })),
        ("far slot", garble(22, 1), |it| matches!(it, Refusal::Slot { slot: 0x1_0000, .. })),
        ("reserved", garble(100, 1), |it| matches!(it, Refusal::Frame(_))),
        ("length", too_long.encode(), |it| matches!(it, Refusal::Length { .. })),
        ("endless", endless.encode(), |it| matches!(it, Refusal::Length { .. })),
    ];
    for (what, header, expected) in cases {
        let mut server = Server::with_session();
        let mut hostile = Hostile::join(&mut server);
        hostile.send(0, 0, &header);
        let refusal = is_cut_off(&mut server, &hostile);
        assert!(expected(&refusal), "{what}: {refusal}");
    }
}

#[test]
fn tails_that_make_no_sense_are_refused_and_unknown_records_are_skipped() {
    let with_tail = |tail_bytes| Head { frame: request(0, 1), tail_bytes }.encode();
    let long = [&[1, 0, 0xff, 0xff][..], &[0; 1916]].concat();
    let bad: [&[u8]; 4] = [&[0; 8], &[1, 0, 5, 0, 0, 0, 0, 0], &[9, 0, 1, 0, 0, 0, 0, 1], &long];
    for tail in bad {
        let mut server = Server::with_session();
        let mut hostile = Hostile::join(&mut server);
        hostile.send_with(0, 0, &with_tail(tail.len()), tail);
        let refusal = is_cut_off(&mut server, &hostile);
        assert!(matches!(refusal, Refusal::Frame(FrameError::Tail(_))), "{refusal}");
    }
    let mut server = Server::with_session();
    let mut hostile = Hostile::join(&mut server);
    hostile.send_with(0, 0, &with_tail(8), &[9, 0, 4, 0, 1, 2, 3, 4]);
    let (_, frame, _) = server.arrived();
    assert_eq!(frame, request(0, 1));
}

#[test]
fn replies_and_byes_in_the_ring_are_refused() {
    let times = StageTimes::NONE;
    let reply = Body::Reply(Reply { status: Status::Ok, times, reply_ns_previous: None });
    for body in [reply, Body::Welcome, Body::Bye { status: Status::Ok }] {
        let mut server = Server::with_session();
        let mut hostile = Hostile::join(&mut server);
        hostile.send(0, 0, &Frame { body, ..request(0, 1) }.encode());
        let refusal = is_cut_off(&mut server, &hostile);
        assert_eq!(refusal, Refusal::Kind(SessionId(1)));
    }
}

#[test]
fn entries_that_are_no_slot_are_refused() {
    for entry in [4, 64, u64::from(u32::MAX), u64::from(u32::MAX) + 1, u64::MAX] {
        let mut server = Server::with_session();
        let mut hostile = Hostile::join(&mut server);
        hostile.send(entry, 0, &request(0, 1).encode());
        let refusal = is_cut_off(&mut server, &hostile);
        assert!(matches!(refusal, Refusal::Breach { .. }), "{entry}: {refusal}");
    }
}

#[test]
fn garbage_in_the_ring_index_is_refused_polling_and_sleeping() {
    for sleeping in [false, true] {
        for garbage in [65, u64::MAX, 1 << 63] {
            let mut server = Server::with_session();
            let hostile = Hostile::join(&mut server);
            if sleeping {
                server.settle();
            }
            hostile.requests.memory().tail().store(garbage, Ordering::SeqCst);
            hostile.bell.ring();
            let refusal = is_cut_off(&mut server, &hostile);
            assert!(matches!(refusal, Refusal::Breach { .. }), "{refusal}");
        }
    }
}

#[test]
fn a_slot_in_flight_is_not_taken_twice() {
    let mut server = Server::with_session();
    let mut hostile = Hostile::join(&mut server);
    hostile.send(2, 2, &request(2, 1).encode());
    let (peer, frame, slot) = server.arrived();
    slot.request().copy_in(0, b"first").unwrap();
    hostile.send(2, 2, &request(2, 2).encode());
    let refusal = is_cut_off(&mut server, &hostile);
    assert_eq!(refusal, Refusal::Slot { session: SessionId(1), slot: 2 });
    // The engine still has its slot, and nobody to send it to.
    let mut bytes = [0; 5];
    slot.request().copy_out(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"first");
    assert_eq!(server.reply((peer, frame, slot)), Err(LinkError::NoPeer(peer)));
}

#[test]
fn a_header_that_changes_later_changes_nothing() {
    let mut server = Server::with_session();
    let mut hostile = Hostile::join(&mut server);
    hostile.send(1, 1, &request(1, 7).encode());
    let arrived = server.arrived();
    hostile.headers.write(SlotIndex(1), Way::Request, [&[0xFF; 128], &[]]).unwrap();
    assert_eq!(arrived.1, request(1, 7));
    server.reply(arrived).unwrap();
}

#[test]
fn a_storm_of_bells_is_cut_off() {
    let mut server = Server::with_session();
    let hostile = Hostile::join(&mut server);
    // It shares the flags of the eventfd: a lane that read it could be made to hang here.
    rustix::io::ioctl_fionbio(&hostile.bell, false).unwrap();
    for _ in 0..100 {
        hostile.bell.ring();
        rustix::io::read(&hostile.bell, &mut [0; 8]).unwrap();
        server.settle();
    }
    let start = Instant::now();
    while server.events.is_empty() {
        hostile.bell.ring();
        server.listener.poll(&mut server.events);
        assert!(start.elapsed() < WATCHDOG, "it may ring for ever");
    }
    let refusal = is_cut_off(&mut server, &hostile);
    assert!(matches!(refusal, Refusal::Breach { .. }), "{refusal}");
    hostile.bell.ring();
    server.settle();
    assert!(server.events.is_empty(), "nobody hears it any more: {:?}", server.events);
}

#[test]
fn a_client_that_takes_no_replies_is_cut_off() {
    let mut server = Server::with_session();
    let mut hostile = Hostile::join(&mut server);
    for number in 0..64 {
        hostile.send(0, 0, &request(0, number).encode());
        let arrived = server.arrived();
        server.reply(arrived).unwrap();
        server.until(|event| matches!(event, Event::Sent { .. }));
    }
    hostile.send(0, 0, &request(0, 64).encode());
    let arrived = server.arrived();
    assert_eq!(server.reply(arrived), Err(LinkError::Full));
    is_cut_off(&mut server, &hostile);
}

#[test]
fn frames_on_the_socket_after_the_hello_are_refused() {
    let mut server = Server::with_session();
    let hostile = Hostile::join(&mut server);
    wire::send(hostile.socket.as_fd(), &hello(&admission(1))).unwrap();
    assert_eq!(is_cut_off(&mut server, &hostile), Refusal::Kind(SessionId(1)));
}

#[test]
fn what_is_written_after_the_end_is_read_by_nobody() {
    let mut server = Server::with_session();
    let mut hostile = Hostile::join(&mut server);
    server.listener.evict(SessionId(1), Status::Draining);
    assert_eq!(hostile.last_word(), Some(Status::Draining));
    for number in 0..4 {
        hostile.send(number, 0, &request(0, number).encode());
        hostile.bell.ring();
    }
    server.settle();
    assert!(server.events.is_empty(), "{:?}", server.events);
    let next = Admission { generation: Generation(4), ..admission(1) };
    server.listener.admit(next).unwrap();
    server.settle();
    assert!(server.events.is_empty(), "{:?}", server.events);
}
