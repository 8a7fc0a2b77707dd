//! More completions than a queue has room for: unreachable at a listener, whatever its peers do.

use std::time::{Duration, Instant};

use ferry_core::{SessionId, SlotLayout, Status};
use ferry_rdma::verbs::DeviceEvent;
use ferry_rdma::{Fence, RdmaListener, RdmaOptions};
use ferry_transport::{Admission, AdmitError, Event, Listener};

use crate::door::options;
use crate::raw::{Host, LAYOUT, Peer, SENDS_MAX, admission, poll, until};
use crate::stale::Dice;

/// Room of the listener's queue: a dozen sessions of middling size.
const COMPLETIONS: u32 = 700;

/// Sessions that are opened and closed.
const STEPS: usize = 60;

/// How long the device may take to announce what it has dropped.
const WITHIN: Duration = Duration::from_secs(20);

/// Most completions that a session of so many slots can have outstanding, seen or not: a receive
/// per slot and two to spare, a write per slot, and five for what belongs to no request.
fn possible(slots: u32) -> u32 {
    (slots + 2) + (slots + 5)
}

fn of_slots(session: u64, slots: u32) -> Admission {
    let layout = SlotLayout { slots, request_bytes: 64, reply_bytes: 64 };
    Admission { layout, ..admission(session, 1) }
}

/// Sessions of random sizes come and go, and every peer writes more than its receives can take
/// while the listener looks at nothing: all completions that there can be are there at once.
#[test]
fn no_number_of_sessions_slots_and_writes_overruns_the_queue() {
    let host = Host::open();
    let options =
        RdmaOptions { completions_max: COMPLETIONS, fence: Fence::Registration, ..options() };
    let mut listener = RdmaListener::open(options).unwrap();
    let honest = Peer::open(&host, &mut listener, admission(1, 1), true);
    let mut dice = Dice(0x5eed_0005);
    let mut live: Vec<(Peer<'_>, u32)> = Vec::new();
    let (mut held, mut full, mut events) = (possible(LAYOUT.slots), 0, Vec::new());
    for session in (2..).take(STEPS) {
        let slots = u32::try_from(dice.roll(64)).unwrap() + 1;
        match listener.admit(of_slots(session, slots)) {
            Ok(told) => {
                live.push((
                    Peer::attach(&host, &mut listener, &told, of_slots(session, slots)),
                    slots,
                ));
                held += possible(slots);
            }
            Err(AdmitError::Full(_)) => {
                assert!(held + possible(slots) > COMPLETIONS, "there was room at {held}");
                full += 1;
                flood(&live);
                // Everybody at once; then the listener finds it all.
                for _ in 0..live.len() {
                    poll(&mut listener, &mut events);
                }
                for (peer, _) in live.drain(..) {
                    listener.evict(peer.admission.session, Status::SessionEnded);
                }
                held = settle(&mut listener, &mut events);
            }
            Err(other) => panic!("{other:?}"),
        }
        assert!(held <= COMPLETIONS, "{held} completions are possible");
    }
    assert!(full >= 3, "the queue was full {full} times: the bound was not reached");
    honest.request(0, 10);
    events.extend(until(&mut listener, |event| matches!(event, Event::Arrived { .. })));
    let cut = |event: &Event| matches!(event, Event::Gone { session: Some(SessionId(1)), .. });
    assert!(!events.iter().any(cut), "{events:?}");
}

/// Every peer writes until its session has no receive left, and on.
fn flood(live: &[(Peer<'_>, u32)]) {
    for (peer, slots) in live {
        for slot in 0..slots + 6 {
            peer.post(peer.key.address, peer.key.remote_key, 1, (1 << 8) | (slot % slots));
        }
    }
    for (peer, _) in live {
        peer.finish();
    }
}

/// Lets the listener close what was evicted, until there is room for as much as before.
fn settle(listener: &mut RdmaListener, events: &mut Vec<Event>) -> u32 {
    let start = Instant::now();
    let most = COMPLETIONS - possible(LAYOUT.slots);
    // As many slots as fit beside the honest session once all others are gone.
    let slots = ((most - 7) / 2).min(64);
    loop {
        poll(listener, events);
        let probes = [1_000_000, 1_000_001, 1_000_002, 1_000_003, 1_000_004];
        let admitted =
            probes.iter().take_while(|&&it| listener.admit(of_slots(it, slots)).is_ok()).count();
        for &probe in probes.iter().take(admitted) {
            listener.evict(SessionId(probe), Status::SessionEnded);
        }
        if admitted == usize::try_from(most / possible(slots)).unwrap().min(probes.len()) {
            // Sessions that were never attached to are let go of at once.
            poll(listener, events);
            return possible(LAYOUT.slots);
        }
        assert!(start.elapsed() < WITHIN, "sessions that were evicted still hold completions");
    }
}

/// What an overrun is like, where nobody keeps count: a peer that does not look at its own queue.
/// Its device says so, and it harms nobody else.
#[test]
fn an_overrun_is_told_by_the_device_and_is_its_owners() {
    let host = Host::open();
    let mut listener = RdmaListener::open(options()).unwrap();
    let honest = Peer::open(&host, &mut listener, admission(1, 1), true);
    // For the hello and the welcome; a device may round it up to what the writes below exceed.
    host.completions.set(2);
    let careless = Peer::open(&host, &mut listener, admission(2, 1), true);
    let (start, mut events, mut told) = (Instant::now(), Vec::new(), false);
    for at in 0..SENDS_MAX / 2 {
        // Zero bytes into its own control area, over and over.
        careless.touch(u64::from(at));
    }
    while !told {
        assert!(start.elapsed() < WITHIN, "the device told of no overrun");
        poll(&mut listener, &mut events);
        while let Some(event) = host.device.next_event() {
            told |= event == DeviceEvent::CompletionQueueError;
        }
    }
    honest.request(0, 10);
    events.extend(until(&mut listener, |event| matches!(event, Event::Arrived { .. })));
    let cut = |event: &Event| matches!(event, Event::Gone { session: Some(SessionId(1)), .. });
    assert!(!events.iter().any(cut), "{events:?}");
}
