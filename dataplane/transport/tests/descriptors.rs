//! Nothing is left open. Alone in its process: others' descriptors would be counted too.
#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use std::net::TcpListener;
use std::time::{Duration, Instant};

use ferry_core::{
    Endpoint, Generation, LinkKind, SessionId, SlotLayout, Status, Token, WaitPolicy,
};
use ferry_transport::{
    Admission, Link, Listener, TcpClient, TcpListenerLink, TcpOptions, ZmqClient, ZmqListenerLink,
    ZmqOptions,
};

/// Only ever reached when something hangs.
const WATCHDOG: Duration = Duration::from_secs(60);
const TOKEN: Token = Token::new([1; Token::BYTES]);
const LAYOUT: SlotLayout = SlotLayout { slots: 2, request_bytes: 10, reply_bytes: 10 };

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn settles_at(before: usize) -> bool {
    let started = Instant::now();
    // libzmq closes in a thread of its own.
    while open_descriptors() > before {
        if started.elapsed() > WATCHDOG {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

fn client(endpoint: &Endpoint, session: SessionId) -> Box<dyn Link> {
    let (deadline, first) = (Instant::now() + WATCHDOG, Generation::FIRST);
    match endpoint.link {
        LinkKind::Tcp => Box::new(
            TcpClient::connect(endpoint, session, first, TOKEN, LAYOUT, deadline).unwrap().0,
        ),
        _ => Box::new(
            ZmqClient::connect(endpoint, session, first, TOKEN, LAYOUT, deadline).unwrap().0,
        ),
    }
}

fn open_and_close(server: &mut dyn Listener, connections: u64) {
    let mut events = Vec::new();
    let endpoint = server.endpoint();
    for n in 1..=connections {
        let (session, generation, token) = (SessionId(n), Generation::FIRST, TOKEN);
        let (layout, wait) = (LAYOUT, WaitPolicy::Block);
        server.admit(Admission { session, generation, token, layout, wait, placer: None }).unwrap();
        std::thread::scope(|scope| {
            let connecting = std::thread::Builder::new()
                .spawn_scoped(scope, || drop(client(&endpoint, session)))
                .unwrap();
            while !connecting.is_finished() {
                server.poll(&mut events);
                server.park(Duration::from_millis(1));
            }
        });
        // Half of the sessions end here, the others with their server.
        if n % 2 == 0 {
            server.evict(session, Status::SessionEnded);
        }
        events.clear();
    }
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(50) {
        server.poll(&mut events);
        server.park(Duration::from_millis(5));
    }
}

#[test]
fn connections_leave_no_descriptor_behind() {
    let before = open_descriptors();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut server = TcpListenerLink::new(listener, TcpOptions::default()).unwrap();
    let with_server = open_descriptors();
    open_and_close(&mut server, 200);
    assert!(settles_at(with_server), "{} of tcp clients", open_descriptors());
    drop(server);
    assert!(settles_at(before), "{} of the tcp server", open_descriptors());

    let any = "127.0.0.1:0".parse().unwrap();
    let mut server = ZmqListenerLink::bind(any, ZmqOptions::default()).unwrap();
    let with_server = open_descriptors();
    open_and_close(&mut server, 200);
    assert!(settles_at(with_server), "{} of zmq clients", open_descriptors());
    drop(server);
    assert!(settles_at(before), "{} of the zmq server", open_descriptors());
}
