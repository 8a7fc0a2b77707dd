//! Queueing, priorities, asynchronous engines, and what the stages say.

use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use crate::common::{Barrier, Client, Pending, before, first_byte, parts_ns, payload, text, until};
use ferry_core::{RequestKind, Stage, Status, WaitPolicy};
use ferry_engine::{Echo, EngineError, Pool, PoolError, PoolOptions, RunOn};

fn options(run: RunOn, queue: usize) -> PoolOptions {
    PoolOptions { run, queue, ..PoolOptions::default() }
}

#[test]
fn a_lane_runs_a_free_instance_at_once_without_a_queue() {
    let ran_on: Arc<Mutex<Option<ThreadId>>> = Arc::default();
    let note = Arc::clone(&ran_on);
    let engine = before(move |_| {
        *note.lock().unwrap() = Some(std::thread::current().id());
        Ok(())
    });
    let pool = Pool::start("echo", vec![engine], options(RunOn::Lane, 1)).unwrap();
    let mut client = Client::new(1, 4, 6);
    let reply = pool.dispatch(client.tensor(&[1, 2, 3, 4])).expect("at once");
    assert_eq!(reply.status, Status::Ok);
    assert_eq!(payload(&reply), [1, 2, 3, 4, 1, 2]);
    assert_eq!(reply.times.of(Stage::Wake), None, "nobody was woken for it");
    assert!(reply.times.of(Stage::Infer).is_some());
    assert_eq!(*ran_on.lock().unwrap(), Some(std::thread::current().id()));
    let stats = pool.stats();
    assert_eq!((stats.served, stats.queued, stats.in_flight), (1, 0, 0));
    assert!(client.inbox.is_empty(), "answered once");
}

#[test]
fn nothing_falls_between_the_stages_of_an_engine_on_the_calling_thread() {
    for on in [RunOn::Lane, RunOn::Worker] {
        let pool = Pool::start("echo", vec![Box::new(Echo::new())], options(on, 1)).unwrap();
        let mut client = Client::new(1, 4, 6);
        let mut reply = match pool.dispatch(client.tensor(&[1, 2, 3, 4])) {
            Some(reply) => reply,
            None => client.inbox.one(),
        };
        reply.close(Instant::now(), None);
        assert!(reply.times.of(Stage::Infer).is_some(), "{:?}", reply.times);
        assert_eq!(reply.times.unattributed(), Some(0), "{on:?}: {:?}", reply.times);
        let server = reply.times.of(Stage::Server).unwrap();
        assert_eq!(parts_ns(&reply.times), server, "no parts overlap: {:?}", reply.times);
    }
}

#[test]
fn a_lane_queues_while_every_instance_is_busy() {
    let barrier = Barrier::default();
    let held = barrier.clone();
    let engine = before(move |job| {
        if first_byte(job) == 0 {
            held.pass();
        }
        Ok(())
    });
    let pool = Pool::start("slow", vec![engine], options(RunOn::Lane, 4)).unwrap();
    let mut client = Client::new(3, 1, 1);
    let (first, second) = (client.tensor(&[0]), client.tensor(&[1]));
    std::thread::scope(|scope| {
        let lane = scope.spawn(|| pool.dispatch(first));
        barrier.wait_for(1);
        assert!(pool.dispatch(second).is_none(), "the only instance is busy");
        barrier.open();
        assert_eq!(lane.join().unwrap().expect("ran on its lane").status, Status::Ok);
    });
    let reply = client.inbox.one();
    assert_eq!((reply.request, reply.status), (1, Status::Ok));
    assert!(reply.times.of(Stage::Queue).is_some());
}

#[test]
fn a_full_queue_refuses_and_names_itself() {
    let barrier = Barrier::default();
    let held = barrier.clone();
    let engine = before(move |_| {
        held.pass();
        Ok(())
    });
    let pool = Pool::start("resnet", vec![engine], options(RunOn::Worker, 2)).unwrap();
    let mut client = Client::new(8, 1, 1);
    assert!(pool.dispatch(client.tensor(&[0])).is_none());
    barrier.wait_for(1);
    for _ in 0..2 {
        assert!(pool.dispatch(client.tensor(&[0])).is_none());
    }
    let refused = pool.dispatch(client.tensor(&[0])).expect("refused at once");
    assert_eq!(refused.status, Status::Overloaded);
    let why = text(&refused);
    assert!(why.contains("normal queue of model resnet"), "{why}");
    assert!(why.contains("2 requests") && why.contains("`queue` in resnet.toml"), "{why}");
    // The urgent level has room of its own.
    assert!(pool.dispatch(client.work(RequestKind::Tensor, 1, &[0])).is_none());
    let stats = pool.stats();
    assert_eq!((stats.queued, stats.in_flight, stats.refused), (3, 1, 1));
    barrier.open();
    assert_eq!(client.inbox.take(4).len(), 4);
    until("all are counted", || pool.stats().served == 4);
    assert_eq!(pool.stats().queued, 0);
}

/// Serves `priorities` one by one, all queued before the first is taken; the order of the replies.
fn order_of(priorities: &[u8]) -> Vec<u64> {
    let barrier = Barrier::default();
    let held = barrier.clone();
    let engine = before(move |_| {
        held.pass();
        Ok(())
    });
    let pool = Pool::start("m", vec![engine], options(RunOn::Worker, 64)).unwrap();
    let mut client = Client::new(64, 1, 1);
    assert!(pool.dispatch(client.tensor(&[0])).is_none());
    barrier.wait_for(1);
    for &priority in priorities {
        assert!(pool.dispatch(client.work(RequestKind::Tensor, priority, &[0])).is_none());
    }
    barrier.open();
    let replies = client.inbox.take(1 + priorities.len());
    replies.iter().skip(1).map(|reply| reply.request).collect()
}

#[test]
fn urgent_requests_come_first_and_keep_their_order() {
    assert_eq!(order_of(&[0, 1, 0, 200, 1]), [2, 4, 5, 1, 3]);
}

#[test]
fn urgent_requests_do_not_starve_the_normal_ones() {
    let mut priorities = vec![0];
    priorities.extend([1; 40]);
    let order = order_of(&priorities);
    assert_eq!(order.iter().position(|&request| request == 1), Some(16));
}

#[test]
fn an_asynchronous_engine_is_kept_at_its_depth() {
    for run in [RunOn::Worker, RunOn::Lane] {
        let barrier = Barrier::default();
        let (engine, most) = Pending::boxed(4, &barrier);
        let pool = Pool::start("async", vec![engine], options(run, 32)).unwrap();
        let mut client = Client::new(12, 2, 2);
        for i in 0..12 {
            assert!(pool.dispatch(client.tensor(&[i, 1])).is_none(), "{run:?}");
        }
        until("four are in flight", || pool.stats().in_flight == 4);
        assert_eq!(pool.stats().queued, 8);
        barrier.open();
        let mut replies = client.inbox.take(12);
        assert_eq!(*most.lock().unwrap(), 4);
        replies.sort_by_key(|reply| reply.request);
        for (i, reply) in replies.iter().enumerate() {
            assert_eq!(reply.status, Status::Ok);
            assert_eq!(usize::from(payload(reply)[0]), i, "each got its own answer");
        }
        until("nothing is in flight", || pool.stats().in_flight == 0);
    }
}

#[test]
fn a_late_completion_is_found_after_the_worker_slept() {
    let barrier = Barrier::default();
    let (engine, _) = Pending::boxed(1, &barrier);
    let pool = Pool::start("async", vec![engine], options(RunOn::Worker, 4)).unwrap();
    let mut client = Client::new(1, 1, 1);
    assert!(pool.dispatch(client.tensor(&[3])).is_none());
    std::thread::sleep(Duration::from_millis(20));
    barrier.open();
    assert_eq!(payload(&client.inbox.one()), [3]);
}

#[test]
fn a_sleeping_worker_is_woken_under_every_policy() {
    for wait in WaitPolicy::ALL {
        let engines = vec![Box::new(Echo::new()) as _, Box::new(Echo::new()) as _];
        let pool = Pool::start("echo", engines, PoolOptions { wait, ..PoolOptions::default() });
        let pool = pool.unwrap();
        let mut client = Client::new(1, 1, 1);
        for i in 0..20 {
            std::thread::sleep(Duration::from_millis(u64::from(i % 3)));
            assert!(pool.dispatch(client.tensor(&[i])).is_none());
            assert_eq!(payload(&client.inbox.one()), [i], "{wait}");
        }
    }
}

#[test]
fn a_failing_engine_fails_its_request_only() {
    let engine = before(|job| match first_byte(job) {
        1 => Err(EngineError::Run("out of tea".to_owned())),
        _ => Ok(()),
    });
    let pool = Pool::start("m", vec![engine], options(RunOn::Worker, 4)).unwrap();
    let mut client = Client::new(2, 1, 1);
    assert!(pool.dispatch(client.tensor(&[1])).is_none());
    let reply = client.inbox.one();
    assert_eq!(reply.status, Status::EngineFailed);
    assert_eq!(text(&reply), "run failed: out of tea");
    assert!(reply.times.of(Stage::Queue).is_some());
    assert!(pool.dispatch(client.tensor(&[0])).is_none());
    assert_eq!(client.inbox.one().status, Status::Ok);
    assert_eq!((pool.stats().failed, pool.stats().served), (1, 1));
}

#[test]
fn parts_are_not_more_than_the_whole() {
    for run in [RunOn::Worker, RunOn::Lane] {
        let engines = vec![Box::new(Echo::new()) as _, Box::new(Echo::new()) as _];
        let pool = Pool::start("echo", engines, options(run, 64)).unwrap();
        let mut client = Client::new(8, 4000, 4000);
        for _ in 0..50 {
            let works: Vec<_> = (0..8).map(|_| client.tensor(&[1; 4000])).collect();
            let mut replies: Vec<_> =
                works.into_iter().filter_map(|work| pool.dispatch(work)).collect();
            let late = 8 - replies.len();
            replies.extend(client.inbox.take(late));
            for reply in replies {
                let whole = u64::try_from(reply.seen.elapsed().as_nanos()).unwrap();
                let parts = parts_ns(&reply.times);
                assert!(parts > 0 && parts <= whole, "{parts} of {whole}: {:?}", reply.times);
            }
        }
        assert!(pool.stats().instances.iter().any(|instance| instance.busy_ns > 0));
    }
}

#[test]
fn a_ping_never_reaches_the_model() {
    let engine = before(|_| panic!("a ping reached the model"));
    let pool = Pool::start("m", vec![engine], options(RunOn::Lane, 1)).unwrap();
    let mut client = Client::new(1, 4, 4);
    let reply = pool.dispatch(client.work(RequestKind::Ping, 0, &[])).expect("at once");
    assert_eq!((reply.status, reply.payload_bytes), (Status::Ok, 0));
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let start = |count: usize, queue| {
        let engines = (0..count).map(|_| Box::new(Echo::new()) as _).collect();
        Pool::start("echo", engines, options(RunOn::Lane, queue))
    };
    assert!(matches!(start(0, 1), Err(PoolError::Empty)));
    assert!(matches!(start(1, 0), Err(PoolError::Queue(0))));
    assert!(matches!(start(1, 1 << 20), Err(PoolError::Queue(_))));
    assert!(start(2, 1).is_ok());
}
