//! How sessions and links end.

use std::sync::Arc;

use ferry_core::{Generation, Status};
use ferry_transport::{AdmitError, LinkError};

use super::ServerEnd;
use super::pair::{Pair, admission, get, pattern, put};

/// Evict: the peer is told (or cut off), its later requests do not arrive, and replies to it are
/// not taken. Evicting twice, or a session that never was, changes nothing.
pub fn evict_ends_the_session_at_the_peer(open: &dyn Fn() -> ServerEnd) {
    let mut pair = Pair::connected(open);
    pair.round_trip(0, 1, b"before", b"evict");
    pair.clients[0].send(2, b"in flight");
    let held = pair.next_request();
    let session = pair.clients[0].admission.session;
    pair.server.listener.evict(session, Status::SessionEnded);
    pair.until("the peer was told", |pair| !pair.clients[0].seen.gone.is_empty());
    let why = &pair.clients[0].seen.gone[0].1;
    let told = [LinkError::Bye(Status::SessionEnded), LinkError::Closed];
    assert!(told.contains(why), "the peer was told {why}");
    let dirty = &pair.clients[0].seen.dirty;
    assert!(dirty.len() <= 1, "only what was in flight comes back");
    assert!(dirty.iter().all(|it| Arc::ptr_eq(it.table(), &pair.clients[0].table)));
    pair.try_reply(held, b"late").expect_err("a reply to an evicted session was taken");
    let slot = pair.clients[0].slot();
    let frame = pair.clients[0].frame(3, &slot, 0);
    // Taken or not, it must not arrive.
    drop(pair.clients[0].submit(frame, slot));
    pair.server.listener.evict(session, Status::SessionEnded);
    pair.server.listener.evict(admission(55).session, Status::SessionEnded);
    pair.settle();
    assert!(pair.seen.arrived.is_empty(), "a request arrived after evict");
    assert_eq!(pair.clients[0].seen.gone.len(), 1, "gone is reported once");
}

/// What the client of an earlier lease still writes and sends changes nothing of the next lease.
pub fn a_write_after_evict_changes_nothing(open: &dyn Fn() -> ServerEnd) {
    let mut pair = Pair::connected(open);
    let mut next = pair.clients[0].admission.clone();
    // The old client holds slots, and fills them after the eviction.
    let old_slots: Vec<_> = (0..4).map(|_| pair.clients[0].slot()).collect();
    pair.server.listener.evict(next.session, Status::SessionEnded);
    next.generation = Generation(2);
    pair.add(next);
    for number in 0..4 {
        pair.clients[1].send(number, &pattern(number, 6000));
    }
    let held: Vec<_> = (0..4).map(|_| pair.next_request()).collect();
    for (number, mut slot) in (100..).zip(old_slots) {
        put(slot.request_mut(), &pattern(666, 6000));
        put(slot.reply_mut(), &pattern(667, 6000));
        let mut frame = pair.clients[0].frame(number, &slot, 6000);
        if number % 2 == 0 {
            frame.generation = Generation(2);
        }
        // Taken or not, it must not arrive.
        drop(pair.clients[0].submit(frame, slot));
    }
    pair.settle();
    assert!(pair.seen.arrived.is_empty(), "a frame of the old lease arrived");
    for request in &held {
        let honest = pattern(request.frame.request, 6000);
        assert!(get(request.slot.request(), 6000) == honest, "an old write is read");
    }
    for request in held {
        let number = request.frame.request;
        pair.reply(request, &pattern(number + 10, 6000));
        let reply = pair.next_reply(1);
        assert_eq!(get(reply.slot.reply(), 6000), pattern(number + 10, 6000));
    }
}

/// A session that is there is not admitted twice; once evicted, its next lease is, with slots of
/// its own.
pub fn the_next_generation_is_admitted(open: &dyn Fn() -> ServerEnd) {
    let mut pair = Pair::connected(open);
    let mut next = pair.clients[0].admission.clone();
    let twice = pair.server.listener.admit(next.clone());
    assert!(matches!(twice, Err(AdmitError::Twice(it)) if it == next.session), "{twice:?}");
    pair.round_trip(0, 1, b"first", b"lease");
    for generation in 2..6 {
        pair.server.listener.evict(next.session, Status::SessionEnded);
        pair.clients.clear();
        next.generation = Generation(generation);
        pair.add(next.clone());
        pair.round_trip(0, 1, b"next", b"lease");
    }
}

/// The server learns that a client is gone, and serves the others on.
pub fn a_dropped_client_is_gone(open: &dyn Fn() -> ServerEnd) {
    let mut pair = Pair::connected(open);
    pair.add(admission(2));
    pair.clients[0].send(1, b"in flight");
    let held = pair.next_request();
    let left = pair.clients.remove(0).admission.session;
    pair.until("the client was seen gone", |pair| !pair.seen.gone.is_empty());
    assert_eq!(pair.seen.gone[0].0, Some(left), "the session is named");
    // Taken or not, it harms nobody.
    drop(pair.try_reply(held, b"to nobody"));
    pair.round_trip(0, 5, b"the other", b"is served");
    pair.settle();
    assert_eq!(pair.seen.gone.len(), 1, "gone is reported once");
}

/// The client learns that the server is gone, and its slots in flight come back where the link
/// has them.
pub fn a_dropped_server_is_gone(open: &dyn Fn() -> ServerEnd) {
    let mut pair = Pair::connected(open);
    pair.clients[0].send(1, b"in flight");
    let Pair { server, mut clients, .. } = pair;
    drop(server);
    let client = &mut clients[0];
    let start = std::time::Instant::now();
    while client.seen.gone.is_empty() {
        client.seen.poll(&mut *client.link);
        assert!(start.elapsed() < super::pair::WATCHDOG, "waited in vain for the end");
        std::thread::yield_now();
    }
    assert!(client.seen.dirty.iter().all(|it| Arc::ptr_eq(it.table(), &client.table)));
    let slot = client.slot();
    let frame = client.frame(2, &slot, 0);
    client.submit(frame, slot).expect_err("a request to nobody was taken");
}
