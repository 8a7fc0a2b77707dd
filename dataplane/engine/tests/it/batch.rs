//! Requests that run as one: what is in a batch, in which order, and how long it waits.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ferry_core::{
    DType, Dim, HostMemory, MemoryChoice, RequestKind, Signature, Stage, Status, TensorSpec,
};
use ferry_engine::{BatchOptions, Echo, Engine, Pool, PoolError, PoolOptions, RunOn, Work};
use ferry_memory::{Departure, PeerAccess};
use proptest::prelude::*;

use crate::common::{Barrier, Client, Inbox, parts_ns, payload, until};
use crate::rows::{Poison, Rows, Seen, WIDE, bind, request, signature};

/// Far longer than a test takes, and as long as a batch may wait.
const DELAY: Duration = ferry_engine::batch::BATCH_DELAY_MAX;

pub(crate) fn batches_of(rows_max: u64) -> BatchOptions {
    let elements_max = 1 << 20;
    BatchOptions { rows_max, delay: Duration::ZERO, preferred: Vec::new(), elements_max }
}

pub(crate) fn options(batch: BatchOptions) -> PoolOptions {
    PoolOptions { batch: Some(batch), ..PoolOptions::default() }
}

/// Clients with `rows` rows in each request and one inbox; their sessions are numbered from 1.
pub(crate) struct Clients {
    pub(crate) all: Vec<Client>,
    pub(crate) inbox: Arc<Inbox>,
}

impl Clients {
    pub(crate) fn new(rows: impl IntoIterator<Item = u64>) -> Clients {
        Clients::reached_by(PeerAccess::None, rows)
    }

    fn reached_by(peer: PeerAccess, rows: impl IntoIterator<Item = u64>) -> Clients {
        let inbox = Arc::new(Inbox::default());
        let client = |(session, rows)| {
            let bound = bind(rows);
            let mut client = Client::with(32, bound.request_bytes(), bound, peer);
            (client.session, client.inbox) = (session, Arc::clone(&inbox));
            client
        };
        Clients { all: (1..).zip(rows).map(client).collect(), inbox }
    }

    /// A request of session `session` whose rows begin with `first` and what follows it.
    pub(crate) fn work(&mut self, session: usize, first: u8) -> Work {
        let client = &mut self.all[session - 1];
        client.tensor(&request(&firsts(client, first)).0)
    }

    /// Asserts that a reply to a request with `first` is right.
    pub(crate) fn check(&self, reply: &Departure, first: u8) {
        let client = &self.all[usize::try_from(reply.session.0).unwrap() - 1];
        assert_eq!(reply.status, Status::Ok);
        assert_eq!(payload(reply), request(&firsts(client, first)).1, "of {first}");
        assert!(reply.outputs.is_none());
    }
}

fn firsts(client: &Client, first: u8) -> Vec<u8> {
    let rows = client.binding.inputs[0].shape[0];
    (0..u8::try_from(rows).unwrap()).map(|row| first.wrapping_add(row)).collect()
}

/// A pool whose only instance is held by a request of a session of its own until the barrier opens.
pub(crate) struct Held {
    pub(crate) pool: Pool,
    pub(crate) barrier: Barrier,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
    holder: Client,
}

impl Held {
    pub(crate) fn new(poison: Poison, options: PoolOptions) -> Held {
        let barrier = Barrier::default();
        let engine = Rows::new(Some(&barrier), poison);
        let seen = Arc::clone(&engine.seen);
        let pool = Pool::start("m", vec![Box::new(engine)], options).unwrap();
        let bound = bind(1);
        let mut holder = Client::with(1, bound.request_bytes(), bound, PeerAccess::None);
        holder.session = 99;
        assert!(pool.dispatch(holder.tensor(&request(&[0]).0)).is_none());
        barrier.wait_for(1);
        Held { pool, barrier, seen, holder }
    }

    pub(crate) fn queue(&self, work: Work) {
        assert!(self.pool.dispatch(work).is_none());
    }

    /// Lets the instance go on.
    pub(crate) fn release(&self) {
        self.barrier.open();
        self.holder.inbox.one();
    }

    /// The runs after that of the holder.
    pub(crate) fn runs(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().split_off(1)
    }
}

#[test]
fn what_waits_runs_as_one_and_each_gets_its_own() {
    for peer in [PeerAccess::None, PeerAccess::Writes] {
        let held = Held::new(Poison::Fails, options(batches_of(16)));
        let mut clients = Clients::reached_by(peer, [1, 3, 2]);
        for (session, first) in [(1, 10), (2, 20), (3, 30), (1, 40)] {
            held.queue(clients.work(session, first));
        }
        assert_eq!(held.pool.stats().queued, 4);
        held.release();
        for (mut reply, first) in clients.inbox.take(4).into_iter().zip([10, 20, 30, 40]) {
            clients.check(&reply, first);
            assert_eq!(reply.times.batch_rows().unwrap().get(), 7);
            assert!(reply.times.of(Stage::Gather).is_some());
            assert!(reply.times.of(Stage::Scatter).is_some());
            assert_eq!(reply.times.of(Stage::Batch), None, "it did not wait for others");
            reply.close(Instant::now(), None);
            assert_eq!(reply.times.unattributed(), Some(0), "{:?}", reply.times);
            assert_eq!(parts_ns(&reply.times), reply.times.of(Stage::Server).unwrap());
        }
        let firsts = vec![10, 20, 21, 22, 30, 31, 40];
        assert_eq!(held.runs(), [Seen { rows: 7, firsts, is_private: true }]);
        until("all are counted", || held.pool.stats().served == 5);
        until("nothing is in flight", || held.pool.stats().in_flight == 0);
        assert!(clients.all.iter().all(|client| client.table.free_slots() == 32));
    }
}

#[test]
fn without_others_nothing_is_different() {
    let engine = Rows::new(None, Poison::Fails);
    let pool = Pool::start("m", vec![Box::new(engine)], options(batches_of(16))).unwrap();
    let mut clients = Clients::new([2]);
    for first in 0..20 {
        assert!(pool.dispatch(clients.work(1, first)).is_none());
        let mut reply = clients.inbox.one();
        clients.check(&reply, first);
        assert_eq!(reply.times.batch_rows(), None);
        for stage in [Stage::Batch, Stage::Gather, Stage::Scatter] {
            assert_eq!(reply.times.of(stage), None);
        }
        reply.close(Instant::now(), None);
        assert_eq!(reply.times.unattributed(), Some(0), "{:?}", reply.times);
    }
}

#[test]
fn no_session_fills_a_batch_while_others_wait() {
    let held = Held::new(Poison::Fails, options(batches_of(4)));
    let mut clients = Clients::new([1, 1, 1]);
    for first in 0..10 {
        held.queue(clients.work(1, first));
    }
    held.queue(clients.work(2, 100));
    held.queue(clients.work(3, 200));
    held.release();
    clients.inbox.take(12);
    let firsts: Vec<_> = held.runs().into_iter().map(|run| run.firsts).collect();
    // In the order of their turns.
    assert_eq!(firsts, [vec![0, 100, 200, 1], vec![2, 3, 4, 5], vec![6, 7, 8, 9]]);
}

#[test]
fn batches_keep_to_their_bounds() {
    let few = BatchOptions { elements_max: 3 * WIDE, ..batches_of(16) };
    let cut = BatchOptions { preferred: vec![2, 4], ..batches_of(16) };
    for (batch, expected) in [
        (batches_of(4), vec![4, 4, 2]),
        (few, vec![3, 3, 3, 1]),
        (cut, vec![4, 4, 2]),
        (batches_of(16), vec![10]),
    ] {
        let held = Held::new(Poison::Fails, options(batch));
        let mut clients = Clients::new([1; 10]);
        (1..=10).for_each(|session| held.queue(clients.work(session, 0)));
        held.release();
        clients.inbox.take(10);
        let rows: Vec<_> = held.runs().into_iter().map(|run| run.rows).collect();
        assert_eq!(rows, expected);
    }
}

#[test]
fn what_is_larger_than_a_batch_runs_alone() {
    let held = Held::new(Poison::Fails, options(batches_of(4)));
    let mut clients = Clients::new([5, 1, 1]);
    for (session, first) in [(2, 10), (1, 20), (3, 30)] {
        held.queue(clients.work(session, first));
    }
    held.release();
    let replies = clients.inbox.take(3);
    let rows = |reply: &Departure| reply.times.batch_rows().map(std::num::NonZeroU32::get);
    let got: Vec<_> = replies.iter().map(|reply| (reply.session.0, rows(reply))).collect();
    assert_eq!(got, [(2, Some(2)), (3, Some(2)), (1, None)]);
}

#[test]
fn urgent_requests_have_batches_of_their_own() {
    let held = Held::new(Poison::Fails, options(batches_of(8)));
    let mut clients = Clients::new([1, 1, 1, 1]);
    for (session, priority) in [(1, 0), (2, 1), (3, 0), (4, 9)] {
        let mut work = clients.work(session, u8::try_from(session).unwrap());
        work.arrival.what.priority = priority;
        held.queue(work);
    }
    held.release();
    clients.inbox.take(4);
    let firsts: Vec<_> = held.runs().into_iter().map(|run| run.firsts).collect();
    assert_eq!(firsts, [vec![2, 4], vec![1, 3]]);
}

#[test]
fn a_client_that_is_alone_never_waits() {
    let batch = BatchOptions { delay: DELAY, ..batches_of(8) };
    let engine = Rows::new(None, Poison::Fails);
    let pool = Pool::start("m", vec![Box::new(engine)], options(batch)).unwrap();
    let mut clients = Clients::new([1]);
    for first in 0..100 {
        assert!(pool.dispatch(clients.work(1, first)).is_none());
        assert_eq!(clients.inbox.one().times.of(Stage::Batch), None);
    }
    // Several of one session at once are no others, either.
    for round in 0..20 {
        (0..4).for_each(|i| assert!(pool.dispatch(clients.work(1, round + i)).is_none()));
        let replies = clients.inbox.take(4);
        assert!(replies.iter().all(|reply| reply.times.of(Stage::Batch).is_none()));
    }
}

#[test]
fn a_batch_waits_for_a_session_that_was_answered_lately() {
    let batch = BatchOptions { delay: DELAY, ..batches_of(2) };
    let engine = Rows::new(None, Poison::Fails);
    let pool = Pool::start("m", vec![Box::new(engine)], options(batch)).unwrap();
    let mut clients = Clients::new([1, 1]);
    assert!(pool.dispatch(clients.work(1, 1)).is_none());
    assert_eq!(clients.inbox.one().times.of(Stage::Batch), None);
    let mut waited = 0;
    for first in 0..10 {
        assert!(pool.dispatch(clients.work(2, first)).is_none());
        std::thread::sleep(Duration::from_millis(5));
        assert!(pool.dispatch(clients.work(1, first + 100)).is_none());
        let mut replies = clients.inbox.take(2);
        clients.check(&replies[0], first);
        clients.check(&replies[1], first + 100);
        for reply in &mut replies {
            assert_eq!(reply.times.batch_rows().unwrap().get(), 2);
            waited += usize::from(reply.times.of(Stage::Batch).is_some());
            reply.close(Instant::now(), None);
            assert_eq!(reply.times.unattributed(), Some(0), "{:?}", reply.times);
        }
    }
    // Where the worker comes only when both are there, neither waits for the other.
    assert!(waited >= 2, "{waited} of 20 replies");
    // Urgent ones do not wait.
    let mut urgent = clients.work(2, 7);
    urgent.arrival.what.priority = 1;
    assert!(pool.dispatch(urgent).is_none());
    assert_eq!(clients.inbox.one().times.of(Stage::Batch), None);
}

#[test]
fn a_batch_of_a_preferred_size_waits_no_longer() {
    let preferred = vec![2];
    let batch = BatchOptions { delay: DELAY, preferred, ..batches_of(8) };
    let engine = Rows::new(None, Poison::Fails);
    let pool = Pool::start("m", vec![Box::new(engine)], options(batch)).unwrap();
    let mut clients = Clients::new([1, 1, 2]);
    for session in [1, 2, 3] {
        assert!(pool.dispatch(clients.work(session, 1)).is_none());
    }
    clients.inbox.take(3);
    for _ in 0..5 {
        assert!(pool.dispatch(clients.work(3, 1)).is_none());
        assert_eq!(clients.inbox.one().times.of(Stage::Batch), None);
    }
}

#[test]
fn a_batch_waits_no_longer_than_it_may() {
    let batch = BatchOptions { delay: Duration::from_millis(5), ..batches_of(8) };
    let engine = Rows::new(None, Poison::Fails);
    let pool = Pool::start("m", vec![Box::new(engine)], options(batch)).unwrap();
    let mut clients = Clients::new([1, 1]);
    for session in [1, 2, 1, 2, 1, 2] {
        assert!(pool.dispatch(clients.work(session, 3)).is_none());
        clients.check(&clients.inbox.one(), 3);
    }
}

#[test]
fn what_waits_for_its_batch_is_served_when_the_pool_drains() {
    let batch = BatchOptions { delay: DELAY, ..batches_of(8) };
    let engine = Rows::new(None, Poison::Fails);
    let pool = Pool::start("m", vec![Box::new(engine)], options(batch)).unwrap();
    let mut clients = Clients::new([1, 1]);
    assert!(pool.dispatch(clients.work(1, 1)).is_none());
    clients.inbox.one();
    assert!(pool.dispatch(clients.work(2, 2)).is_none());
    pool.drain();
    clients.check(&clients.inbox.one(), 2);
}

#[test]
fn pools_that_cannot_batch_say_why() {
    let start = |engine: Box<dyn Engine>, run, batch| {
        let options = PoolOptions { run, batch: Some(batch), ..PoolOptions::default() };
        let started = Pool::start("m", vec![engine], options);
        let error = started.expect_err("cannot batch");
        assert!(matches!(error, PoolError::Batch(_)));
        error.to_string()
    };
    let rows = || Box::new(Rows::new(None, Poison::Fails)) as Box<dyn Engine>;
    let told = start(Box::new(Echo::new()), RunOn::Worker, batches_of(4));
    assert!(told.contains("output UINT8[out]"), "{told}");
    assert!(start(rows(), RunOn::Lane, batches_of(4)).contains("lane"));
    for (batch, key) in [
        (batches_of(1), "max = 1;"),
        (batches_of(1 << 20), "max = "),
        (BatchOptions { delay: DELAY * 2, ..batches_of(4) }, "delay_us"),
        (BatchOptions { preferred: vec![4, 2], ..batches_of(4) }, "preferred"),
        (BatchOptions { preferred: vec![8], ..batches_of(4) }, "preferred"),
        (BatchOptions { preferred: vec![0], ..batches_of(4) }, "preferred"),
    ] {
        let told = start(rows(), RunOn::Worker, batch);
        assert!(told.contains(key), "{told}");
    }
}

#[test]
fn models_without_rows_are_told_apart() {
    let spec = |dims: &str| {
        let dim = |dim: &str| dim.parse().map_or(Dim::Named(dim.to_owned()), Dim::Fixed);
        let shape = dims.split_whitespace().map(dim).collect();
        TensorSpec { name: "t".to_owned(), dtype: DType::F32, shape }
    };
    let why = |inputs: &[&str], outputs: &[&str]| {
        let all = |tensors: &[&str]| tensors.iter().map(|it| spec(it)).collect();
        let signature = Signature { inputs: all(inputs), outputs: all(outputs) };
        ferry_engine::why_not_batched(&signature)
    };
    assert_eq!(ferry_engine::why_not_batched(&signature()), None);
    assert_eq!(why(&["n 3 h"], &["n h", "n"]), None);
    for (inputs, output, told) in [
        (&[][..], "n", "no inputs"),
        (&["1 3"], "1", "not open"),
        (&[""], "1", "not open"),
        (&["n 3"], "m 3", "known only when the model has run"),
        (&["n 3"], "n m", "known only when the model has run"),
        (&["n 3", "2 3"], "n", "does not begin with"),
        (&["n 3"], "4 n", "does not begin with"),
        (&["n n"], "n", "twice"),
    ] {
        let why = why(inputs, &[output]).unwrap();
        assert!(why.contains(told), "{why}");
    }
    let any = TensorSpec { shape: vec![Dim::Any], ..spec("") };
    let signature = Signature { inputs: vec![any], outputs: vec![spec("1")] };
    assert!(ferry_engine::why_not_batched(&signature).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn whoever_sends_what_gets_its_own_answers_in_its_own_order(
        rows in prop::collection::vec(1_u64..5, 1..6),
        sends in prop::collection::vec((any::<prop::sample::Index>(), 0_u8..100), 1..60),
        rows_max in 2_u64..12,
        preferred in prop::option::of(2_u64..12),
        instances in 1_usize..3,
    ) {
        let preferred = preferred.into_iter().filter(|rows| *rows <= rows_max).collect();
        let batch = BatchOptions { preferred, ..batches_of(rows_max) };
        let engines = (0..instances).map(|_| Box::new(Rows::new(None, Poison::Fails)) as _);
        let pool = Pool::start("m", engines.collect(), options(batch)).unwrap();
        let mut clients = Clients::new(rows.iter().copied());
        let mut asked = vec![Vec::new(); rows.len()];
        let mut sent = 0;
        for (session, first) in &sends {
            let session = session.index(rows.len());
            if asked[session].len() < 32 {
                prop_assert!(pool.dispatch(clients.work(session + 1, *first)).is_none());
                asked[session].push(*first);
                sent += 1;
            }
        }
        let mut answered = vec![0; rows.len()];
        for reply in clients.inbox.take(sent) {
            let session = usize::try_from(reply.session.0).unwrap() - 1;
            let at = usize::try_from(reply.request).unwrap();
            clients.check(&reply, asked[session][at]);
            prop_assert!(reply.times.batch_rows().is_none_or(|it| u64::from(it.get()) <= rows_max));
            if instances == 1 {
                prop_assert_eq!(at, answered[session], "out of order");
            }
            answered[session] += 1;
        }
    }
}

#[test]
fn kinds_are_not_mixed() {
    let held = Held::new(Poison::Fails, options(batches_of(8)));
    let mut clients = Clients::new([1, 1]);
    let mut other = clients.work(2, 2);
    other.memory = MemoryChoice::Always(HostMemory::Pinned);
    held.queue(clients.work(1, 1));
    held.queue(other);
    assert_eq!(clients.all[0].binding.inputs.len(), 2, "two inputs take no pictures");
    let ping = clients.all[0].work(RequestKind::Ping, 0, &[]);
    assert_eq!(held.pool.dispatch(ping).expect("at once").status, Status::Ok);
    held.release();
    clients.inbox.take(2);
    assert_eq!(held.runs().len(), 2, "what their host memory is to be differs");
}
