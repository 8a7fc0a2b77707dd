//! What a link carries, and how.

use std::num::NonZeroU32;
use std::sync::Arc;

use ferry_core::{Hop, Hops, InBatch, OutputShapes, SlotIndex, Tail};
use ferry_memory::{PeerId, SlotTable};
use ferry_transport::{LinkError, Transfer};

use super::ServerEnd;
use super::pair::{LAYOUT, Pair, admission, get, pattern};

/// Both ends say that they carry frames, so that no link is let off a clause by another suite.
pub fn it_carries_frames(open: &dyn Fn() -> ServerEnd) {
    let pair = Pair::connected(open);
    assert!(pair.clients[0].link.capabilities().carries_frames, "the client");
    assert!(pair.server.listener.capabilities().carries_frames, "the server");
}

/// Payloads of 0 bytes, 1 byte, around a page and of the slot's whole half arrive as they were
/// sent, both ways.
pub fn payloads_of_every_size_arrive_whole(open: &dyn Fn() -> ServerEnd) {
    let mut pair = Pair::connected(open);
    let (request_max, reply_max) = (70_001, 66_003);
    assert_eq!((LAYOUT.request_bytes, LAYOUT.reply_bytes), (request_max, reply_max));
    let sizes = [0, 1, 4095, 4096, 4097, usize::MAX];
    for (number, size) in sizes.into_iter().enumerate() {
        let number = number as u64;
        let ask = pattern(number, size.min(70_001));
        let answer = pattern(number + 100, size.min(66_003));
        pair.round_trip(0, number, &ask, &answer);
    }
}

/// What is said beside a header arrives with its own frame, both ways: nothing, a little, and as
/// much as there can be, with payloads of every kind behind it.
pub fn tails_arrive_with_their_frames(open: &dyn Fn() -> ServerEnd) {
    let mut pair = Pair::connected(open);
    let little = OutputShapes::of([&[1, 300, 4][..], &[]]).expect("fits");
    let mut most = OutputShapes::default();
    while most.push(&[u64::MAX; 20]).is_ok() || most.push(&[1]).is_ok() {}
    let hop = Hop { relay: 7, out_ns: Some(1), away_ns: Some(1 << 40), back_ns: None };
    let mut hops = Hops::default();
    while hops.push(hop).is_ok() {}
    let batch = InBatch { rows: NonZeroU32::new(8), gather_ns: Some(1 << 40), scatter_ns: None };
    let tails = [
        Tail::NONE,
        Tail::with_outputs(Some(Box::new(little))),
        Tail { outputs: Some(Box::new(most)), hops, batch: Some(Box::new(batch)) },
    ];
    let sizes = [0, 1, 5000, 66_003];
    let rounds = (0..tails.len()).flat_map(|at| sizes.map(|size| (at, size)));
    for (number, (at, size)) in (0..).zip(rounds) {
        let (ask, answer) = (pattern(number, size), pattern(number + 100, size));
        // Another one goes back, so that none is mistaken for what stood there before.
        let (tail, back) = (&tails[at], &tails[(at + 1) % tails.len()]);
        pair.clients[0].send_with(number, &ask, tail.clone());
        let request = pair.next_request();
        assert_eq!((&request.tail, request.frame.request), (tail, number));
        assert_eq!(get(request.slot.request(), request.len()), ask, "the request's payload");
        let replied = pair.reply_with(request, &answer, back.clone());
        replied.unwrap_or_else(|error| panic!("submit a reply: {}", error.why));
        let reply = pair.next_reply(0);
        assert_eq!(&reply.tail, back, "reply {number}");
        assert_eq!(get(reply.slot.reply(), reply.len()), answer, "the reply's payload");
    }
}

/// Frames arrive in the order in which they were submitted, with as many in flight as there are
/// slots; replies may go back in any order and keep that one.
pub fn order_is_kept_with_all_slots_in_flight(open: &dyn Fn() -> ServerEnd) {
    let mut pair = Pair::connected(open);
    for round in 0..50_usize {
        let first = (round * 4) as u64;
        let sizes = [70_001, 0, 300, 9_000];
        for (i, number) in (first..first + 4).enumerate() {
            let payload = pattern(number, sizes[(i + round) % 4]);
            pair.clients[0].send(number, &payload);
        }
        assert!(pair.clients[0].table.acquire().is_none(), "all slots are in flight");
        let mut requests: Vec<_> = (0..4).map(|_| pair.next_request()).collect();
        for (i, request) in (first..).zip(&requests) {
            assert_eq!(request.frame.request, i, "requests are in order");
            let payload = get(request.slot.request(), request.len());
            assert_eq!(payload, pattern(i, payload.len()), "payload of request {i}");
        }
        if round % 2 == 0 {
            requests.reverse();
        }
        let order: Vec<u64> = requests.iter().map(|it| it.frame.request).collect();
        for request in requests {
            let answer = pattern(request.frame.request + 1000, request.len().min(66_003));
            pair.reply(request, &answer);
        }
        for number in order {
            let reply = pair.next_reply(0);
            assert_eq!(reply.frame.request, number, "replies are in the order of submission");
            let payload = get(reply.slot.reply(), reply.len());
            assert_eq!(payload, pattern(number + 1000, payload.len()), "reply {number}");
        }
    }
}

/// From submit to reply nobody can take the slot, at either end.
pub fn a_slot_in_flight_cannot_be_claimed(open: &dyn Fn() -> ServerEnd) {
    let mut pair = Pair::connected(open);
    pair.clients[0].send(1, b"one");
    let free = pair.clients[0].table.free_slots();
    assert_eq!(free, LAYOUT.slots - 1, "the client's slot is in flight");
    let request = pair.next_request();
    let index = request.slot.index();
    assert!(request.slot.table().claim(index).is_none(), "held at the server");
    assert!(pair.clients[0].table.claim(index).is_none(), "held at the client");
    pair.reply(request, b"two");
    let reply = pair.next_reply(0);
    assert_eq!(reply.slot.index(), index, "the slot that was submitted comes back");
    assert!(Arc::ptr_eq(reply.slot.table(), &pair.clients[0].table), "of the client's table");
    assert!(pair.clients[0].table.claim(index).is_none(), "held by who reads the reply");
    drop(reply);
    assert!(pair.clients[0].table.claim(index).is_some(), "free once the reply was read");
}

/// A link that reports completion does so exactly once per write, another at most once.
pub fn sent_is_reported_once(open: &dyn Fn() -> ServerEnd) {
    let mut pair = Pair::connected(open);
    let exactly = pair.clients[0].link.capabilities().reports_completion;
    assert_eq!(exactly, pair.server.listener.capabilities().reports_completion);
    assert_eq!(
        pair.clients[0].link.capabilities().kind,
        pair.server.listener.capabilities().kind,
        "both ends are of one kind"
    );
    for number in 0..20 {
        pair.round_trip(0, number, &pattern(number, 100), b"yes");
    }
    if exactly {
        pair.until("all writes were reported", |pair| {
            pair.seen.sent.len() >= 20 && pair.clients[0].seen.sent.len() >= 20
        });
    }
    pair.settle();
    for (end, sent) in [("server", &pair.seen.sent), ("client", &pair.clients[0].seen.sent)] {
        let mut once = sent.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), sent.len(), "{end}: a write was reported twice");
        assert!(once.iter().all(|&number| number < 20), "{end}: an unknown write was reported");
    }
}

/// Several sessions share a listener, and each gets its own replies.
pub fn sessions_do_not_mix(open: &dyn Fn() -> ServerEnd) {
    let mut pair = Pair::new(open);
    for session in 1..=3 {
        pair.add(admission(session));
    }
    for round in 0..20_u64 {
        for client in 0..3_usize {
            let payload = pattern(client as u64, 500);
            pair.clients[client].send(round, &payload);
        }
        for _ in 0..3 {
            let request = pair.next_request();
            let answer = pattern(request.frame.session.0 + 50, 400);
            pair.reply(request, &answer);
        }
        for client in 0..3_usize {
            let reply = pair.next_reply(client);
            let session = pair.clients[client].admission.session;
            assert_eq!(reply.frame.session, session);
            assert_eq!(get(reply.slot.reply(), reply.len()), pattern(session.0 + 50, 400));
        }
    }
}

/// A transfer that is not taken comes back with its slot.
pub fn what_is_not_taken_is_given_back(open: &dyn Fn() -> ServerEnd) {
    let mut pair = Pair::connected(open);
    let nobody = PeerId(u64::MAX);
    let slot = pair.clients[0].slot();
    let frame = pair.clients[0].frame(0, &slot, 5);
    let rejected = pair.clients[0].link.submit(Transfer::new(nobody, frame, slot));
    let Err(rejected) = rejected else { panic!("a request to nobody was taken") };
    assert_eq!((&rejected.why, rejected.transfer.frame), (&LinkError::NoPeer(nobody), frame));
    drop(rejected);
    pair.clients[0].send(1, b"hello");
    let request = pair.next_request();
    let table: Arc<SlotTable> = Arc::clone(request.slot.table());
    let (index, frame): (SlotIndex, _) = (request.slot.index(), request.frame);
    let transfer = Transfer::new(nobody, frame, request.slot);
    let rejected = pair.server.listener.submit(transfer);
    let Err(rejected) = rejected else { panic!("a reply to nobody was taken") };
    assert_eq!(rejected.why, LinkError::NoPeer(nobody));
    assert_eq!(rejected.transfer.slot.index(), index);
    assert!(Arc::ptr_eq(rejected.transfer.slot.table(), &table));
}
