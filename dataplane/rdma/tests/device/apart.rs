//! Payloads in memory of a (pretended) device, headers in the host's: two pieces, two keys.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ferry_core::session::SLOTS_MAX;
use ferry_core::{FRAME_BYTES, FRAME_ROOM_BYTES, Placement, RegionDescriptor, SessionId, Status};
use ferry_memory::{Placer, Region};
use ferry_rdma::verbs::{Access, By, CompletionStatus, Device, Domain, Registration};
use ferry_rdma::{Fence, RdmaListener, RdmaOptions, try_device_memory};
use ferry_transport::{Admission, AdmitError, Event, Listener, Refusal};

use crate::alone::held;
use crate::door::options;
use crate::pretended::{Flaw, Pretender, Told};
use crate::raw::{Host, LAYOUT, Peer, admission, poll, until};

fn listener() -> RdmaListener {
    RdmaListener::open(options()).unwrap()
}

fn on_device(session: u64, placer: &Arc<Pretender>) -> Admission {
    let placer = Some(Arc::clone(placer) as Arc<dyn Placer>);
    Admission { placer, ..admission(session, 1) }
}

fn is_gone(event: &Event, session: u64) -> bool {
    matches!(event, Event::Gone { session: Some(it), .. } if it.0 == session)
}

fn is_arrival(event: &Event, session: u64) -> bool {
    matches!(event, Event::Arrived { frame, .. } if frame.session.0 == session)
}

#[test]
fn the_card_reaches_memory_that_only_its_address_names() {
    let placer = Pretender::new(Flaw::None);
    // rxe takes no dma-bufs, and a file is none for any card: by its address.
    assert_eq!(try_device_memory(&options(), &*placer).unwrap(), By::PeerMemory);
    assert_eq!(placer.flushes.load(Ordering::Relaxed), 2, "once for each write");
}

/// What the card's driver finds, and what the device sees, is compared before a session is let in.
#[test]
fn memory_that_does_not_show_what_was_written_is_refused_with_the_reason() {
    let mut listener = listener();
    for (flaw, expected) in [
        (Flaw::OtherMemory, "do not see the same bytes"),
        (Flaw::Nowhere, "modprobe nvidia-peermem"),
    ] {
        let placer = Pretender::new(flaw);
        let said = try_device_memory(&options(), &*placer).unwrap_err().to_string();
        assert!(said.contains(expected) && said.contains("cuda:7"), "{flaw:?}: {said}");
        match listener.admit(on_device(1, &placer)) {
            Err(AdmitError::Attach(why)) => assert!(why.to_string().contains(expected), "{why}"),
            other => panic!("{flaw:?}: {other:?}"),
        }
    }
    let said = try_device_memory(&options(), &*Pretender::new(Flaw::Nowhere)).unwrap_err();
    let device = options().device.unwrap_or_else(|| "rxe0".into());
    if device.starts_with("rxe") {
        let said = said.to_string();
        assert!(said.contains("the driver of rxe0 takes no dma-bufs"), "{said}");
    }
    let full = listener.admit(on_device(1, &Pretender::new(Flaw::Full)));
    assert!(matches!(full, Err(AdmitError::Memory(_))), "{full:?}");
    // Nobody was let in half-way, and the next one is.
    listener.admit(on_device(1, &Pretender::new(Flaw::None))).unwrap();
}

#[test]
fn no_region_of_a_device_is_registered_beyond_its_end() {
    let name = options().device.unwrap_or_else(|| Device::names().unwrap().remove(0));
    let domain = Domain::new(&Arc::new(Device::open(&name).unwrap())).unwrap();
    let whole = Region::whole(Pretender::new(Flaw::None).allocate(3 * 4096).unwrap());
    let part = whole.part(4096, 4096).unwrap();
    let registration = Registration::new(&domain, part, Access::Payloads).unwrap();
    assert_eq!(registration.address(0), whole.view().device().unwrap().address + 4096);
    assert_eq!((registration.by(), registration.region().bytes()), (By::PeerMemory, 4096));
    whole.part(2 * 4096, 4097).unwrap_err();
}

/// Both pieces of a request, by a peer that posts them itself.
#[test]
fn a_request_is_told_by_its_header_and_read_where_the_device_has_it() {
    let (host, mut listener) = (Host::open(), listener());
    let placer = Pretender::new(Flaw::None);
    let peer = Peer::open(&host, &mut listener, on_device(1, &placer), true);
    let payloads = peer.payloads.expect("a key of its own");
    assert_ne!(payloads.remote_key, peer.key.remote_key);
    assert_eq!(peer.key.bytes, (u64::from(LAYOUT.slots) + 1) * FRAME_ROOM_BYTES as u64);
    assert_eq!(payloads.bytes, u64::from(LAYOUT.slots) * 4096);
    assert_eq!(*placer.allocated.lock().unwrap(), [8192, 8192], "requests, replies");
    let before = placer.flushes.load(Ordering::Relaxed);
    peer.request(1, 3000);
    let events = until(&mut listener, |event| matches!(event, Event::Arrived { .. }));
    let arrived = events.into_iter().find_map(|event| match event {
        Event::Arrived { slot, .. } => Some(slot),
        _ => None,
    });
    let slot = arrived.unwrap();
    assert_eq!(placer.flushes.load(Ordering::Relaxed), before + 1, "made visible, once");
    assert_eq!(slot.request().placement(), Placement::Cuda(7));
    assert_eq!((slot.request().host(), slot.request_bytes()), (None, None));
    let mut seen = vec![0; 3000];
    slot.request().copy_out(0, &mut seen).unwrap();
    assert!(seen.iter().all(|&byte| byte == crate::raw::MARK));
}

/// Each piece within its own key, and neither beyond its end.
#[test]
fn no_piece_reaches_beyond_its_own_memory() {
    type Aim = fn(&Peer<'_>, &Peer<'_>) -> (u64, u32);
    let strikes: [(&str, Aim); 7] = [
        ("payloads by the key of headers", |own, _| {
            (own.payloads.unwrap().address, own.key.remote_key)
        }),
        ("headers by the key of payloads", |own, _| {
            (own.key.address, own.payloads.unwrap().remote_key)
        }),
        ("before the payloads", |own, _| {
            let payloads = own.payloads.unwrap();
            (payloads.address - 32, payloads.remote_key)
        }),
        ("across the end of the payloads", |own, _| {
            let payloads = own.payloads.unwrap();
            (payloads.address + payloads.bytes - 32, payloads.remote_key)
        }),
        ("another session's payloads by its key", |_, victim| {
            let payloads = victim.payloads.unwrap();
            (payloads.address, payloads.remote_key)
        }),
        ("another session's payloads by one's own key", |own, victim| {
            (victim.payloads.unwrap().address, own.payloads.unwrap().remote_key)
        }),
        ("where replies leave from", |own, _| {
            let payloads = own.payloads.unwrap();
            (payloads.address, payloads.remote_key.wrapping_add(1 << 8))
        }),
    ];
    let (host, mut listener) = (Host::open(), listener());
    let placer = Pretender::new(Flaw::None);
    let victim = Peer::open(&host, &mut listener, on_device(1, &placer), true);
    for (session, (what, aim)) in (10..).zip(strikes) {
        let own = Peer::open(&host, &mut listener, on_device(session, &placer), true);
        let (address, key) = aim(&own, &victim);
        let status = own.strike(&mut listener, address, key, 64);
        assert_eq!(status, CompletionStatus::REMOTE_ACCESS, "{what}");
    }
    victim.request(0, 100);
    until(
        &mut listener,
        |event| matches!(event, Event::Arrived { frame, .. } if frame.session == SessionId(1)),
    );
}

/// The device's answer to an end: nothing of the old lease can be written any more.
#[test]
fn keys_of_payloads_end_with_the_lease() {
    let (host, mut listener) = (Host::open(), listener());
    let placer = Pretender::new(Flaw::None);
    for session in 1..20 {
        let old = Peer::open(&host, &mut listener, on_device(session, &placer), true);
        let payloads = old.payloads.unwrap();
        listener.evict(SessionId(session), Status::SessionEnded);
        let (start, mut events) = (Instant::now(), Vec::new());
        while start.elapsed() < Duration::from_millis(20) {
            poll(&mut listener, &mut events);
        }
        let next = Peer::open(&host, &mut listener, on_device(session + 100, &placer), true);
        let status = next.strike(&mut listener, payloads.address, payloads.remote_key, 2500);
        assert!(!status.is_success(), "the key of an ended lease was good: {status}");
        listener.evict(SessionId(session + 100), Status::SessionEnded);
    }
}

#[test]
fn frames_that_keep_no_rule_are_refused() {
    type Trick = fn(&Peer<'_>);
    let (host, mut listener) = (Host::open(), listener());
    let placer = Pretender::new(Flaw::None);
    let tricks: [(&str, Trick); 4] = [
        ("a header as long as if its payload were behind it", |it| {
            it.request(0, 10);
            it.post(it.key.address, it.key.remote_key, FRAME_BYTES + 10, 1 << 8);
        }),
        ("a header of a slot that is not there", |it| {
            it.post(it.key.address, it.key.remote_key, FRAME_BYTES, 1 << 8 | SLOTS_MAX);
        }),
        ("an immediate that comes with a payload", |it| {
            let payloads = it.payloads.unwrap();
            it.post(payloads.address, payloads.remote_key, 3000, 1 << 8);
        }),
        ("a payload longer than its slot, as its header says", |it| it.claim(0, 3001)),
    ];
    for (session, (what, trick)) in (10..).zip(tricks) {
        let peer = Peer::open(&host, &mut listener, on_device(session, &placer), true);
        trick(&peer);
        let gone = |event: &Event| is_gone(event, session);
        let events = until(&mut listener, gone);
        let refused = events.iter().filter(|event| matches!(event, Event::Refused(_))).count();
        assert_eq!(refused, 1, "{what}: {events:?}");
        if what.contains("longer") {
            let by_length = |event: &Event| matches!(event, Event::Refused(Refusal::Length { .. }));
            assert!(events.iter().any(by_length), "{events:?}");
        }
    }
}

/// A device that fails ends the session that is on it, and nobody else's.
#[test]
fn a_device_that_shows_nothing_any_more_ends_its_own_session() {
    let (host, mut listener) = (Host::open(), listener());
    let honest = Peer::open(&host, &mut listener, admission(1, 1), true);
    let failing = Pretender::new(Flaw::NeverVisible);
    let peer = Peer::open(&host, &mut listener, on_device(2, &failing), true);
    peer.request(0, 100);
    let gone = |event: &Event| matches!(event, Event::Gone { session: Some(SessionId(2)), .. });
    let events = until(&mut listener, gone);
    let said = format!("{events:?}");
    assert!(said.contains("pretended GPU is gone") || said.contains("payload visible"), "{said}");
    honest.request(0, 10);
    until(&mut listener, |event| matches!(event, Event::Arrived { .. }));
}

/// Sessions of both kinds on one lane, with every fence: the fence is the host memory's alone.
#[test]
fn sessions_with_and_without_a_device_share_a_lane() {
    let host = Host::open();
    for fence in [Fence::Window, Fence::Registration] {
        let mut listener = RdmaListener::open(RdmaOptions { fence, ..options() }).unwrap();
        let placer = Pretender::new(Flaw::None);
        let plain = Peer::open(&host, &mut listener, admission(1, 1), true);
        let apart = Peer::open(&host, &mut listener, on_device(2, &placer), true);
        assert!(plain.payloads.is_none() && apart.payloads.is_some());
        for (peer, session) in [(&plain, 1), (&apart, 2)] {
            peer.request(0, 200);
            let here = |event: &Event| is_arrival(event, session);
            until(&mut listener, here);
        }
        let told = listener.admit(on_device(3, &placer)).unwrap();
        assert!(matches!(told, RegionDescriptor::Remote { key: None, payloads: None, .. }));
    }
}

/// A GPU that copies from and to memory of the host has to know it.
#[test]
fn memory_of_the_host_is_told_to_the_gpu_and_stays_what_the_card_writes() {
    let host = Host::open();
    for fence in [Fence::Window, Fence::Registration] {
        for trust_window_bounds in [false, true] {
            let options = RdmaOptions { fence, trust_window_bounds, ..options() };
            let mut listener = RdmaListener::open(options).unwrap();
            let told = Arc::new(Told::default());
            let placer = Some(Arc::clone(&told) as Arc<dyn Placer>);
            let admission = Admission { placer, ..admission(1, 1) };
            let peer = Peer::open(&host, &mut listener, admission, true);
            assert!(peer.payloads.is_none());
            assert_eq!(told.0.load(Ordering::Relaxed), 2, "requests and replies");
            peer.request(0, 200);
            until(&mut listener, |event| matches!(event, Event::Arrived { .. }));
        }
    }
}

/// Sessions of a device that come and go leave nothing: every domain, registration, queue pair,
/// descriptor. Counted on the whole device, and therefore run alone.
#[test]
fn alone_sessions_of_a_device_leave_nothing() {
    let (host, mut listener) = (Host::open(), listener());
    let placer = Pretender::new(Flaw::None);
    let mut come_and_go = |first: u64| {
        for session in first..first + 40 {
            let told = on_device(session, &placer);
            match session % 3 {
                0 => drop(listener.admit(told).unwrap()),
                1 => drop(Peer::open(&host, &mut listener, told, false)),
                _ => Peer::open(&host, &mut listener, told, true).request(0, 500),
            }
            listener.evict(SessionId(session), Status::SessionEnded);
        }
        let (start, mut events) = (Instant::now(), Vec::new());
        while start.elapsed() < Duration::from_secs(3) {
            poll(&mut listener, &mut events);
            events.clear();
        }
    };
    come_and_go(1);
    let before = held();
    come_and_go(1000);
    assert_eq!(held(), before);
}
