//! Who is served when, and what is not served at all: deadlines, callers that go away, levels of
//! priority, and clients that flood the queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ferry_core::{RequestKind, SessionId, Status};
use ferry_engine::{Pool, PoolOptions, Work};
use ferry_memory::{Arrival, Departure, PeerId, ReplyTo};

use crate::common::{Barrier, Client, Inbox, WATCHDOG, before, text};

/// A pool whose only instance is held back by a barrier, and how often it ran.
struct Held {
    pool: Pool,
    barrier: Barrier,
    ran: Arc<AtomicUsize>,
}

fn held(options: PoolOptions) -> Held {
    let (barrier, ran) = (Barrier::default(), Arc::new(AtomicUsize::new(0)));
    let (gate, runs) = (barrier.clone(), Arc::clone(&ran));
    let engine = before(move |_| {
        gate.pass();
        runs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    Held { pool: Pool::start("m", vec![engine], options).unwrap(), barrier, ran }
}

impl Held {
    /// Sends a request that is in the engine when this returns.
    fn occupy(&self, client: &mut Client) {
        assert!(self.pool.dispatch(client.tensor(&[0])).is_none());
        self.barrier.wait_for(1);
    }
}

fn by(work: Work, peer: u64) -> Work {
    Work { arrival: Arrival { peer: PeerId(peer), ..work.arrival }, ..work }
}

fn until_in(work: Work, duration: Duration) -> Work {
    Work { deadline: Some(Instant::now() + duration), ..work }
}

#[test]
fn a_request_whose_deadline_passed_does_not_run() {
    let held = held(PoolOptions::default());
    let mut client = Client::new(8, 1, 1);
    let over = until_in(client.tensor(&[1]), Duration::ZERO);
    let refused = held.pool.dispatch(Work { deadline: Some(over.arrival.visible), ..over });
    assert_eq!(refused.expect("at once").status, Status::Late);
    held.occupy(&mut client);
    let soon = Duration::from_millis(5);
    assert!(held.pool.dispatch(until_in(client.tensor(&[1]), soon)).is_none());
    assert!(held.pool.dispatch(until_in(client.tensor(&[2]), WATCHDOG)).is_none());
    std::thread::sleep(soon);
    held.barrier.open();
    let mut replies = client.inbox.take(3);
    replies.sort_by_key(|reply| reply.request);
    let statuses: Vec<Status> = replies.iter().map(|reply| reply.status).collect();
    assert_eq!(statuses, [Status::Ok, Status::Late, Status::Ok]);
    assert!(text(&replies[1]).contains("deadline passed"), "{}", text(&replies[1]));
    assert_eq!(held.ran.load(Ordering::Relaxed), 2);
    let stats = held.pool.stats();
    assert_eq!((stats.refused, stats.late, stats.cancelled), (2, 2, 0));
}

#[test]
fn a_request_that_cannot_be_answered_in_time_is_refused_at_once_and_never_where_that_is_unknown() {
    let run = Duration::from_millis(20);
    let barrier = Barrier::default();
    let (gate, slow) = (barrier.clone(), Arc::new(AtomicBool::new(true)));
    let is_slow = Arc::clone(&slow);
    let engine = before(move |_| {
        if is_slow.load(Ordering::Relaxed) {
            std::thread::sleep(run);
        } else {
            gate.pass();
        }
        Ok(())
    });
    let pool = Pool::start("m", vec![engine], PoolOptions::default()).unwrap();
    let mut client = Client::new(16, 1, 1);
    assert!(pool.dispatch(client.tensor(&[0])).is_none());
    client.inbox.take(1);
    slow.store(false, Ordering::Relaxed);
    assert!(pool.dispatch(client.tensor(&[0])).is_none());
    barrier.wait_for(1);
    // Nothing waits: let in, however soon its deadline is.
    assert!(pool.dispatch(until_in(client.tensor(&[1]), Duration::from_millis(1))).is_none());
    let refused = pool.dispatch(until_in(client.tensor(&[2]), run)).expect("at once");
    assert_eq!(refused.status, Status::Late);
    assert!(text(&refused).contains("1 requests are before this one"), "{}", text(&refused));
    assert!(pool.dispatch(until_in(client.tensor(&[3]), WATCHDOG)).is_none());
    barrier.open();
    client.inbox.take(3);
    // Nothing was measured: let in.
    let fresh = held(PoolOptions::default());
    fresh.occupy(&mut client);
    assert!(fresh.pool.dispatch(client.tensor(&[1])).is_none());
    assert!(fresh.pool.dispatch(until_in(client.tensor(&[1]), Duration::from_millis(1))).is_none());
    fresh.barrier.open();
    client.inbox.take(3);
}

/// A caller that can go away.
#[derive(Debug, Default)]
struct Caller {
    is_gone: AtomicBool,
    inbox: Inbox,
}

impl ReplyTo for Caller {
    fn depart(&self, departure: Departure) {
        self.inbox.depart(departure);
    }

    fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Relaxed)
    }
}

#[test]
fn whoever_goes_away_frees_its_place_at_once() {
    let held = held(PoolOptions { queue: 2, ..PoolOptions::default() });
    let mut client = Client::new(8, 1, 1);
    held.occupy(&mut client);
    let [stays, goes] = [(); 2].map(|()| Arc::new(Caller::default()));
    for caller in [&stays, &goes] {
        let reply_to = Arc::clone(caller) as Arc<dyn ReplyTo>;
        assert!(held.pool.dispatch(Work { reply_to, ..client.tensor(&[1]) }).is_none());
    }
    assert_eq!(held.pool.dispatch(client.tensor(&[2])).expect("full").status, Status::Overloaded);
    held.pool.callers_gone(SessionId(client.session), PeerId(7));
    assert_eq!(held.pool.stats().queued, 2, "nobody has gone");
    goes.is_gone.store(true, Ordering::Relaxed);
    held.pool.callers_gone(SessionId(client.session), PeerId(8));
    assert_eq!(held.pool.stats().queued, 2, "another peer's");
    held.pool.callers_gone(SessionId(client.session), PeerId(7));
    assert_eq!(goes.inbox.one().status, Status::Cancelled);
    assert_eq!(held.pool.stats().queued, 1);
    assert!(held.pool.dispatch(client.tensor(&[3])).is_none(), "its place is free");
    held.barrier.open();
    assert_eq!(stays.inbox.one().status, Status::Ok);
    client.inbox.take(2);
    assert_eq!(held.ran.load(Ordering::Relaxed), 3);
    assert_eq!(held.pool.stats().cancelled, 1);
}

#[test]
fn what_waits_of_a_session_that_ends_does_not_run() {
    let held = held(PoolOptions::default());
    let mut client = Client::new(8, 1, 1);
    let mut other = Client::new(8, 1, 1);
    other.session = 10;
    held.occupy(&mut other);
    for peer in [1, 2, 2] {
        assert!(held.pool.dispatch(by(client.tensor(&[1]), peer)).is_none());
    }
    assert!(held.pool.dispatch(other.tensor(&[1])).is_none());
    held.pool.session_over(SessionId(client.session), Some(PeerId(1)));
    assert_eq!(client.inbox.one().status, Status::SessionEnded);
    held.pool.session_over(SessionId(client.session), None);
    let ended = client.inbox.take(2);
    assert!(ended.iter().all(|reply| reply.status == Status::SessionEnded), "{ended:?}");
    held.barrier.open();
    other.inbox.take(2);
    assert_eq!(held.ran.load(Ordering::Relaxed), 2);
}

#[test]
fn a_client_that_floods_the_queue_starves_no_other_of_its_session() {
    let held = held(PoolOptions { queue: 4, ..PoolOptions::default() });
    let mut client = Client::new(16, 1, 1);
    held.occupy(&mut client);
    for _ in 0..4 {
        assert!(held.pool.dispatch(by(client.tensor(&[1]), 1)).is_none());
    }
    let refused = held.pool.dispatch(by(client.tensor(&[1]), 1)).expect("full");
    assert_eq!(refused.status, Status::Overloaded);
    // Another one has room, and its turn.
    assert!(held.pool.dispatch(by(client.tensor(&[2]), 2)).is_none());
    let displaced = client.inbox.one();
    assert_eq!((displaced.status, displaced.peer), (Status::Overloaded, PeerId(1)));
    assert!(text(&displaced).contains("full with 4 requests"), "{}", text(&displaced));
    held.barrier.open();
    let peers: Vec<u64> = client.inbox.take(5).iter().skip(1).map(|it| it.peer.0).collect();
    assert_eq!(peers, [1, 2, 1, 1]);
}

#[test]
fn late_requests_make_room_in_a_full_queue() {
    let held = held(PoolOptions { queue: 2, ..PoolOptions::default() });
    let mut client = Client::new(8, 1, 1);
    held.occupy(&mut client);
    let soon = Duration::from_millis(2);
    assert!(held.pool.dispatch(until_in(client.tensor(&[1]), soon)).is_none());
    assert!(held.pool.dispatch(client.tensor(&[2])).is_none());
    std::thread::sleep(soon);
    assert!(held.pool.dispatch(client.tensor(&[3])).is_none());
    assert_eq!(client.inbox.one().status, Status::Late);
    held.barrier.open();
    client.inbox.take(3);
}

/// The order in which requests of these priorities are served, all queued before the first is taken.
fn order_of(levels: usize, priorities: &[u8]) -> Vec<u64> {
    let held = held(PoolOptions { levels, queue: 256, ..PoolOptions::default() });
    let mut client = Client::new(64, 1, 1);
    held.occupy(&mut client);
    for &priority in priorities {
        let work = client.work(RequestKind::Tensor, priority, &[0]);
        assert!(held.pool.dispatch(work).is_none());
    }
    held.barrier.open();
    let replies = client.inbox.take(1 + priorities.len());
    replies.iter().skip(1).map(|reply| reply.request).collect()
}

#[test]
fn levels_are_served_by_urgency_and_those_beyond_the_last_are_the_last() {
    assert_eq!(order_of(4, &[0, 3, 1, 2, 200, 0]), [2, 5, 4, 3, 1, 6]);
    assert_eq!(order_of(1, &[0, 3, 1]), [1, 2, 3]);
}

#[test]
fn no_level_starves_however_much_is_more_urgent() {
    let mut priorities = vec![0, 1, 2];
    priorities.extend([3; 50]);
    let order = order_of(4, &priorities);
    for request in 1..=3 {
        let at = order.iter().position(|&it| it == request).unwrap();
        assert!((16..16 + 4).contains(&at), "{request} at {at}: {order:?}");
    }
}
