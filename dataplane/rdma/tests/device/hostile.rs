//! A peer with a session of its own tries to get at another's.

use std::time::{Duration, Instant};

use ferry_core::session::SLOTS_MAX;
use ferry_rdma::verbs::CompletionStatus;
use ferry_rdma::{Fence, RdmaListener, RdmaOptions};
use ferry_transport::{Event, Refusal};

use crate::door::options;
use crate::raw::{Host, LAYOUT, Peer, admission, poll, until};

/// Where a strike of the first at the second goes: address, key, bytes.
type Aim = fn(&Peer<'_>, &Peer<'_>) -> (u64, u32, usize);

/// What a peer does to the link.
type Trick = fn(&Peer<'_>);

fn listener(fence: Fence) -> RdmaListener {
    RdmaListener::open(RdmaOptions { fence, ..options() }).unwrap()
}

/// Lets the listener work for a while; everything that happened.
fn settle(listener: &mut RdmaListener) -> Vec<Event> {
    let (start, mut events) = (Instant::now(), Vec::new());
    while start.elapsed() < Duration::from_millis(50) {
        poll(listener, &mut events);
    }
    events
}

fn is_gone(event: &Event, of: u64) -> bool {
    matches!(event, Event::Gone { session: Some(it), .. } if it.0 == of)
}

fn is_breach(event: &Event, of: u64) -> bool {
    matches!(event, Event::Refused(Refusal::Breach { session, .. }) if session.0 == of)
}

/// What the device refuses: writes with keys, addresses and lengths that are not the peer's.
#[test]
fn no_key_or_address_but_ones_own_is_good_for_anything() {
    let host = Host::open();
    for fence in [Fence::Window, Fence::Registration] {
        let mut listener = listener(fence);
        let victim = Peer::open(&host, &mut listener, admission(1, 1), true);
        let there = victim.key;
        let strikes: [(&str, Aim); 8] = [
            ("the victim's key and address", |_, v| (v.key.address, v.key.remote_key, 64)),
            ("the victim's key, its own address", |o, v| (o.key.address, v.key.remote_key, 64)),
            ("its own key, the victim's address", |o, v| (v.key.address, o.key.remote_key, 64)),
            ("its own key, before its memory", |o, _| (o.key.address - 32, o.key.remote_key, 64)),
            ("its own key, across the end", |o, _| {
                (o.key.address + o.key.bytes - 32, o.key.remote_key, 64)
            }),
            ("the next key", |o, v| (v.key.address, o.key.remote_key.wrapping_add(1), 64)),
            ("the victim's last key", |_, v| (v.key.address, v.key.remote_key ^ 1, 64)),
            ("an address from nowhere", |o, _| (0x1000, o.key.remote_key, 64)),
        ];
        for (session, (what, aim)) in (10..).zip(strikes) {
            let own = Peer::open(&host, &mut listener, admission(session, 1), true);
            let (address, key, bytes) = aim(&own, &victim);
            let status = own.strike(&mut listener, address, key, bytes);
            assert_eq!(status, CompletionStatus::REMOTE_ACCESS, "{what}, fence {fence:?}");
            // Counted and cut off, whether the device raises an event or not.
            let mut seen = own.seen.take();
            let start = Instant::now();
            while !seen.iter().any(|event| is_gone(event, session)) {
                assert!(start.elapsed() < Duration::from_secs(20), "{what}: {seen:?}");
                poll(&mut listener, &mut seen);
            }
            let counts = seen.iter().filter(|event| is_breach(event, session)).count();
            assert_eq!(counts, 1, "{what}, fence {fence:?}: {seen:?}");
        }
        // The victim is still served, and its memory is what it wrote itself.
        victim.request(0, 100);
        let arrived = |event: &Event| matches!(event, Event::Arrived { peer, .. } if peer.0 > 0);
        let events = until(&mut listener, arrived);
        let gone = events
            .iter()
            .any(|event| matches!(event, Event::Gone { session: Some(it), .. } if it.0 == 1));
        assert!(!gone, "the victim was cut off: {events:?}");
        assert_eq!(victim.key, there);
    }
}

/// What the link refuses: writes inside the peer's own memory that keep no rule.
#[test]
fn frames_that_keep_no_rule_are_refused_counted_and_cut_off() {
    let host = Host::open();
    let mut listener = listener(Fence::Auto);
    let honest = Peer::open(&host, &mut listener, admission(1, 1), true);
    let tricks: [(&str, Trick); 6] = [
        ("an immediate with a slot that is not there", |it| {
            it.post(it.key.address, it.key.remote_key, 64, 1 << 8 | SLOTS_MAX);
        }),
        ("an immediate of another generation", |it| {
            it.request(0, 10);
            it.post(it.key.address, it.key.remote_key, 64, 0x77 << 8);
        }),
        ("an immediate with nothing behind it", |it| {
            it.post(it.key.address, it.key.remote_key, 1, 1 << 8 | 1);
        }),
        ("a second hello", |it| it.hello()),
        ("a slot in flight", |it| {
            it.request(0, 10);
            it.request(0, 10);
        }),
        ("a length that is not the frame's", |it| {
            it.request(0, 10);
            let header = it.key.address + 4096 - 128;
            it.post(header, it.key.remote_key, 4000, 1 << 8);
        }),
    ];
    for (session, (what, trick)) in (10..).zip(tricks) {
        let peer = Peer::open(&host, &mut listener, admission(session, 1), true);
        trick(&peer);
        let gone = |event: &Event| matches!(event, Event::Gone { session: Some(it), .. } if it.0 == session);
        let events = until(&mut listener, gone);
        let refused = events.iter().filter(|event| matches!(event, Event::Refused(_))).count();
        assert_eq!(refused, 1, "{what}: {events:?}");
    }
    honest.request(1, 10);
    until(&mut listener, |event| matches!(event, Event::Arrived { .. }));
}

/// More writes than slots: the device has no receive for them, and the writer's own connection
/// fails. Nobody else notices, and no completion is too many for the queue.
#[test]
fn who_writes_beyond_its_slots_harms_itself() {
    let host = Host::open();
    let mut listener = listener(Fence::Auto);
    let honest = Peer::open(&host, &mut listener, admission(1, 1), true);
    let greedy = Peer::open(&host, &mut listener, admission(2, 1), true);
    // The listener is not polled meanwhile: no receive comes back.
    for _ in 0..12 {
        greedy.request(0, 10);
    }
    let events = settle(&mut listener);
    let slots = usize::try_from(LAYOUT.slots).unwrap();
    let arrived = events.iter().filter(|event| matches!(event, Event::Arrived { .. })).count();
    assert!(arrived <= slots, "{arrived} requests of {slots} slots");
    let refused = |event: &Event| matches!(event, Event::Refused(Refusal::Slot { .. }));
    assert!(events.iter().any(refused), "{events:?}");
    honest.request(1, 10);
    until(
        &mut listener,
        |event| matches!(event, Event::Arrived { frame, .. } if frame.session.0 == 1),
    );
}
