//! What a server's end refuses, and that a refused frame changes nothing.

use ferry_core::{Body, Frame, Generation, SessionId, SlotIndex, Status, Token};
use ferry_transport::Refusal;

use super::ServerEnd;
use super::pair::{Pair, admission, get, pattern, put};

/// A client that presents another token is refused and counted, and does not join.
pub fn a_wrong_token_is_refused(open: &dyn Fn() -> ServerEnd) {
    let mut pair = Pair::new(open);
    let right = admission(1);
    let descriptor = pair.admit(&right);
    let mut forged = right.clone();
    forged.token = Token::new([0xEE; Token::BYTES]);
    let mut unknown = right.clone();
    unknown.session = SessionId(99);
    for wrong in [forged, unknown] {
        pair.seen.refused.clear();
        if let Ok(end) = pair.try_connect(&wrong, &descriptor) {
            pair.clients.push(super::pair::Client::new(wrong.clone(), end));
            pair.until("the client was told", |pair| !pair.clients[0].seen.gone.is_empty());
            pair.clients.clear();
        }
        pair.until("the refusal was counted", |pair| {
            pair.seen.refused.contains(&Refusal::Credentials(wrong.session))
        });
        assert!(pair.seen.joined.is_empty(), "a forger joined");
    }
    let end = pair.try_connect(&right, &descriptor);
    let end = end.unwrap_or_else(|error| panic!("the right client was locked out: {error}"));
    pair.clients.push(super::pair::Client::new(right, end));
    pair.until("the right client joined", |pair| !pair.seen.joined.is_empty());
    pair.round_trip(0, 1, b"ask", b"answer");
}

/// Sends a forged frame with a payload while another request is in flight, and checks that it is
/// refused as `expected` and that what arrived before still reads the same.
fn forged(
    pair: &mut Pair,
    forge: impl Fn(&mut Frame, SlotIndex),
    is_expected: impl Fn(&Refusal) -> bool,
) {
    let honest = pattern(1, 5000);
    pair.clients[0].send(1, &honest);
    let held = pair.next_request();
    let client = &mut pair.clients[0];
    let mut slot = client.slot();
    put(slot.request_mut(), &pattern(666, 5000));
    let mut frame = client.frame(2, &slot, 5000);
    forge(&mut frame, held.slot.index());
    client.submit(frame, slot).unwrap_or_else(|error| {
        panic!("a client's link sends frames as they are, and it said: {}", error.why)
    });
    pair.until("the frame was refused", |pair| !pair.seen.refused.is_empty());
    pair.settle();
    let refused = &pair.seen.refused;
    assert!(refused.iter().any(is_expected), "refused for another reason: {refused:?}");
    assert!(pair.seen.arrived.is_empty(), "the forged frame arrived: {:?}", pair.seen.arrived);
    assert_eq!(get(held.slot.request(), 5000), honest, "the forged frame changed what is read");
    // Whether the peer is cut off is the link's choice; if not, it serves on.
    if pair.seen.gone.is_empty() {
        pair.reply(held, b"still here");
        assert_eq!(pair.next_reply(0).frame.request, 1);
        pair.round_trip(0, 3, b"ask", b"answer");
    }
}

/// A frame of an earlier lease (or of one that never was) is refused and counted.
pub fn a_frame_of_an_old_generation_is_refused(open: &dyn Fn() -> ServerEnd) {
    for named in [Generation::FIRST, Generation(0), Generation(3), Generation(u32::MAX)] {
        let mut pair = Pair::new(open);
        let mut second = admission(1);
        pair.admit(&second);
        pair.server.listener.evict(second.session, Status::SessionEnded);
        second.generation = Generation(2);
        pair.add(second);
        let expected = move |refusal: &Refusal| {
            matches!(refusal, Refusal::Generation { named: it, now: Generation(2), .. }
                if *it == named)
        };
        forged(&mut pair, |frame, held| (frame.generation, frame.slot) = (named, held), expected);
    }
}

/// A connection serves the session that it proved, and no other.
pub fn a_frame_of_another_session_is_refused(open: &dyn Fn() -> ServerEnd) {
    for named in [SessionId(2), SessionId(77), SessionId(0)] {
        let mut pair = Pair::connected(open);
        pair.add(admission(2));
        forged(
            &mut pair,
            |frame, held| (frame.session, frame.slot) = (named, held),
            |refusal| matches!(refusal, Refusal::Session { named: it, .. } if *it == named),
        );
    }
}

/// A slot beyond the session's layout is refused.
pub fn a_slot_out_of_range_is_refused(open: &dyn Fn() -> ServerEnd) {
    for named in [4, 63, 64, u32::MAX] {
        let mut pair = Pair::connected(open);
        forged(
            &mut pair,
            |frame, _| frame.slot = SlotIndex(named),
            |refusal| matches!(refusal, Refusal::Slot { slot, .. } if *slot == named),
        );
    }
}

/// A frame for a slot whose last request is not answered is refused.
pub fn a_slot_in_flight_is_refused(open: &dyn Fn() -> ServerEnd) {
    let mut pair = Pair::connected(open);
    forged(
        &mut pair,
        |frame, held| frame.slot = held,
        |refusal| matches!(refusal, Refusal::Slot { .. }),
    );
}

/// A frame that only a server sends is refused.
pub fn a_frame_of_the_wrong_kind_is_refused(open: &dyn Fn() -> ServerEnd) {
    let mut pair = Pair::connected(open);
    forged(
        &mut pair,
        |frame, _| frame.body = Body::Welcome,
        |refusal| matches!(refusal, Refusal::Kind(_)),
    );
}

/// A payload longer than the slot is refused by the server, or not taken by the client's link,
/// which has no more bytes to send.
pub fn a_payload_that_is_too_long_is_refused(open: &dyn Fn() -> ServerEnd) {
    for bytes in [70_002, u64::from(u32::MAX) + 1, u64::MAX] {
        let mut pair = Pair::connected(open);
        let client = &mut pair.clients[0];
        let slot = client.slot();
        let mut frame = client.frame(1, &slot, 0);
        frame.payload_bytes = bytes;
        if let Err(rejected) = client.submit(frame, slot) {
            assert_eq!(rejected.transfer.frame, frame, "given back as it was");
        } else {
            pair.until("the frame was refused", |pair| !pair.seen.refused.is_empty());
            let refused = &pair.seen.refused;
            let by_length = |refusal: &Refusal| matches!(refusal, Refusal::Length { .. });
            assert!(refused.iter().any(by_length), "refused for another reason: {refused:?}");
        }
        pair.settle();
        assert!(pair.seen.arrived.is_empty(), "{bytes} bytes arrived in a shorter slot");
    }
}
