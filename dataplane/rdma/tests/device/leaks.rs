//! Nothing is left of sessions that are over.

use std::process::Command;
use std::time::{Duration, Instant};

use ferry_core::{SessionId, Status};
use ferry_rdma::{Fence, RdmaListener, RdmaOptions};
use ferry_transport::Listener;

use crate::door::options;
use crate::raw::{Host, Peer, admission, poll};

/// Sessions that come and go.
const SESSIONS: u64 = 200;

/// What the kernel knows: objects of all devices, this process's threads and locked memory.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    objects: String,
    threads: usize,
    descriptors: usize,
}

fn held() -> Held {
    let shown = Command::new("rdma").args(["resource", "show"]).output().unwrap();
    assert!(shown.status.success(), "{shown:?}");
    let count = |folder: &str| std::fs::read_dir(folder).unwrap().count();
    Held {
        objects: String::from_utf8(shown.stdout).unwrap(),
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
    let (start, mut events) = (Instant::now(), Vec::new());
    // As long as the device needs to give up peers that do not answer.
    while start.elapsed() < Duration::from_secs(3) {
        poll(listener, &mut events);
        events.clear();
    }
}

#[test]
fn two_hundred_sessions_leave_no_object_thread_or_descriptor() {
    let host = Host::open();
    for fence in [Fence::Window, Fence::Registration] {
        let options = RdmaOptions { fence, trust_window_bounds: true, ..options() };
        let mut listener = RdmaListener::open(options).unwrap();
        // What is made once is made now.
        come_and_go(&mut listener, &host, 1);
        let before = held();
        come_and_go(&mut listener, &host, 1000);
        assert_eq!(held(), before, "fence {fence:?}");
    }
}
