//! What a link promises whose requests are calls, each of its own: the link `grpc`.

use ferry_core::{Body, Generation, OutputShapes, SessionId, SlotIndex, Status, Tail, Token};
use ferry_core::{Hop, Hops};
use ferry_transport::link::SERVER;
use ferry_transport::{LinkError, Refusal, Transfer};

use super::ServerEnd;
use super::pair::{Client, Pair, admission, get, pattern};

/// Neither end says that it carries frames.
pub fn it_makes_calls(open: &dyn Fn() -> ServerEnd) {
    let pair = Pair::connected(open);
    assert!(!pair.clients[0].link.capabilities().carries_frames, "the client");
    assert!(!pair.server.listener.capabilities().carries_frames, "the server");
}

/// With as many calls in flight as there are slots, and answered in another order, each reply is
/// that of its request.
pub fn each_reply_is_that_of_its_request(open: &dyn Fn() -> ServerEnd) {
    let mut pair = Pair::connected(open);
    for round in 0..20_usize {
        let first = (round * 4) as u64;
        let sizes = [70_001, 0, 300, 9_000];
        for (i, number) in (first..first + 4).enumerate() {
            pair.clients[0].send(number, &pattern(number, sizes[(i + round) % 4]));
        }
        assert!(pair.clients[0].table.acquire().is_none(), "all slots are in flight");
        let mut requests: Vec<_> = (0..4).map(|_| pair.next_request()).collect();
        if round % 2 == 0 {
            requests.reverse();
        }
        for request in requests {
            let number = request.frame.request;
            let payload = get(request.slot.request(), request.len());
            assert_eq!(payload, pattern(number, payload.len()), "payload of request {number}");
            pair.reply(request, &pattern(number + 1000, payload.len().min(66_003)));
        }
        let mut answered: Vec<u64> = (0..4)
            .map(|_| pair.next_reply(0))
            .map(|reply| {
                let number = reply.frame.request;
                let payload = get(reply.slot.reply(), reply.len());
                assert_eq!(payload, pattern(number + 1000, payload.len()), "reply {number}");
                number
            })
            .collect();
        answered.sort_unstable();
        assert!(answered.iter().copied().eq(first..first + 4), "answered once each: {answered:?}");
    }
}

/// The shapes of outputs arrive with their own reply.
pub fn shapes_of_outputs_arrive_with_their_reply(open: &dyn Fn() -> ServerEnd) {
    let mut pair = Pair::connected(open);
    let shapes = OutputShapes::of([&[1, 300, 4][..], &[]]).expect("fits");
    let tails = [Tail::NONE, Tail::with_outputs(Some(Box::new(shapes))), Tail::NONE];
    for (number, tail) in (0..).zip(tails) {
        pair.clients[0].send(number, b"ask");
        let request = pair.next_request();
        let replied = pair.reply_with(request, b"answer", tail.clone());
        replied.unwrap_or_else(|error| panic!("submit a reply: {}", error.why));
        assert_eq!(pair.next_reply(0).tail, tail, "reply {number}");
    }
}

/// What a call does not say is not dropped in silence: the transfer comes back as it was.
pub fn what_a_call_cannot_say_is_given_back(open: &dyn Fn() -> ServerEnd) {
    type Forge = fn(&mut Transfer);
    let forgeries: [(&str, Forge); 6] = [
        ("session", |it| it.frame.session = SessionId(77)),
        ("lease", |it| it.frame.generation = Generation(7)),
        ("slot", |it| it.frame.slot = SlotIndex(it.frame.slot.0 + 1)),
        ("kind", |it| it.frame.body = Body::Welcome),
        ("length", |it| it.frame.payload_bytes = 70_002),
        ("tail", |it| {
            let hop = Hop { relay: 7, out_ns: Some(1), away_ns: None, back_ns: None };
            let mut hops = Hops::default();
            hops.push(hop).unwrap_or_else(|_| panic!("one hop fits"));
            it.tail = Tail { hops, ..Tail::NONE };
        }),
    ];
    let mut pair = Pair::connected(open);
    for (number, (what, forge)) in (0..).zip(forgeries) {
        let client = &mut pair.clients[0];
        let slot = client.slot();
        let frame = client.frame(number, &slot, 100);
        let mut transfer = Transfer::new(SERVER, frame, slot);
        forge(&mut transfer);
        let (frame, tail) = (transfer.frame, transfer.tail.clone());
        let Err(rejected) = client.link.submit(transfer) else { panic!("{what}: was taken") };
        assert_eq!((rejected.transfer.frame, &rejected.transfer.tail), (frame, &tail), "{what}");
        assert!(matches!(rejected.why, LinkError::Protocol(_)), "{what}: {}", rejected.why);
    }
    pair.settle();
    assert!(pair.seen.arrived.is_empty(), "arrived: {:?}", pair.seen.arrived);
    pair.round_trip(0, 10, b"ask", b"answer");
}

/// A call whose token, session or lease does not fit is refused and counted, and ends its link.
pub fn a_call_without_proof_is_refused(open: &dyn Fn() -> ServerEnd) {
    let mut pair = Pair::new(open);
    let right = admission(1);
    let descriptor = pair.admit(&right);
    let (mut forged, mut unknown, mut late) = (right.clone(), right.clone(), right.clone());
    forged.token = Token::new([0xEE; Token::BYTES]);
    unknown.session = SessionId(99);
    late.generation = Generation(2);
    for wrong in [forged, unknown, late] {
        pair.seen.refused.clear();
        let end = pair.try_connect(&wrong, &descriptor);
        let end = end.unwrap_or_else(|error| panic!("connect: {error}"));
        let session = wrong.session;
        pair.clients.push(Client::new(wrong, end));
        for number in 0..3 {
            pair.clients[0].send(number, b"let me in");
        }
        pair.until("the client was told", |pair| !pair.clients[0].seen.gone.is_empty());
        pair.settle();
        let seen = &pair.clients[0].seen;
        assert_eq!(seen.gone.len(), 1, "gone is reported once");
        assert_eq!(seen.gone[0].1, LinkError::Bye(Status::SessionEnded));
        assert!(seen.arrived.is_empty(), "a forger has a reply");
        assert!(pair.seen.refused.contains(&Refusal::Credentials(session)), "it was not counted");
        assert!(pair.seen.arrived.is_empty(), "a forger's request arrived");
        pair.clients.clear();
    }
    let end = pair.try_connect(&right, &descriptor);
    let end = end.unwrap_or_else(|error| panic!("the right client was locked out: {error}"));
    pair.clients.push(Client::new(right, end));
    pair.round_trip(0, 1, b"ask", b"answer");
}

/// Evict: the next call is told that the session ended, and so is no other session's.
pub fn evict_is_told_to_the_next_call(open: &dyn Fn() -> ServerEnd) {
    let mut pair = Pair::connected(open);
    pair.add(admission(2));
    pair.round_trip(0, 1, b"before", b"evict");
    let session = pair.clients[0].admission.session;
    pair.server.listener.evict(session, Status::SessionEnded);
    pair.server.listener.evict(session, Status::SessionEnded);
    pair.clients[0].send(2, b"after");
    pair.until("the peer was told", |pair| !pair.clients[0].seen.gone.is_empty());
    assert_eq!(pair.clients[0].seen.gone[0].1, LinkError::Bye(Status::SessionEnded));
    let slot = pair.clients[0].slot();
    let frame = pair.clients[0].frame(3, &slot, 0);
    pair.clients[0].submit(frame, slot).expect_err("a request of an ended session was taken");
    assert!(pair.seen.arrived.is_empty(), "a request arrived after evict");
    pair.round_trip(1, 1, b"the other", b"is served");
}
