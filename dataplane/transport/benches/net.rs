//! What the links over TCP cost beside the bare thing: 602,112 bytes there, 4,000 bytes back, one
//! request in flight, two threads of one process.
//!
//! Each pair runs interleaved (bare, link, bare, link, …), and each is filled by one copy into a
//! reused buffer. What counts is the ratio: other work on the machine moves both alike. Run it by
//! `cargo bench -p ferry-transport --bench net [-- ROUNDS REQUESTS_PER_ROUND [FILTER]]`.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run should say so and end")]
#![expect(clippy::print_stdout, reason = "its result is what it prints")]

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{
    Body, Frame, Generation, Reply, Request, RequestKind, SessionId, SlotLayout, StageTimes,
    Status, Token, WaitPolicy,
};
use ferry_memory::SlotTable;
use ferry_transport::link::SERVER;
use ferry_transport::{
    Admission, Event, Events, Link, Listener, TcpClient, TcpListenerLink, TcpOptions, Transfer,
    Waiter, ZmqClient, ZmqListenerLink, ZmqOptions,
};

const REQUEST_BYTES: usize = 602_112;
const REPLY_BYTES: usize = 4000;
const SESSION: SessionId = SessionId(1);
const TOKEN: Token = Token::new([1; Token::BYTES]);
const LAYOUT: SlotLayout =
    SlotLayout { slots: 1, request_bytes: REQUEST_BYTES as u64, reply_bytes: REPLY_BYTES as u64 };
const SLICE: Duration = Duration::from_millis(100);

/// Runs some requests and returns how long each took, in nanoseconds.
type Round = Box<dyn FnMut(usize) -> Vec<u64>>;

/// Sets one side up.
type Start = fn(WaitPolicy) -> Round;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let rounds = arguments.next().map_or(10, |text| text.parse().unwrap());
    let requests = arguments.next().map_or(300, |text| text.parse().unwrap());
    let filter = arguments.next().unwrap_or_default();
    for policy in [WaitPolicy::Block, WaitPolicy::Spin] {
        let pairs: [(&str, Start, Start); 2] =
            [("tcp", bare_tcp, link_tcp), ("zmq", bare_zmq, link_zmq)];
        for (name, bare, link) in pairs {
            if name.contains(&filter) {
                compare(&format!("{name} {policy}"), bare(policy), link(policy), rounds, requests);
            }
        }
    }
}

fn compare(name: &str, mut bare: Round, mut link: Round, rounds: usize, requests: usize) {
    let (mut bare_ns, mut link_ns) = (Vec::new(), Vec::new());
    bare(requests);
    link(requests);
    for _ in 0..rounds {
        bare_ns.extend(bare(requests));
        link_ns.extend(link(requests));
    }
    let (bare, link) = (percentile(&mut bare_ns, 50), percentile(&mut link_ns, 50));
    let (bare_p99, link_p99) = (percentile(&mut bare_ns, 99), percentile(&mut link_ns, 99));
    println!(
        "{name:<10} p50: bare {bare:>6.1} µs, link {link:>6.1} µs, ratio {:.2}; \
         p99: bare {bare_p99:>6.1} µs, link {link_p99:>6.1} µs",
        link / bare
    );
}

fn percentile(ns: &mut [u64], percent: usize) -> f64 {
    ns.sort_unstable();
    let at = (ns.len() * percent / 100).min(ns.len() - 1);
    Duration::from_nanos(ns[at]).as_secs_f64() * 1e6
}

/// Serves in a second thread while `ask` asks in this one.
fn both(requests: usize, serve: impl FnMut() + Send, ask: impl FnMut()) -> Vec<u64> {
    let (mut serve, mut ask) = (serve, ask);
    std::thread::scope(|scope| {
        let server = std::thread::Builder::new().name("server".into());
        let server = server.spawn_scoped(scope, move || (0..requests).for_each(|_| serve()));
        let timed = |_| {
            let started = Instant::now();
            ask();
            u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX)
        };
        let times = (0..requests).map(timed).collect();
        server.unwrap().join().unwrap();
        times
    })
}

fn bare_tcp(policy: WaitPolicy) -> Round {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(policy == WaitPolicy::Spin).unwrap();
    }
    let source = vec![7_u8; REQUEST_BYTES];
    let mut sent = vec![0_u8; REQUEST_BYTES];
    let (mut landed, mut answer) = (vec![0_u8; REQUEST_BYTES], vec![0_u8; REPLY_BYTES]);
    let reply = vec![8_u8; REPLY_BYTES];
    Box::new(move |requests| {
        both(
            requests,
            || {
                read_all(&mut server, &mut landed);
                write_all(&mut server, &reply);
            },
            || {
                sent.copy_from_slice(&source);
                write_all(&mut client, &sent);
                read_all(&mut client, &mut answer);
            },
        )
    })
}

/// `read_exact` that spins where the stream does not block.
fn read_all(stream: &mut TcpStream, into: &mut [u8]) {
    let mut got = 0;
    while got < into.len() {
        match stream.read(&mut into[got..]) {
            Ok(0) => return,
            Ok(read) => got += read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Interrupted),
        }
    }
}

fn write_all(stream: &mut TcpStream, from: &[u8]) {
    let mut put = 0;
    while put < from.len() {
        match stream.write(&from[put..]) {
            Ok(wrote) => put += wrote,
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Interrupted),
        }
    }
}

fn link_tcp(policy: WaitPolicy) -> Round {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Box::new(TcpListenerLink::new(listener, TcpOptions::default()).unwrap());
    over_link(policy, server, |endpoint| {
        let deadline = Instant::now() + Duration::from_secs(10);
        let first = Generation::FIRST;
        TcpClient::connect(&endpoint, SESSION, first, TOKEN, LAYOUT, deadline).unwrap()
    })
}

fn bare_zmq(policy: WaitPolicy) -> Round {
    let (server_context, client_context) = (zmq::Context::new(), zmq::Context::new());
    let mut server = server_context.socket(zmq::ROUTER).unwrap();
    let client = client_context.socket(zmq::DEALER).unwrap();
    server.bind("tcp://127.0.0.1:*").unwrap();
    client.connect(&server.get_last_endpoint().unwrap().unwrap()).unwrap();
    let source = vec![7_u8; REQUEST_BYTES];
    let mut sent = vec![0_u8; REQUEST_BYTES];
    let (mut landed, mut answer) = (vec![0_u8; REQUEST_BYTES], vec![0_u8; REPLY_BYTES]);
    let reply = vec![8_u8; REPLY_BYTES];
    let mut part = zmq::Message::new();
    Box::new(move |requests| {
        // Moved as a whole: a socket may change threads, but not be shared by two.
        let (server, part, landed) = (&mut server, &mut part, &mut landed);
        let reply = &reply;
        both(
            requests,
            move || {
                receive(server, part, policy);
                server.recv_into(landed, 0).unwrap();
                server.send(&part[..], zmq::SNDMORE).unwrap();
                server.send(&reply[..], 0).unwrap();
            },
            || {
                sent.copy_from_slice(&source);
                client.send(&sent, 0).unwrap();
                let mut part = zmq::Message::new();
                receive(&client, &mut part, policy);
                answer.copy_from_slice(&part);
            },
        )
    })
}

/// Takes a first part, spinning or blocking.
fn receive(socket: &zmq::Socket, part: &mut zmq::Message, policy: WaitPolicy) {
    let flags = if policy == WaitPolicy::Spin { zmq::DONTWAIT } else { 0 };
    while let Err(error) = socket.recv(part, flags) {
        assert_eq!(error, zmq::Error::EAGAIN);
        std::hint::spin_loop();
    }
}

fn link_zmq(policy: WaitPolicy) -> Round {
    let any = "127.0.0.1:0".parse().unwrap();
    let server = Box::new(ZmqListenerLink::bind(any, ZmqOptions::default()).unwrap());
    over_link(policy, server, |endpoint| {
        let deadline = Instant::now() + Duration::from_secs(10);
        let first = Generation::FIRST;
        ZmqClient::connect(&endpoint, SESSION, first, TOKEN, LAYOUT, deadline).unwrap()
    })
}

fn over_link<C: Link + 'static>(
    policy: WaitPolicy,
    mut server: Box<dyn Listener>,
    connect: fn(ferry_core::Endpoint) -> (C, Arc<SlotTable>),
) -> Round {
    let (token, layout, generation) = (TOKEN, LAYOUT, Generation::FIRST);
    server
        .admit(Admission {
            session: SESSION,
            generation,
            token,
            layout,
            wait: policy,
            placer: None,
        })
        .unwrap();
    let endpoint = server.endpoint();
    let (mut client, table) = std::thread::scope(|scope| {
        let connecting = scope.spawn(move || connect(endpoint));
        while !connecting.is_finished() {
            server.poll(&mut Vec::new());
            server.park(Duration::from_millis(1));
        }
        connecting.join().unwrap()
    });
    let (source, reply) = (vec![7_u8; REQUEST_BYTES], vec![8_u8; REPLY_BYTES]);
    let (mut at_server, mut at_client) = (Events::new(), Events::new());
    let (mut server_waits, mut client_waits) = (Waiter::new(policy), Waiter::new(policy));
    let mut request = 0;
    Box::new(move |requests| {
        both(
            requests,
            || {
                let mut transfer = wait(&mut *server, &mut at_server, &mut server_waits);
                transfer.slot.reply_bytes_mut().unwrap().copy_from_slice(&reply);
                let (status, times) = (Status::Ok, StageTimes::NONE);
                transfer.frame.body = Body::Reply(Reply { status, times, reply_ns_previous: None });
                transfer.frame.payload_bytes = REPLY_BYTES as u64;
                server.submit(transfer).unwrap();
            },
            || {
                let mut slot = table.acquire().unwrap();
                slot.request_bytes_mut().unwrap().copy_from_slice(&source);
                request += 1;
                let frame = request_frame(request);
                client.submit(Transfer::new(SERVER, frame, slot)).unwrap();
                drop(wait(&mut client, &mut at_client, &mut client_waits));
            },
        )
    })
}

fn request_frame(request: u64) -> Frame {
    let body = Body::Request(Request::of(RequestKind::Tensor));
    let (session, generation, slot) = (SESSION, Generation::FIRST, ferry_core::SlotIndex(0));
    Frame { session, generation, slot, request, payload_bytes: REQUEST_BYTES as u64, body }
}

/// Waits until something arrives.
fn wait(link: &mut dyn Link, events: &mut Events, waiter: &mut Waiter) -> Transfer {
    loop {
        link.poll(events);
        let mut arrived = None;
        for event in events.drain(..) {
            match event {
                Event::Arrived { peer, frame, slot, .. } => {
                    arrived = Some(Transfer::new(peer, frame, slot));
                }
                Event::Sent { .. } | Event::Joined { .. } => {}
                Event::Refused(_) | Event::Gone { .. } => panic!("{event:?}"),
            }
        }
        match arrived {
            Some(transfer) => {
                waiter.busy();
                return transfer;
            }
            None => waiter.idle(link, SLICE),
        }
    }
}
