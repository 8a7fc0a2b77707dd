//! Batches that go wrong: each request is answered once, and only those fail that must.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ferry_core::{DType, PixelFormat, RequestKind, Signature, Stage, Status};
use ferry_engine::{Engine, Finished, Job, Picture, Pool, PoolOptions, Rebuild, Work};
use ferry_memory::{Departure, PeerAccess, ReplyTo};
use ferry_vision::{DecodeOptions, PictureSpec};

use crate::batch::{Clients, Held, batches_of, options};
use crate::common::{Barrier, Client, Inbox, POISON, payload, text, until};
use crate::mirror::{Mirror, SIDE};
use crate::prepare::SPEC;
use crate::rows::{Poison, Rows};

/// Options with a factory of engines that are not held back.
fn rebuilding(poison: Poison) -> (PoolOptions, Arc<AtomicUsize>) {
    let built = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&built);
    let rebuild = Rebuild::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Rows::new(None, poison)) as _)
    });
    (PoolOptions { rebuild: Some(rebuild), ..options(batches_of(16)) }, built)
}

#[test]
fn only_the_request_that_makes_a_batch_fail_is_told_so() {
    for poison in [Poison::Fails, Poison::Panics] {
        let (options, built) = rebuilding(poison);
        let held = Held::new(poison, options);
        let mut clients = Clients::new([1, 2, 1, 1]);
        for (session, first) in [(1, 1), (2, 10), (3, POISON), (4, 30)] {
            held.queue(clients.work(session, first));
        }
        held.release();
        for reply in clients.inbox.take(4) {
            match reply.session.0 {
                3 => {
                    assert_eq!(reply.status, Status::EngineFailed);
                    let told = if poison == Poison::Fails { "poisoned" } else { "panic" };
                    assert!(text(&reply).contains(told), "{}", text(&reply));
                }
                session => {
                    clients.check(&reply, [0, 1, 10, 0, 30][usize::try_from(session).unwrap()])
                }
            }
            assert_eq!(reply.times.batch_rows(), None, "it ran alone in the end");
            assert!(
                reply.times.of(Stage::Batch).is_some(),
                "the run of the batch is accounted for"
            );
        }
        until("all are counted", || held.pool.stats().served == 4);
        assert_eq!(held.pool.stats().failed, 1);
        assert_eq!(built.load(Ordering::Relaxed), if poison == Poison::Panics { 2 } else { 0 });
        // The next batch is one again.
        held.queue(clients.work(1, 5));
        clients.check(&clients.inbox.one(), 5);
    }
}

#[test]
fn nothing_is_missing_from_the_stages_of_what_ran_twice() {
    let held = Held::new(Poison::Fails, options(batches_of(16)));
    let mut clients = Clients::new([1, 1]);
    held.queue(clients.work(1, 1));
    held.queue(clients.work(2, POISON));
    held.release();
    for mut reply in clients.inbox.take(2) {
        reply.close(Instant::now(), None);
        if reply.status == Status::Ok {
            assert_eq!(reply.times.unattributed(), Some(0), "{:?}", reply.times);
        }
    }
}

#[test]
fn batches_that_fail_for_no_request_are_given_up() {
    for (poison, batches) in [(Poison::NoBatch, 3), (Poison::Reshapes, 1)] {
        let held = Held::new(poison, options(batches_of(2)));
        let mut clients = Clients::new([1; 10]);
        (1..=10).for_each(|session| held.queue(clients.work(session, 7)));
        held.release();
        for reply in clients.inbox.take(10) {
            clients.check(&reply, 7);
        }
        let runs = held.runs();
        assert_eq!(runs.iter().filter(|run| run.rows > 1).count(), batches, "{poison:?}");
        assert_eq!(runs.iter().filter(|run| run.rows == 1).count(), 10);
    }
    let (options, built) = rebuilding(Poison::NoBatchPanics);
    let held = Held::new(Poison::NoBatchPanics, options);
    let mut clients = Clients::new([1; 4]);
    (1..=4).for_each(|session| held.queue(clients.work(session, 7)));
    held.release();
    for reply in clients.inbox.take(4) {
        clients.check(&reply, 7);
    }
    assert_eq!(built.load(Ordering::Relaxed), 1);
}

#[test]
fn a_lost_device_is_told_to_a_whole_batch() {
    let held = Held::new(Poison::Loses, options(batches_of(4)));
    let mut clients = Clients::new([1, 1, 1]);
    for (session, first) in [(1, 1), (2, POISON), (3, 3)] {
        held.queue(clients.work(session, first));
    }
    held.release();
    for reply in clients.inbox.take(3) {
        assert!(text(&reply).contains("device lost: error 700"), "{}", text(&reply));
    }
    until("the pool says so", || !held.pool.is_healthy());
    assert_eq!(held.pool.stats().failed, 3);
}

#[test]
fn what_was_in_a_batch_is_answered_where_no_engine_can_be_made() {
    let held = Held::new(Poison::NoBatchPanics, options(batches_of(4)));
    let mut clients = Clients::new([1, 1, 1]);
    (1..=3).for_each(|session| held.queue(clients.work(session, 1)));
    held.release();
    for reply in clients.inbox.take(3) {
        assert_eq!(reply.status, Status::EngineFailed);
    }
    assert!(clients.all.iter().all(|client| client.table.free_slots() == 32));
}

/// A caller that may have gone.
#[derive(Debug)]
struct Caller {
    inbox: Arc<Inbox>,
    is_gone: bool,
}

impl ReplyTo for Caller {
    fn depart(&self, departure: Departure) {
        self.inbox.depart(departure);
    }

    fn is_gone(&self) -> bool {
        self.is_gone
    }
}

#[test]
fn who_went_away_or_is_too_late_has_no_place_in_a_batch() {
    let held = Held::new(Poison::Fails, options(batches_of(8)));
    let mut clients = Clients::new([1; 5]);
    let (now, soon) = (Instant::now(), Duration::from_millis(50));
    let gone = |work: Work, inbox: &Arc<Inbox>| Work {
        reply_to: Arc::new(Caller { inbox: Arc::clone(inbox), is_gone: true }),
        ..work
    };
    held.queue(clients.work(1, 1));
    let work = clients.work(2, 2);
    held.queue(Work { deadline: Some(work.arrival.visible + soon), ..work });
    held.queue(gone(clients.work(3, 3), &clients.inbox));
    held.queue(Work { deadline: Some(now + crate::common::WATCHDOG), ..clients.work(4, 4) });
    held.queue(clients.work(5, 5));
    clients.all[4].table.retire();
    std::thread::sleep(soon);
    held.release();
    let mut replies = clients.inbox.take(5);
    replies.sort_by_key(|reply| reply.session.0);
    let ended: Vec<_> = replies.iter().map(|reply| reply.status).collect();
    let (late, gone, over) = (Status::Late, Status::Cancelled, Status::SessionEnded);
    assert_eq!(ended, [Status::Ok, late, gone, Status::Ok, over]);
    assert!(text(&replies[1]).contains("deadline passed before model m ran"));
    let firsts: Vec<_> = held.runs().into_iter().map(|run| run.firsts).collect();
    assert_eq!(firsts, [vec![1, 4]]);
    assert_eq!(held.pool.stats().refused, 3);
}

/// Runs its jobs when it is polled and the barrier is open; a job panics there, too.
struct Later {
    rows: Rows,
    barrier: Barrier,
    jobs: Vec<Job>,
}

impl Engine for Later {
    fn signature(&self) -> &Signature {
        self.rows.signature()
    }

    fn depth(&self) -> usize {
        3
    }

    fn submit(&mut self, job: Job) -> Option<Finished> {
        self.jobs.push(job);
        None
    }

    fn poll(&mut self, finished: &mut Vec<Finished>) {
        if self.barrier.is_open() {
            // The last one first.
            while let Some(job) = self.jobs.pop() {
                finished.extend(self.rows.submit(job));
            }
        }
    }
}

#[test]
fn batches_of_a_device_are_in_flight_at_once() {
    let barrier = Barrier::default();
    let make = {
        let barrier = barrier.clone();
        move || {
            let rows = Rows::new(None, Poison::Panics);
            Box::new(Later { rows, barrier: barrier.clone(), jobs: Vec::new() }) as Box<dyn Engine>
        }
    };
    for poisoned in [false, true] {
        let again = make.clone();
        let rebuild = Some(Rebuild::new(move || Ok(again())));
        let pool_options = PoolOptions { rebuild, ..options(batches_of(2)) };
        let pool = Pool::start("m", vec![make()], pool_options).unwrap();
        let mut clients = Clients::new([1; 12]);
        let first = |session: usize| match session {
            7 if poisoned => POISON,
            session => u8::try_from(session).unwrap(),
        };
        for session in 1..=12 {
            assert!(pool.dispatch(clients.work(session, first(session))).is_none());
        }
        until("three jobs are in flight", || pool.stats().queued <= 12 - 3);
        barrier.open();
        for reply in clients.inbox.take(12) {
            let session = usize::try_from(reply.session.0).unwrap();
            if poisoned && reply.status != Status::Ok {
                // A job that was in flight beside the batch that panicked is lost as before.
                assert!(text(&reply).contains("panic"), "{}", text(&reply));
            } else {
                clients.check(&reply, first(session));
            }
        }
        until("nothing is in flight", || pool.stats().in_flight == 0);
        assert_eq!(pool.stats().served + pool.stats().failed, 12);
        assert!(pool.is_healthy());
    }
}

#[test]
fn a_picture_that_cannot_be_made_leaves_its_batch() {
    let spec = PictureSpec { scale: 1.0, mean: [0.0; 3], std: [1.0; 3], ..SPEC };
    let barrier = Barrier::default();
    let mirror = Mirror::new(DType::F32);
    let bound = mirror.bind(1);
    let held = barrier.clone();
    let engine = Gated { mirror, barrier: held };
    let picture = Some(Picture { spec, decode: DecodeOptions::default() });
    let pool_options = PoolOptions { picture, ..options(batches_of(8)) };
    let pool = Pool::start("m", vec![Box::new(engine)], pool_options).unwrap();
    let mut client = Client::with(8, bound.request_bytes(), bound, PeerAccess::None);
    let side = usize::try_from(SIDE).unwrap();
    let grey = RequestKind::Raw { width: SIDE, height: SIDE, format: PixelFormat::Gray8 };
    let pixels = |level: u8| vec![level; side * side];
    assert!(pool.dispatch(client.work(grey, 0, &pixels(0))).is_none());
    barrier.wait_for(1);
    for level in [10, 20] {
        assert!(pool.dispatch(client.work(grey, 0, &pixels(level))).is_none());
    }
    for _ in 0..3 {
        assert!(pool.dispatch(client.work(RequestKind::Jpeg, 0, b"no picture")).is_none());
    }
    assert!(pool.dispatch(client.work(grey, 0, &pixels(30))).is_none());
    barrier.open();
    let mut replies = client.inbox.take(7);
    replies.sort_by_key(|reply| reply.request);
    for (reply, level) in [(1, 10_u8), (2, 20), (6, 30)] {
        let reply = &replies[reply];
        assert_eq!(reply.status, Status::Ok);
        let bytes = payload(reply);
        let values = bytes.chunks(4).map(|it| f32::from_le_bytes(it.try_into().unwrap()));
        assert!(values.into_iter().all(|value| (value - f32::from(level)).abs() < 1e-5));
    }
    assert_eq!(replies[1].times.batch_rows().unwrap().get(), 2);
    assert!(replies[1].times.of(Stage::Preprocess).is_some());
    assert!(replies[3..6].iter().all(|reply| reply.status == Status::BadPicture));
}

/// A mirror behind a barrier.
struct Gated {
    mirror: Mirror,
    barrier: Barrier,
}

impl Engine for Gated {
    fn signature(&self) -> &Signature {
        self.mirror.signature()
    }

    fn depth(&self) -> usize {
        1
    }

    fn submit(&mut self, job: Job) -> Option<Finished> {
        self.barrier.pass();
        self.mirror.submit(job)
    }

    fn poll(&mut self, _finished: &mut Vec<Finished>) {}
}
