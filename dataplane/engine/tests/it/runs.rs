//! Runs that do not end by themselves: those of an engine that can be interrupted are ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Barrier, Client, POISON, WATCHDOG, first_byte, text};
use ferry_core::{Signature, Status};
use ferry_engine::{
    Echo, Engine, EngineError, Finished, Interrupt, Job, Pool, PoolOptions, Rebuild, RunOn,
};

/// Far more than a test takes.
const HOUR: Duration = Duration::from_secs(3600);

#[derive(Debug, Default)]
struct Flag(AtomicBool);

impl Interrupt for Flag {
    fn interrupt(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn resume(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// An echo that is done with a poisoned job only when it is interrupted.
struct Endless {
    echo: Echo,
    flag: Arc<Flag>,
    /// Passed in front of a poisoned job.
    began: Barrier,
}

fn endless(began: &Barrier) -> Box<dyn Engine> {
    Box::new(Endless { echo: Echo::new(), flag: Arc::default(), began: began.clone() })
}

impl Engine for Endless {
    fn signature(&self) -> &Signature {
        self.echo.signature()
    }

    fn depth(&self) -> usize {
        1
    }

    fn interrupt(&self) -> Option<Arc<dyn Interrupt>> {
        Some(Arc::clone(&self.flag) as Arc<dyn Interrupt>)
    }

    fn submit(&mut self, job: Job) -> Option<Finished> {
        if first_byte(&job) == POISON {
            self.began.pass();
            let late = Instant::now() + WATCHDOG;
            while !self.flag.0.load(Ordering::Relaxed) {
                assert!(Instant::now() < late, "never interrupted");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        if self.flag.0.load(Ordering::Relaxed) {
            let outcome = Err(EngineError::Run("terminate flag".to_owned()));
            return Some(Finished { job, outcome });
        }
        self.echo.submit(job)
    }

    fn poll(&mut self, _finished: &mut Vec<Finished>) {}
}

fn open() -> Barrier {
    let barrier = Barrier::default();
    barrier.open();
    barrier
}

fn options(run: RunOn, run_at_most: Duration) -> PoolOptions {
    PoolOptions { run, run_at_most, ..PoolOptions::default() }
}

#[test]
fn a_run_that_takes_too_long_is_ended_and_the_instance_serves_on() {
    for run in [RunOn::Worker, RunOn::Lane] {
        let options = options(run, Duration::from_millis(20));
        let pool = Pool::start("m", vec![endless(&open())], options).unwrap();
        let mut client = Client::new(2, 1, 1);
        for _ in 0..3 {
            let cut = pool.dispatch(client.tensor(&[POISON]));
            let cut = cut.unwrap_or_else(|| client.inbox.one());
            assert_eq!(cut.status, Status::EngineFailed);
            assert!(text(&cut).contains("run_seconds_max = 0.02"), "{}", text(&cut));
            drop(cut);
            let next = pool.dispatch(client.tensor(&[1]));
            let next = next.unwrap_or_else(|| client.inbox.one());
            assert_eq!(next.status, Status::Ok, "{run:?}");
        }
        assert_eq!((pool.stats().failed, pool.stats().served), (3, 3));
        pool.shutdown(WATCHDOG).unwrap();
    }
}

#[test]
fn an_engine_that_was_rebuilt_is_watched_too() {
    let rebuild = Rebuild::new(|| Ok(endless(&open())));
    let options =
        PoolOptions { rebuild: Some(rebuild), ..options(RunOn::Worker, Duration::from_millis(20)) };
    let pool = Pool::start("m", vec![Box::new(Panics(Echo::new()))], options).unwrap();
    let mut client = Client::new(1, 1, 1);
    for expected in ["panic", "run_seconds_max"] {
        assert!(pool.dispatch(client.tensor(&[POISON])).is_none());
        let reply = client.inbox.one();
        assert!(text(&reply).contains(expected), "{}", text(&reply));
    }
}

/// Another engine with the echo's signature, which could be interrupted if it ran.
struct Panics(Echo);

impl Engine for Panics {
    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn depth(&self) -> usize {
        1
    }

    fn interrupt(&self) -> Option<Arc<dyn Interrupt>> {
        Some(Arc::<Flag>::default())
    }

    fn submit(&mut self, _job: Job) -> Option<Finished> {
        panic!("as it is called")
    }

    fn poll(&mut self, _finished: &mut Vec<Finished>) {}
}

#[test]
fn a_shutdown_ends_what_runs_and_answers_what_waits() {
    let began = open();
    let pool = Pool::start("m", vec![endless(&began)], options(RunOn::Worker, HOUR)).unwrap();
    let mut client = Client::new(2, 1, 1);
    for _ in 0..2 {
        assert!(pool.dispatch(client.tensor(&[POISON])).is_none());
    }
    began.wait_for(1);
    pool.shutdown(Duration::from_millis(10)).unwrap();
    let mut replies = client.inbox.take(2);
    replies.sort_by_key(|reply| reply.request);
    for (reply, why) in replies.iter().zip(["the run was ended", "is draining"]) {
        assert_eq!(reply.status, Status::Draining);
        assert!(text(reply).contains(why), "{}", text(reply));
    }
}

#[test]
fn a_pool_that_is_cut_waits_for_nothing() {
    let began = open();
    let lane = Pool::start("m", vec![endless(&began)], options(RunOn::Lane, HOUR)).unwrap();
    let mut client = Client::new(2, 1, 1);
    let work = client.tensor(&[POISON]);
    let cut = std::thread::scope(|scope| {
        let running = scope.spawn(|| lane.dispatch(work));
        began.wait_for(1);
        lane.cut();
        running.join().unwrap().expect("it ran on this thread")
    });
    assert!(text(&cut).contains("the run was ended"), "{}", text(&cut));
    let refused = lane.dispatch(client.tensor(&[1])).expect("at once");
    assert_eq!(refused.status, Status::Draining);
    lane.shutdown(WATCHDOG).unwrap();
}
