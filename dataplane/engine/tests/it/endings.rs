//! Panics, rebuilds, draining and shutting down: whatever happens, every request is answered once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::{Barrier, Client, POISON, Pending, WATCHDOG, before, first_byte, text, until};
use ferry_core::{Signature, Status};
use ferry_engine::{
    Engine, EngineError, Finished, Job, Pool, PoolError, PoolOptions, Rebuild, RunOn,
};

fn fragile() -> Box<dyn Engine> {
    before(|job| {
        assert_ne!(first_byte(job), POISON, "poisoned");
        Ok(())
    })
}

/// Options with a factory of fragile engines, and how often it was called.
fn rebuilding(run: RunOn) -> (PoolOptions, Arc<AtomicUsize>) {
    let built = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&built);
    let rebuild = Rebuild::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(fragile())
    });
    (PoolOptions { run, rebuild: Some(rebuild), ..PoolOptions::default() }, built)
}

#[test]
fn a_panic_fails_its_request_and_the_instance_is_rebuilt() {
    for run in [RunOn::Worker, RunOn::Lane] {
        let (options, built) = rebuilding(run);
        let pool = Pool::start("m", vec![fragile()], options).unwrap();
        let mut client = Client::new(2, 1, 1);
        // More often than rebuilds are allowed in a row: serving in between starts the count anew.
        for round in 1..=5 {
            assert!(pool.dispatch(client.tensor(&[POISON])).is_none(), "{run:?}");
            let reply = client.inbox.one();
            assert_eq!(reply.status, Status::EngineFailed);
            assert!(text(&reply).contains("panic"), "{}", text(&reply));
            drop(reply);
            let at_once = pool.dispatch(client.tensor(&[1]));
            let reply = at_once.unwrap_or_else(|| client.inbox.one());
            assert_eq!(reply.status, Status::Ok, "{run:?}");
            assert_eq!(built.load(Ordering::Relaxed), round);
        }
        assert_eq!((pool.stats().failed, pool.stats().served), (5, 5));
        assert!(pool.is_healthy());
    }
}

#[test]
fn an_instance_that_only_panics_is_given_up() {
    let (options, built) = rebuilding(RunOn::Worker);
    let pool = Pool::start("m", vec![fragile()], options).unwrap();
    let mut client = Client::new(1, 1, 1);
    for _ in 0..4 {
        assert!(pool.dispatch(client.tensor(&[POISON])).is_none());
        assert_eq!(client.inbox.one().status, Status::EngineFailed);
    }
    until("the pool says so", || !pool.is_healthy());
    assert_eq!(built.load(Ordering::Relaxed), 3);
    until("requests are refused", || {
        let mut client = Client::new(1, 1, 1);
        let refused = pool.dispatch(client.tensor(&[1]));
        refused.is_some_and(|reply| text(&reply).contains("no working instance"))
    });
}

/// Loses its device at a poisoned request, for good.
fn mortal() -> Box<dyn Engine> {
    let mut lost = false;
    before(move |job| {
        lost |= first_byte(job) == POISON;
        if lost { Err(EngineError::Lost("error 700".to_owned())) } else { Ok(()) }
    })
}

#[test]
fn an_engine_without_its_device_is_dropped_and_what_waits_is_told() {
    for run in [RunOn::Worker, RunOn::Lane] {
        let rebuild = Rebuild::new(|| Err(EngineError::Lost("still".to_owned())));
        let options = PoolOptions { run, rebuild: Some(rebuild), ..PoolOptions::default() };
        let pool = Pool::start("m", vec![mortal()], options).unwrap();
        let mut client = Client::new(2, 1, 1);
        let at_once = pool.dispatch(client.tensor(&[POISON]));
        let reply = at_once.unwrap_or_else(|| client.inbox.one());
        assert_eq!(reply.status, Status::EngineFailed);
        assert!(text(&reply).contains("device lost: error 700"), "{}", text(&reply));
        until("the pool says so", || !pool.is_healthy());
        let refused = pool.dispatch(client.tensor(&[1])).unwrap();
        assert!(text(&refused).contains("restart the server"), "{}", text(&refused));
    }
}

#[test]
fn an_engine_whose_device_came_back_serves_on() {
    for run in [RunOn::Worker, RunOn::Lane] {
        let rebuild = Some(Rebuild::new(|| Ok(mortal())));
        let options = PoolOptions { run, rebuild, ..PoolOptions::default() };
        let pool = Pool::start("m", vec![mortal()], options).unwrap();
        let mut client = Client::new(1, 1, 1);
        for _ in 0..3 {
            for (byte, status) in [(POISON, Status::EngineFailed), (1, Status::Ok)] {
                let at_once = pool.dispatch(client.tensor(&[byte]));
                assert_eq!(at_once.unwrap_or_else(|| client.inbox.one()).status, status);
            }
        }
        assert!(pool.is_healthy());
    }
}

#[test]
fn jobs_in_flight_come_back_before_a_lost_engine_is_dropped() {
    let barrier = Barrier::default();
    let engine = Pending::losing(4, &barrier);
    let pool = Pool::start("m", vec![engine], PoolOptions::default()).unwrap();
    let mut client = Client::new(4, 1, 1);
    for byte in [1, 2, POISON, 4] {
        assert!(pool.dispatch(client.tensor(&[byte])).is_none());
    }
    until("all are in flight", || pool.stats().in_flight == 4);
    barrier.open();
    let replies = client.inbox.take(4);
    let lost: Vec<_> = replies.iter().filter(|reply| reply.status != Status::Ok).collect();
    assert_eq!(lost.len(), 1, "what the engine gives back is answered as it says");
    assert!(text(lost[0]).contains("device lost"), "{}", text(lost[0]));
    drop(replies);
    until("the pool says so", || !pool.is_healthy());
    assert_eq!(client.table.free_slots(), 4);
}

#[test]
fn without_a_factory_the_other_instances_go_on() {
    for run in [RunOn::Worker, RunOn::Lane] {
        let options = PoolOptions { run, ..PoolOptions::default() };
        let pool = Pool::start("m", vec![fragile(), fragile()], options).unwrap();
        let mut client = Client::new(1, 1, 1);
        assert!(pool.dispatch(client.tensor(&[POISON])).is_none());
        assert_eq!(client.inbox.one().status, Status::EngineFailed);
        until("one instance is gone", || pool.stats().instances.iter().any(|i| !i.alive));
        assert!(pool.is_healthy());
        for _ in 0..10 {
            let at_once = pool.dispatch(client.tensor(&[1]));
            assert_eq!(at_once.unwrap_or_else(|| client.inbox.one()).status, Status::Ok);
        }
        drop(pool);
    }
}

#[test]
fn what_waited_for_the_last_instance_is_answered() {
    let barrier = Barrier::default();
    let held = barrier.clone();
    let engine = before(move |_| {
        held.pass();
        panic!("the last one")
    });
    let pool = Pool::start("m", vec![engine], PoolOptions::default()).unwrap();
    let mut client = Client::new(5, 1, 1);
    assert!(pool.dispatch(client.tensor(&[0])).is_none());
    barrier.wait_for(1);
    for _ in 0..4 {
        assert!(pool.dispatch(client.tensor(&[0])).is_none());
    }
    barrier.open();
    for reply in client.inbox.take(5) {
        assert_eq!(reply.status, Status::EngineFailed);
    }
    until("the pool says so", || !pool.is_healthy());
    assert_eq!(client.table.free_slots(), 5);
}

#[test]
fn a_panic_while_polling_answers_all_in_flight() {
    let barrier = Barrier::default();
    let (engine, _) = Pending::boxed(4, &barrier);
    let pool = Pool::start("m", vec![engine], PoolOptions::default()).unwrap();
    let mut client = Client::new(4, 1, 1);
    for byte in [1, 2, POISON, 4] {
        assert!(pool.dispatch(client.tensor(&[byte])).is_none());
    }
    until("all are in flight", || pool.stats().in_flight == 4);
    barrier.open();
    let mut replies = client.inbox.take(4);
    replies.sort_by_key(|reply| reply.request);
    let statuses: Vec<Status> = replies.iter().map(|reply| reply.status).collect();
    // The latest ended before the panic.
    let failed = Status::EngineFailed;
    assert_eq!(statuses, [failed, failed, failed, Status::Ok]);
    until("all are counted", || pool.stats().failed == 3 && pool.stats().in_flight == 0);
}

#[test]
fn a_factory_that_goes_wrong_ends_the_instance_only() {
    let factories = [
        Rebuild::new(|| Err(EngineError::Model("gone".to_owned()))),
        Rebuild::new(|| panic!("no memory")),
        Rebuild::new(|| Ok(Box::new(Other::default()))),
    ];
    for rebuild in factories {
        let options = PoolOptions { rebuild: Some(rebuild), ..PoolOptions::default() };
        let pool = Pool::start("m", vec![fragile()], options).unwrap();
        let mut client = Client::new(1, 1, 1);
        assert!(pool.dispatch(client.tensor(&[POISON])).is_none());
        assert_eq!(client.inbox.one().status, Status::EngineFailed);
        until("the pool says so", || !pool.is_healthy());
        pool.shutdown(WATCHDOG).unwrap();
    }
}

/// Another model than the echo.
#[derive(Default)]
struct Other(Signature);

impl Engine for Other {
    fn signature(&self) -> &Signature {
        &self.0
    }

    fn depth(&self) -> usize {
        1
    }

    fn submit(&mut self, _job: Job) -> Option<Finished> {
        panic!("a request of another model's session")
    }

    fn poll(&mut self, _finished: &mut Vec<Finished>) {}
}

#[test]
fn a_drain_under_load_loses_nothing_that_was_accepted() {
    for run in [RunOn::Worker, RunOn::Lane] {
        let (sync, asynchronous) = (fragile(), Pending::boxed(4, &opened()).0);
        let options = PoolOptions { run, queue: 16, ..PoolOptions::default() };
        let pool = Pool::start("m", vec![sync, asynchronous], options).unwrap();
        std::thread::scope(|scope| {
            let clients: Vec<_> =
                (0..3).map(|_| scope.spawn(|| load_until_drained(&pool))).collect();
            until("the load runs", || pool.stats().served > 200);
            pool.shutdown(WATCHDOG).unwrap();
            let served: u64 = clients.into_iter().map(|client| client.join().unwrap()).sum();
            assert_eq!(served, pool.stats().served, "{run:?}");
        });
        let stats = pool.stats();
        assert_eq!((stats.queued, stats.in_flight, stats.failed), (0, 0, 0));
    }
}

fn opened() -> Barrier {
    let barrier = Barrier::default();
    barrier.open();
    barrier
}

/// Sends until it is told of the drain; every request that was taken must be answered Ok.
fn load_until_drained(pool: &Pool) -> u64 {
    let mut client = Client::new(8, 64, 64);
    let mut served = 0;
    loop {
        let (mut taken, mut draining) = (0, false);
        for _ in 0..8 {
            match pool.dispatch(client.tensor(&[1; 64])) {
                None => taken += 1,
                Some(reply) => match reply.status {
                    Status::Ok => served += 1,
                    Status::Overloaded => {}
                    Status::Draining => draining = true,
                    other => panic!("{other}: {}", text(&reply)),
                },
            }
        }
        for reply in client.inbox.take(taken) {
            assert_eq!(reply.status, Status::Ok, "taken, so served");
            served += 1;
        }
        assert_eq!(client.table.free_slots(), 8);
        if draining {
            return served;
        }
    }
}

#[test]
fn a_hanging_engine_does_not_hang_the_shutdown() {
    let barrier = Barrier::default();
    let held = barrier.clone();
    let engine = before(move |_| {
        held.pass();
        Ok(())
    });
    let pool = Pool::start("m", vec![engine], PoolOptions::default()).unwrap();
    let mut client = Client::new(2, 1, 1);
    assert!(pool.dispatch(client.tensor(&[0])).is_none());
    barrier.wait_for(1);
    assert!(pool.dispatch(client.tensor(&[0])).is_none());
    let stuck = pool.shutdown(Duration::from_millis(10));
    assert!(matches!(stuck, Err(PoolError::Stuck(1))));
    let waiting = client.inbox.one();
    assert_eq!((waiting.request, waiting.status), (1, Status::Draining));
    barrier.open();
    assert_eq!(client.inbox.one().status, Status::Ok, "answered when the engine came back");
    pool.shutdown(WATCHDOG).unwrap();
}

#[test]
fn an_engine_that_never_completes_is_dropped_with_its_jobs_answered() {
    let (engine, _) = Pending::boxed(2, &Barrier::default());
    let pool = Pool::start("m", vec![engine], PoolOptions::default()).unwrap();
    let mut client = Client::new(2, 1, 1);
    for _ in 0..2 {
        assert!(pool.dispatch(client.tensor(&[0])).is_none());
    }
    until("both are in flight", || pool.stats().in_flight == 2);
    assert!(pool.shutdown(Duration::from_millis(10)).is_err());
    for reply in client.inbox.take(2) {
        assert_eq!(reply.status, Status::EngineFailed);
    }
    pool.shutdown(WATCHDOG).unwrap();
}

#[test]
fn a_drained_pool_refuses_and_says_so() {
    for run in [RunOn::Worker, RunOn::Lane] {
        let options = PoolOptions { run, ..PoolOptions::default() };
        let pool = Pool::start("m", vec![fragile()], options).unwrap();
        pool.drain();
        let mut client = Client::new(1, 1, 1);
        let refused = pool.dispatch(client.tensor(&[1])).expect("at once");
        assert_eq!(refused.status, Status::Draining);
        assert!(text(&refused).contains("draining"));
        pool.shutdown(WATCHDOG).unwrap();
        assert!(pool.stats().instances.iter().all(|instance| !instance.alive));
    }
}
