//! What counts objects and packets of the whole device, and is therefore run alone: that nothing is
//! left of sessions that are over, and that a request costs one write each way.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{
    Body, FRAME_BYTES, Frame, Reply, Request, RequestKind, SessionId, StageTimes, Status,
};
use ferry_memory::Placer;
use ferry_rdma::verbs::Window;
use ferry_rdma::{Fence, RdmaClient, RdmaListener, RdmaOptions};
use ferry_transport::link::SERVER;
use ferry_transport::{Event, Link, Listener, Transfer};

use crate::door::{attachable_on, options};
use crate::pretended::{Flaw, Pretender};
use crate::raw::{Host, Peer, admission, poll};

/// Sessions that come and go.
const SESSIONS: u64 = 200;

/// What the kernel knows: objects of all devices, this process's threads and descriptors; and this
/// process's memory windows, of which it keeps no list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Held {
    objects: String,
    windows: usize,
    threads: usize,
    descriptors: usize,
}

pub(crate) fn held() -> Held {
    let shown = Command::new("rdma").args(["resource", "show"]).output().unwrap();
    assert!(shown.status.success(), "{shown:?}");
    let count = |folder: &str| std::fs::read_dir(folder).unwrap().count();
    Held {
        objects: String::from_utf8(shown.stdout).unwrap(),
        windows: Window::count(),
        threads: count("/proc/self/task"),
        descriptors: count("/proc/self/fd"),
    }
}

/// Sessions are opened, used or not, closed or forgotten half-way.
fn come_and_go(listener: &mut RdmaListener, host: &Host, first: u64) {
    for session in first..first + SESSIONS {
        match session % 4 {
            // Opened, and never attached to.
            0 => drop(listener.admit(admission(session, 1)).unwrap()),
            // Attached, and killed before the hello.
            1 => drop(Peer::open(host, listener, admission(session, 1), false)),
            // Killed with a request in flight.
            2 => {
                let peer = Peer::open(host, listener, admission(session, 1), true);
                peer.request(0, 500);
            }
            _ => drop(Peer::open(host, listener, admission(session, 1), true)),
        }
        listener.evict(SessionId(session), Status::SessionEnded);
    }
}

/// Lets the listener close what was evicted: the device has to give up peers that do not answer.
fn comes_back_to(before: &Held, listener: &mut RdmaListener, what: &str) {
    let (start, mut events) = (Instant::now(), Vec::new());
    loop {
        let looked = Instant::now();
        while looked.elapsed() < Duration::from_millis(300) {
            poll(listener, &mut events);
            events.clear();
        }
        let now = held();
        if now == *before {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{what}: {now:?}, before: {before:?}");
    }
}

#[test]
fn two_hundred_sessions_leave_no_object_thread_or_descriptor() {
    let host = Host::open();
    for fence in [Fence::Window, Fence::Registration] {
        let without = held();
        let options = RdmaOptions { fence, trust_window_bounds: true, ..options() };
        let mut listener = RdmaListener::open(options).unwrap();
        let before = held();
        come_and_go(&mut listener, &host, 1);
        comes_back_to(&before, &mut listener, &format!("fence {fence:?}"));
        // A kernel frees no domain that a window is left in.
        drop(listener);
        assert_eq!(held(), without, "fence {fence:?}, without its listener");
    }
}

/// Packets that the device has sent so far, without those that it sent twice and had to acknowledge
/// twice because an acknowledgement was late; `None` where it does not count them.
fn sent_packets() -> Option<u64> {
    let device = options().device.unwrap_or_else(|| "rxe0".into());
    let counter = |name: &str| -> Option<u64> {
        let path = format!("/sys/class/infiniband/{device}/ports/1/hw_counters/{name}");
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    // The kernel asks the device anew after 10 ms.
    std::thread::sleep(Duration::from_millis(50));
    Some(counter("sent_pkts")? - 2 * counter("duplicate_request").unwrap_or(0))
}

/// What happened at both ends.
fn take(link: &mut dyn Link, other: &mut dyn Link) -> (Vec<Event>, Vec<Event>) {
    let (mut mine, mut theirs) = (Vec::new(), Vec::new());
    link.poll(&mut mine);
    other.poll(&mut theirs);
    (mine, theirs)
}

#[test]
fn a_request_is_one_write_and_so_is_its_reply() {
    // A packet and its acknowledgement, each way.
    exchange(None, 4);
}

#[test]
fn a_request_with_its_payload_apart_is_two_writes_and_its_reply_one() {
    exchange(Some(Pretender::new(Flaw::None)), 6);
}

/// Requests and replies; the device sends so many packets for one of each.
fn exchange(placer: Option<Arc<dyn Placer>>, packets: u64) {
    const REQUESTS: u64 = 50;
    let (mut server, door) = attachable_on(RdmaListener::open(options()).unwrap(), placer);
    let told = admission(1, 1);
    let region = server.admit(told.clone()).unwrap();
    let connecting = std::thread::Builder::new().name("connect".into()).spawn(move || {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut attach = |attachment: &_| door.attach(SessionId(1), attachment);
        let told = admission(1, 1);
        RdmaClient::connect(
            &options(),
            told.session,
            told.generation,
            told.token,
            told.layout,
            &region,
            &mut attach,
            deadline,
        )
        .unwrap()
    });
    let connecting = connecting.unwrap();
    while !connecting.is_finished() {
        server.poll(&mut Vec::new());
    }
    let (mut client, table) = connecting.join().unwrap();
    let before = sent_packets();
    let (mut requests_sent, mut replies_sent, mut answered) = (0, 0, 0);
    let what = Request::of(RequestKind::Tensor);
    let start = Instant::now();
    for request in 1..=REQUESTS {
        let slot = table.acquire().unwrap();
        let (session, generation) = (told.session, told.generation);
        let (payload_bytes, body) = (1000, Body::Request(what));
        let frame = Frame { session, generation, slot: slot.index(), request, payload_bytes, body };
        client.submit(Transfer::new(SERVER, frame, slot)).unwrap();
        // Until reply and both completions are there.
        while answered < request || requests_sent < request || replies_sent < request {
            assert!(start.elapsed() < Duration::from_secs(60), "waited in vain");
            let (mine, theirs) = take(&mut client, &mut *server);
            for event in mine {
                match event {
                    Event::Sent { .. } => requests_sent += 1,
                    Event::Arrived { .. } => answered += 1,
                    other => panic!("{other:?}"),
                }
            }
            for event in theirs {
                match event {
                    Event::Sent { .. } => replies_sent += 1,
                    Event::Arrived { peer, frame, slot, .. } => {
                        let reply = Reply {
                            status: Status::Ok,
                            times: StageTimes::NONE,
                            reply_ns_previous: None,
                        };
                        let frame = Frame { payload_bytes: 500, body: Body::Reply(reply), ..frame };
                        server.submit(Transfer::new(peer, frame, slot)).unwrap();
                    }
                    Event::Joined { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    assert_eq!((requests_sent, replies_sent), (REQUESTS, REQUESTS), "completions");
    // Both ends are on this device, and each write is one packet.
    const { assert!(FRAME_BYTES + 1000 < 4096) };
    let Some(before) = before else {
        assert!(options().device.is_some(), "Soft-RoCE counts its packets");
        return;
    };
    let (start, mut sent) = (Instant::now(), 0);
    // What is counted may be told late, but never again after that.
    while sent < packets * REQUESTS && start.elapsed() < Duration::from_secs(10) {
        sent = sent_packets().unwrap() - before;
    }
    sent = sent_packets().unwrap() - before;
    assert_eq!(sent, packets * REQUESTS, "packets");
}
