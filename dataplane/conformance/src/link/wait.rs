//! Sleeping, and what ends a sleep.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ferry_transport::Link;

use super::ServerEnd;
use super::pair::{Pair, WATCHDOG, put};

/// Longer than the watchdog: a sleep that is not ended shows.
const LONG: Duration = Duration::from_secs(60);

/// Drains both ends so that nothing that is pending ends a sleep.
fn quiet(pair: &mut Pair) {
    pair.settle();
}

fn sleeps_until_woken(link: &mut dyn Link, end: &str) {
    let waker = link.waker();
    waker.wake();
    let start = Instant::now();
    link.park(LONG);
    assert!(start.elapsed() < WATCHDOG, "{end}: a wake before the park did not end it");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            waker.wake();
        });
        let start = Instant::now();
        link.park(LONG);
        assert!(start.elapsed() < WATCHDOG, "{end}: a wake did not end the park");
    });
    link.park(Duration::from_millis(1));
}

/// A waker ends the current park, or the next one.
pub fn the_waker_ends_a_park(open: &dyn Fn() -> ServerEnd) {
    let mut pair = Pair::connected(open);
    quiet(&mut pair);
    sleeps_until_woken(&mut *pair.server.listener, "server");
    sleeps_until_woken(&mut *pair.clients[0].link, "client");
    pair.round_trip(0, 1, b"still", b"carries");
}

/// Once what is pending was polled, a park lasts: what woke it before is not left over.
pub fn a_link_at_rest_sleeps(open: &dyn Fn() -> ServerEnd) {
    const NAP: Duration = Duration::from_millis(20);
    let mut pair = Pair::connected(open);
    quiet(&mut pair);
    let Pair { server, clients, .. } = &mut pair;
    for (end, link) in
        [("server", &mut *server.listener as &mut dyn Link), ("client", &mut *clients[0].link)]
    {
        link.waker().wake();
        link.park(LONG);
        let mut events = Vec::new();
        // One may return early for no reason. All of them do so where something is left over.
        let slept = (0..50).any(|_| {
            let start = Instant::now();
            link.poll(&mut events);
            link.park(NAP);
            start.elapsed() >= NAP
        });
        assert!(slept, "{end}: never sleeps; events: {events:?}");
    }
}

/// Parks and polls until something arrived.
fn park_until_arrival(link: &mut dyn Link, seen: &mut super::pair::Seen, end: &str) {
    let start = Instant::now();
    while seen.arrived.is_empty() {
        link.park(LONG);
        seen.poll(link);
        assert!(start.elapsed() < WATCHDOG, "{end}: an arrival did not end the park");
    }
}

/// A request ends the server's park, a reply the client's.
pub fn an_arrival_ends_a_park(open: &dyn Fn() -> ServerEnd) {
    let mut pair = Pair::connected(open);
    quiet(&mut pair);
    let Pair { server, seen, clients } = &mut pair;
    let client = &mut clients[0];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            client.send(1, b"wake up");
            client.seen.poll(&mut *client.link);
        });
        park_until_arrival(&mut *server.listener, seen, "server");
    });
    let request = seen.arrived.pop_front().expect("just seen");
    let client = &mut pair.clients.pop().expect("one client");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            pair.reply(request, b"good morning");
            pair.seen.poll(&mut *pair.server.listener);
        });
        park_until_arrival(&mut *client.link, &mut client.seen, "client");
    });
}

/// Both ends park whenever a poll brought nothing: no event falls between the two.
pub fn nothing_is_slept_through(open: &dyn Fn() -> ServerEnd) {
    const ROUNDS: u64 = 3000;
    let mut pair = Pair::connected(open);
    let mut client = pair.clients.pop().expect("one client");
    let done = AtomicBool::new(false);
    let waker = pair.server.listener.waker();
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) && start.elapsed() < 3 * WATCHDOG {
                pair.seen.poll(&mut *pair.server.listener);
                match pair.seen.arrived.pop_front() {
                    Some(request) => pair.reply(request, b"pong"),
                    None => pair.server.listener.park(LONG),
                }
            }
        });
        for number in 0..ROUNDS {
            let mut slot = client.slot();
            put(slot.request_mut(), b"ping");
            let frame = client.frame(number, &slot, 4);
            client.submit(frame, slot).unwrap_or_else(|error| panic!("{}", error.why));
            let reply = loop {
                client.seen.poll(&mut *client.link);
                match client.seen.arrived.pop_front() {
                    Some(reply) => break reply,
                    None => client.link.park(LONG),
                }
            };
            assert_eq!(reply.frame.request, number);
            if start.elapsed() > WATCHDOG {
                break;
            }
        }
        done.store(true, Ordering::Release);
        waker.wake();
    });
    assert!(start.elapsed() < WATCHDOG, "an event was slept through, or the link is very slow");
}
