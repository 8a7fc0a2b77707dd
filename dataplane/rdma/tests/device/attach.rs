//! Ways that lead nowhere, and what comes after them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{Attachment, Body, Frame, Reply, Request, RequestKind, StageTimes, Status};
use ferry_core::{RegionDescriptor, SessionId};
use ferry_memory::SlotTable;
use ferry_rdma::{RdmaClient, RdmaListener};
use ferry_transport::link::SERVER;
use ferry_transport::{AdmitError, ConnectError, Event, Link, LinkError, Listener, Transfer};

use crate::door::{attachable, options};
use crate::raw::{Host, LAYOUT, Peer, admission, poll, until};

/// How long a session may take to be connected by its second way.
const WITHIN: Duration = Duration::from_secs(40);

/// What goes wrong with the first way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The control plane refuses it.
    Refused,
    /// This end's device knows no way to the address.
    NoRoute,
    /// The hello does not arrive.
    NotThere,
    /// The hello arrives, and the welcome does not.
    NotBack,
}

/// What a device waits for that is told this number gets never there: packets from ahead are sent
/// again and again, and given up. Those from behind it would take for ones that it has seen.
fn before(first_psn: &mut u32) {
    *first_psn = first_psn.wrapping_sub(0x1000) & 0x00ff_ffff;
}

/// A session that is connected by its second way, served until then.
fn second_way(fault: Fault, server: &mut dyn Listener, door: crate::door::Door) -> Connected {
    let mut region = server.admit(admission(1, 1)).unwrap();
    let RegionDescriptor::Remote { queue_pair, .. } = &mut region else { panic!("{region:?}") };
    let real = queue_pair.gids[0];
    if fault == Fault::NoRoute {
        let mut nobody = real;
        nobody.0[15] ^= 0x80;
        queue_pair.gids.insert(0, nobody);
    }
    let connecting = std::thread::Builder::new().name("connect".into()).spawn(move || {
        let mut calls = 0;
        let mut attach = |attachment: &Attachment| -> Result<RegionDescriptor, ConnectError> {
            calls += 1;
            let mut told = attachment.clone();
            let is_first = calls == 1;
            match fault {
                Fault::Refused if is_first => {
                    return Err(LinkError::os("tell the server", "not this time").into());
                }
                Fault::NoRoute if is_first => told.server_gid = real,
                Fault::NotThere if is_first => before(&mut told.queue_pair.first_psn),
                _ => {}
            }
            let mut answer = door.attach(SessionId(1), &told)?;
            if let (Fault::NotBack, true, RegionDescriptor::Remote { queue_pair, .. }) =
                (fault, is_first, &mut answer)
            {
                before(&mut queue_pair.first_psn);
            }
            Ok(answer)
        };
        let told = admission(1, 1);
        let connected = RdmaClient::connect(
            &options(),
            told.session,
            told.generation,
            told.token,
            told.layout,
            &region,
            &mut attach,
            Instant::now() + WITHIN,
        );
        (connected, calls)
    });
    let connecting = connecting.unwrap();
    let mut events = Vec::new();
    while !connecting.is_finished() {
        server.poll(&mut events);
        std::thread::yield_now();
    }
    let (connected, calls) = connecting.join().unwrap();
    let (client, table) = connected.unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));
    Connected { client, table, calls, events }
}

struct Connected {
    client: RdmaClient,
    table: Arc<SlotTable>,
    calls: u32,
    events: Vec<Event>,
}

/// One request and its reply.
fn ask(client: &mut RdmaClient, table: &Arc<SlotTable>, server: &mut dyn Listener) {
    let told = admission(1, 1);
    let slot = table.acquire().unwrap();
    let body = Body::Request(Request::of(RequestKind::Tensor));
    let (session, generation) = (told.session, told.generation);
    let frame =
        Frame { session, generation, slot: slot.index(), request: 1, payload_bytes: 1000, body };
    client.submit(Transfer::new(SERVER, frame, slot)).unwrap();
    let (start, mut mine, mut theirs) = (Instant::now(), Vec::new(), Vec::new());
    while !mine.iter().any(|event| matches!(event, Event::Arrived { .. })) {
        assert!(start.elapsed() < WITHIN, "no answer; {mine:?} {theirs:?}");
        client.poll(&mut mine);
        server.poll(&mut theirs);
        for event in theirs.drain(..) {
            if let Event::Arrived { peer, frame, slot, .. } = event {
                let times = StageTimes::NONE;
                let reply = Reply { status: Status::Ok, times, reply_ns_previous: None };
                let frame = Frame { payload_bytes: 500, body: Body::Reply(reply), ..frame };
                server.submit(Transfer::new(peer, frame, slot)).unwrap();
            }
        }
        std::thread::yield_now();
    }
}

fn survives(fault: Fault) {
    let (mut server, door) = attachable(RdmaListener::open(options()).unwrap());
    let Connected { mut client, table, calls, mut events } = second_way(fault, &mut *server, door);
    // A third one where the second leads by an address that the system is still verifying.
    assert!((2..=4).contains(&calls), "{fault:?}: connected by way {calls}");
    ask(&mut client, &table, &mut *server);
    server.poll(&mut events);
    let is_over = |event: &Event| matches!(event, Event::Gone { .. } | Event::Refused(_));
    assert!(!events.iter().any(is_over), "{fault:?}: {events:?}");
    let joined = events.iter().filter(|event| matches!(event, Event::Joined { .. })).count();
    assert!(joined <= 1, "{fault:?}: joined {joined} times: {events:?}");
}

#[test]
fn a_way_that_the_control_plane_refuses_is_followed_by_the_next() {
    survives(Fault::Refused);
}

#[test]
fn a_way_without_a_route_is_followed_by_the_next() {
    survives(Fault::NoRoute);
}

#[test]
fn a_way_that_carries_no_hello_is_followed_by_the_next() {
    survives(Fault::NotThere);
}

#[test]
fn a_way_that_carries_no_welcome_is_followed_by_the_next() {
    survives(Fault::NotBack);
}

#[test]
fn who_has_joined_cannot_be_attached_again_and_goes_on() {
    let host = Host::open();
    let mut listener = RdmaListener::open(options()).unwrap();
    let peer = Peer::open(&host, &mut listener, admission(1, 1), true);
    let again = listener.attach(SessionId(1), &peer.attachment);
    assert!(matches!(again, Err(AdmitError::NotAttachable(SessionId(1)))), "{again:?}");
    peer.request(0, 10);
    until(&mut listener, |event| matches!(event, Event::Arrived { .. }));
}

/// Who has not joined may attach again: the memory is the new queue pair's, and a write of the old
/// one changes nothing.
#[test]
fn who_has_not_joined_attaches_again_and_the_old_end_is_fenced() {
    let host = Host::open();
    let mut listener = RdmaListener::open(options()).unwrap();
    let told = listener.admit(admission(1, 1)).unwrap();
    let old = Peer::attach(&host, &mut listener, &told, admission(1, 1));
    let new = Peer::attach(&host, &mut listener, &told, admission(1, 1));
    let status = old.strike(&mut listener, old.key.address, old.key.remote_key, 64);
    assert!(!status.is_success(), "the old end was not fenced");
    new.hello();
    let events = until(&mut listener, |event| matches!(event, Event::Joined { .. }));
    assert!(!events.iter().any(|event| matches!(event, Event::Gone { .. })), "{events:?}");
    let slots = usize::try_from(LAYOUT.slots).unwrap();
    for slot in 0..LAYOUT.slots {
        new.request(slot, 10);
    }
    let mut events = Vec::new();
    let start = Instant::now();
    while events.iter().filter(|event| matches!(event, Event::Arrived { .. })).count() < slots {
        assert!(start.elapsed() < WITHIN, "{events:?}");
        poll(&mut listener, &mut events);
    }
}
