//! What every link over a network must do, over real sockets of this host.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

mod common;
mod hostile_tcp;
mod hostile_zmq;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use common::*;
use ferry_core::{Endpoint, Generation, SessionId, SlotLayout, Status, Token};
use ferry_memory::PeerId;
use ferry_transport::link::SERVER;
use ferry_transport::{
    AdmitError, ConnectError, Event, LinkError, Listener, TcpClient, TcpListenerLink, TcpOptions,
    Transfer, ZmqClient, ZmqListenerLink, ZmqOptions,
};

fn tcp_connect(
    endpoint: &Endpoint,
    session: SessionId,
    generation: Generation,
    token: Token,
    layout: SlotLayout,
) -> Connected {
    let deadline = Instant::now() + WATCHDOG;
    let (client, table) =
        TcpClient::connect(endpoint, session, generation, token, layout, deadline)?;
    Ok((Box::new(client), table))
}

fn tcp_on(address: &str, socket_buffer_bytes: Option<usize>) -> Box<dyn Listener> {
    let options = TcpOptions { socket_buffer_bytes, ..TcpOptions::default() };
    Box::new(TcpListenerLink::new(TcpListener::bind(address).unwrap(), options).unwrap())
}

fn tcp() -> Box<dyn Listener> {
    tcp_on("127.0.0.1:0", None)
}

fn tcp_small() -> Box<dyn Listener> {
    tcp_on("127.0.0.1:0", Some(128 << 10))
}

fn tcp_v6() -> Box<dyn Listener> {
    tcp_on("[::1]:0", None)
}

fn zmq_connect(
    endpoint: &Endpoint,
    session: SessionId,
    generation: Generation,
    token: Token,
    layout: SlotLayout,
) -> Connected {
    let deadline = Instant::now() + WATCHDOG;
    let (client, table) =
        ZmqClient::connect(endpoint, session, generation, token, layout, deadline)?;
    Ok((Box::new(client), table))
}

fn zmq_on(address: &str) -> Box<dyn Listener> {
    Box::new(ZmqListenerLink::bind(address.parse().unwrap(), ZmqOptions::default()).unwrap())
}

fn zmq() -> Box<dyn Listener> {
    zmq_on("127.0.0.1:0")
}

fn zmq_v6() -> Box<dyn Listener> {
    zmq_on("[::1]:0")
}

/// Instantiates every check for a link.
macro_rules! checks {
    ($link:ident, $server:expr, $connect:expr) => {
        mod $link {
            use super::*;

            #[test]
            fn payloads_of_every_size_come_back_whole() {
                super::sizes($server(), $connect);
            }

            #[test]
            fn several_requests_are_in_flight_and_keep_their_order() {
                super::several_in_flight($server(), $connect);
            }

            #[test]
            fn credentials_are_checked_and_both_mistakes_answered_alike() {
                super::credentials($server(), $connect);
            }

            #[test]
            fn a_second_peer_of_a_live_session_is_refused() {
                super::second_peer($server(), $connect);
            }

            #[test]
            fn a_new_lease_cuts_off_the_old_one() {
                super::resumed($server(), $connect);
            }

            #[test]
            fn an_evicted_client_is_told_why_and_gets_its_slots_back() {
                super::evicted($server(), $connect);
            }

            #[test]
            fn who_leaves_is_reported_at_the_other_end() {
                super::leaves($server(), $connect);
            }

            #[test]
            fn a_sleep_ends_by_its_waker() {
                super::woken($server(), $connect);
            }
        }
    };
}

checks!(tcp, tcp, tcp_connect);
checks!(tcp_with_small_buffers, tcp_small, tcp_connect);
checks!(tcp_over_ipv6, tcp_v6, tcp_connect);
checks!(zmq, zmq, zmq_connect);
checks!(zmq_over_ipv6, zmq_v6, zmq_connect);

fn sizes(mut server: Box<dyn Listener>, connect: Connect) {
    let layout = layout(1, 602_112, 45_000_000);
    server.admit(admission(1, FIRST, layout)).unwrap();
    let (mut at_server, mut at_client) = (Vec::new(), Vec::new());
    let joined = join(&mut *server, &mut at_server, connect, 1, FIRST, layout);
    let (mut client, table) = joined.unwrap();
    assert!(take_joined(&mut at_server).is_some());
    let sizes = [(0, 0), (1, 1), (602_112, 4000), (4096, 45_000_000), (602_112, 0)];
    for (request, (sent, back)) in (0..).zip(sizes) {
        let (ask, reply) = (pattern(sent, request), pattern(back, !request));
        send(&mut *client, &table, 1, request, &ask);
        let landed =
            exchange(&mut *server, &mut at_server, &mut *client, &mut at_client, |landed| {
                assert_eq!(landed.frame.session, SessionId(1));
                assert!(requested(landed) == ask, "request {request} is damaged");
                reply.clone()
            });
        assert_eq!(landed.frame.request, request);
        assert!(replied(&landed) == reply, "reply {request} is damaged");
        drop(landed);
        assert_eq!(table.free_slots(), 1);
    }
    until(&mut *server, &mut at_server, |events| {
        let sent = events.iter().filter(|event| matches!(event, Event::Sent { .. })).count();
        (sent == sizes.len()).then_some(())
    });
    let sent = at_client.iter().filter(|event| matches!(event, Event::Sent { .. })).count();
    assert_eq!(sent, sizes.len(), "each request was reported sent: {at_client:?}");
    assert_eq!(refusals(&at_server) + refusals(&at_client), 0);
}

fn several_in_flight(mut server: Box<dyn Listener>, connect: Connect) {
    let layout = layout(8, 100_000, 70_000);
    server.admit(admission(1, FIRST, layout)).unwrap();
    let (mut at_server, mut at_client) = (Vec::new(), Vec::new());
    let joined = join(&mut *server, &mut at_server, connect, 1, FIRST, layout);
    let (mut client, table) = joined.unwrap();
    for round in 0..5 {
        for i in 0..8 {
            send(&mut *client, &table, 1, round * 8 + i, &pattern(100_000, i));
        }
        assert!(table.acquire().is_none(), "all slots are in flight");
        for i in 0..8 {
            let landed =
                exchange(&mut *server, &mut at_server, &mut *client, &mut at_client, |landed| {
                    let nth = landed.frame.request % 8;
                    assert!(requested(landed) == pattern(100_000, nth));
                    pattern(70_000, nth + 100)
                });
            assert_eq!(landed.frame.request, round * 8 + i, "in order");
            assert!(replied(&landed) == pattern(70_000, i + 100));
        }
    }
}

fn credentials(mut server: Box<dyn Listener>, connect: Connect) {
    let layout = layout(1, 10, 10);
    server.admit(admission(1, FIRST, layout)).unwrap();
    let mut events = Vec::new();
    // Session 2 is unknown; session 1 with the token of session 2 is a forgery.
    let unknown = join(&mut *server, &mut events, connect, 2, FIRST, layout);
    assert!(matches!(unknown, Err(ConnectError::Refused(Status::SessionEnded))));
    let forged = join_by(&mut *server, &mut events, move |endpoint| {
        connect(endpoint, SessionId(1), FIRST, token(2), layout)
    });
    assert!(matches!(forged, Err(ConnectError::Refused(Status::SessionEnded))));
    let early = join(&mut *server, &mut events, connect, 1, Generation(2), layout);
    assert!(matches!(early, Err(ConnectError::Refused(Status::SessionEnded))));
    assert_eq!(refusals(&events), 3, "each is reported: {events:?}");
    assert!(take_joined(&mut events).is_none());
    assert!(join(&mut *server, &mut events, connect, 1, FIRST, layout).is_ok());
}

fn second_peer(mut server: Box<dyn Listener>, connect: Connect) {
    let layout = layout(1, 10, 10);
    server.admit(admission(1, FIRST, layout)).unwrap();
    let twice = server.admit(admission(1, FIRST, layout));
    assert!(matches!(twice, Err(AdmitError::Twice(SessionId(1)))));
    let (mut at_server, mut at_client) = (Vec::new(), Vec::new());
    let joined = join(&mut *server, &mut at_server, connect, 1, FIRST, layout);
    let (mut client, table) = joined.unwrap();
    let second = join(&mut *server, &mut at_server, connect, 1, FIRST, layout);
    assert!(matches!(second, Err(ConnectError::Refused(Status::BadRequest))));
    send(&mut *client, &table, 1, 7, b"hello");
    let landed = exchange(&mut *server, &mut at_server, &mut *client, &mut at_client, |landed| {
        requested(landed).to_vec()
    });
    assert_eq!(replied(&landed), b"hello", "the first is not disturbed");
}

fn resumed(mut server: Box<dyn Listener>, connect: Connect) {
    let layout = layout(1, 10, 10);
    server.admit(admission(1, FIRST, layout)).unwrap();
    let (mut at_server, mut at_client) = (Vec::new(), Vec::new());
    let joined = join(&mut *server, &mut at_server, connect, 1, FIRST, layout);
    let (mut old, table) = joined.unwrap();
    send(&mut *old, &table, 1, 7, b"old");
    let landed = until(&mut *server, &mut at_server, take_arrived);
    server.admit(admission(1, Generation(2), layout)).unwrap();
    let gone = until(&mut *old, &mut at_client, take_gone);
    let Event::Gone { why, slots, .. } = gone else { unreachable!() };
    assert_eq!((why, slots.len()), (LinkError::Bye(Status::SessionEnded), 1));
    let second = join(&mut *server, &mut at_server, connect, 1, Generation(2), layout);
    assert!(second.is_ok(), "{:?}", second.err());
    let Landed { peer, frame, slot } = landed;
    let late = server.submit(Transfer::new(peer, frame, slot)).expect_err("its peer is cut off");
    assert_eq!(late.why, LinkError::NoPeer(peer));
}

fn evicted(mut server: Box<dyn Listener>, connect: Connect) {
    let layout = layout(3, 10, 10);
    server.admit(admission(1, FIRST, layout)).unwrap();
    let (mut at_server, mut at_client) = (Vec::new(), Vec::new());
    let joined = join(&mut *server, &mut at_server, connect, 1, FIRST, layout);
    let (mut client, table) = joined.unwrap();
    send(&mut *client, &table, 1, 1, b"a");
    send(&mut *client, &table, 1, 2, b"b");
    server.evict(SessionId(9), Status::Draining);
    until(&mut *server, &mut at_server, take_arrived);
    server.evict(SessionId(1), Status::Draining);
    let gone = until(&mut *client, &mut at_client, take_gone);
    let Event::Gone { why, slots, peer, session } = gone else { unreachable!() };
    assert_eq!(
        (why, peer, session),
        (LinkError::Bye(Status::Draining), SERVER, Some(SessionId(1)))
    );
    assert_eq!(slots.len(), 2);
    let slot = table.acquire().unwrap();
    let frame = request_frame(1, FIRST, &slot, 3);
    let transfer = Transfer::new(SERVER, frame, slot);
    let rejected = client.submit(transfer).expect_err("the link is gone");
    assert_eq!((rejected.why, rejected.transfer.frame.request), (LinkError::Closed, 3));
    let again = join(&mut *server, &mut at_server, connect, 1, FIRST, layout);
    assert!(matches!(again, Err(ConnectError::Refused(Status::SessionEnded))));
}

fn woken(mut server: Box<dyn Listener>, connect: Connect) {
    let layout = layout(1, 10, 10);
    server.admit(admission(1, FIRST, layout)).unwrap();
    let mut events = Vec::new();
    let joined = join(&mut *server, &mut events, connect, 1, FIRST, layout);
    let (mut client, table) = joined.unwrap();
    for link in [&mut *client, &mut *server as &mut dyn ferry_transport::Link] {
        for _ in 0..20 {
            let waker = link.waker();
            let waking = std::thread::Builder::new().spawn(move || waker.wake()).unwrap();
            let started = Instant::now();
            link.park(WATCHDOG);
            assert!(started.elapsed() < WATCHDOG, "slept through");
            waking.join().unwrap();
        }
        // Whatever is left over from waking must not keep it from sleeping.
        let slept = (0..50).any(|_| {
            let started = Instant::now();
            link.poll(&mut events);
            link.park(Duration::from_millis(20));
            started.elapsed() >= Duration::from_millis(20)
        });
        assert!(slept, "never sleeps");
    }
    let slot = table.acquire().unwrap();
    let frame = request_frame(1, FIRST, &slot, 1);
    let rejected = client.submit(Transfer::new(PeerId(77), frame, slot));
    assert_eq!(rejected.expect_err("no such peer").why, LinkError::NoPeer(PeerId(77)));
}

fn leaves(mut server: Box<dyn Listener>, connect: Connect) {
    let layout = layout(2, 10, 10);
    server.admit(admission(1, FIRST, layout)).unwrap();
    server.admit(admission(2, FIRST, layout)).unwrap();
    let (mut at_server, mut at_client) = (Vec::new(), Vec::new());
    let (first, _) = join(&mut *server, &mut at_server, connect, 1, FIRST, layout).unwrap();
    let joined = join(&mut *server, &mut at_server, connect, 2, FIRST, layout);
    let (mut second, table) = joined.unwrap();
    drop(first);
    let gone = until(&mut *server, &mut at_server, take_gone);
    let Event::Gone { why, session, .. } = gone else { unreachable!() };
    assert_eq!((why, session), (LinkError::Bye(Status::SessionEnded), Some(SessionId(1))));
    let again = join(&mut *server, &mut at_server, connect, 1, FIRST, layout);
    assert!(matches!(again, Err(ConnectError::Refused(_))), "the lease is spent");
    send(&mut *second, &table, 2, 1, b"x");
    drop(server);
    let gone = until(&mut *second, &mut at_client, take_gone);
    let Event::Gone { why, slots, .. } = gone else { unreachable!() };
    assert_eq!((why, slots.len()), (LinkError::Closed, 1));
}
