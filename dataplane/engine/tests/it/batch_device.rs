//! Batches of an engine that puts them together by itself, has several in flight and is ready for few
//! sizes, as a device's is.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ferry_core::{BoundSignature, Signature, Stage, Status};
use ferry_engine::{Engine, EngineError, Finished, Job, Pool, PoolOptions, Rebuild};

use crate::batch::{Clients, batches_of, options};
use crate::common::{POISON, text, until};
use crate::rows::{Poison, Rows};

/// What a test knows of an engine, and tells it.
#[derive(Clone, Default)]
struct Hand {
    /// Jobs that may end, those that ended before included.
    may_end: Arc<AtomicUsize>,
    /// The rows and requests of each job, as it came; no requests where the payload was the job's.
    came: Arc<Mutex<Vec<(u64, usize)>>>,
}

impl Hand {
    fn came(&self) -> Vec<(u64, usize)> {
        self.came.lock().unwrap().clone()
    }

    fn let_end(&self, jobs: usize) {
        self.may_end.fetch_add(jobs, Ordering::SeqCst);
    }
}

/// Two batches at once, of 1, 2 or 4 rows; urgent requests beside them.
struct Device {
    rows: Rows,
    hand: Hand,
    ended: usize,
    jobs: Vec<Job>,
}

impl Device {
    fn boxed(hand: &Hand, poison: Poison) -> Box<dyn Engine> {
        let rows = Rows::new(None, poison);
        Box::new(Device { rows, hand: hand.clone(), ended: 0, jobs: Vec::new() })
    }

    /// Runs each request of the job by itself, as a row of a batch is.
    fn run(&mut self, mut job: Job) -> Finished {
        let mut outcome = Ok(ferry_core::StageTimes::NONE);
        for member in &mut job.members {
            outcome = self.run_member(&job.binding, member);
            if outcome.is_err() {
                break;
            }
        }
        if job.members.is_empty() {
            self.rows.submit(job).unwrap()
        } else {
            Finished { job, outcome }
        }
    }

    fn run_member(
        &mut self,
        batch: &Arc<BoundSignature>,
        member: &mut ferry_engine::JobMember,
    ) -> Result<ferry_core::StageTimes, EngineError> {
        let [a, b] = [0, 1].map(|index| {
            let (view, _) = member.input(batch, index).unwrap();
            let mut bytes = vec![0; view.bytes()];
            view.copy_out(0, &mut bytes).unwrap();
            bytes
        });
        if a[0] == POISON {
            return Err(EngineError::Run("poisoned".to_owned()));
        }
        let rows = usize::try_from(member.binding.inputs[0].shape[0]).unwrap();
        let (wide, narrow) = (a.len() / rows, b.len() / rows);
        let sum: Vec<u8> =
            a.iter().enumerate().map(|(at, it)| it.wrapping_add(b[at / wide * narrow])).collect();
        let less: Vec<u8> = b.iter().map(|it| it.wrapping_sub(1)).collect();
        for (index, bytes) in [sum, less].iter().enumerate() {
            member.output_mut(batch, index).unwrap().0.copy_in(0, bytes).unwrap();
        }
        Ok(ferry_core::StageTimes::NONE)
    }
}

impl Engine for Device {
    fn signature(&self) -> &Signature {
        self.rows.signature()
    }

    fn depth(&self) -> usize {
        8
    }

    fn batches_at_once(&self) -> usize {
        2
    }

    fn ready_for(&mut self, batches: &[Arc<BoundSignature>]) -> Option<usize> {
        let rows: Vec<_> = batches.iter().map(|it| it.inputs[0].shape[0]).collect();
        assert_eq!(rows, [1, 2, 4, 5], "powers of two, and the largest");
        Some(3)
    }

    fn gathers(&self) -> bool {
        true
    }

    fn submit(&mut self, job: Job) -> Option<Finished> {
        let rows = job.binding.inputs[0].shape[0];
        self.hand.came.lock().unwrap().push((rows, job.members.len()));
        self.jobs.push(job);
        None
    }

    fn poll(&mut self, finished: &mut Vec<Finished>) {
        while self.ended < self.hand.may_end.load(Ordering::SeqCst) && !self.jobs.is_empty() {
            self.ended += 1;
            let job = self.jobs.remove(0);
            if self.rows.panics() && !job.members.is_empty() {
                self.jobs.insert(0, job);
                panic!("in a batch");
            }
            finished.push(self.run(job));
        }
    }
}

#[test]
fn a_batch_that_is_not_full_waits_only_while_the_device_is_at_work() {
    let hand = Hand::default();
    let engine = Device::boxed(&hand, Poison::Fails);
    let pool = Pool::start("m", vec![engine], options(batches_of(5))).unwrap();
    let mut clients = Clients::new([1; 16]);
    let mut send = |session: usize, priority: u8| {
        let mut work = clients.work(session, u8::try_from(session).unwrap());
        work.arrival.what.priority = priority;
        assert!(pool.dispatch(work).is_none());
    };
    send(1, 0);
    until("nothing is at work: it is not waited for", || hand.came() == [(1, 0)]);
    (2..=4).for_each(|session| send(session, 0));
    assert_eq!(hand.came().len(), 1);
    (5..=6).for_each(|session| send(session, 0));
    until("a full batch joins", || hand.came() == [(1, 0), (4, 4)]);
    (7..=12).for_each(|session| send(session, 0));
    send(13, 1);
    until("two at once, but for what is urgent", || hand.came() == [(1, 0), (4, 4), (1, 0)]);
    hand.let_end(2);
    until("there is room for another", || hand.came().len() == 4);
    hand.let_end(100);
    for reply in clients.inbox.take(13) {
        clients.check(&reply, u8::try_from(reply.session.0).unwrap());
    }
    let came = hand.came();
    assert!(came.iter().all(|(rows, _)| [1, 2, 4].contains(rows)), "{came:?}");
    assert_eq!(came.iter().map(|(rows, _)| rows).sum::<u64>(), 13);
}

#[test]
fn requests_that_the_engine_gathers_get_their_own_answers() {
    let hand = Hand::default();
    let engine = Device::boxed(&hand, Poison::Fails);
    let pool = Pool::start("m", vec![engine], options(batches_of(5))).unwrap();
    let mut clients = Clients::new([1, 2, 1, 1, 1]);
    assert!(pool.dispatch(clients.work(5, 9)).is_none());
    until("it is held", || hand.came().len() == 1);
    for (session, first) in [(1, 10), (2, 20), (3, 40), (4, POISON)] {
        assert!(pool.dispatch(clients.work(session, first)).is_none());
    }
    until("a full batch joins", || hand.came() == [(1, 0), (4, 3)]);
    hand.let_end(100);
    for reply in clients.inbox.take(5) {
        let firsts = [10, 20, 40, POISON, 9];
        let first = firsts[usize::try_from(reply.session.0).unwrap() - 1];
        if first == POISON {
            assert!(reply.status == Status::EngineFailed && text(&reply).contains("poisoned"));
            continue;
        }
        clients.check(&reply, first);
        if first != 9 {
            assert_eq!(reply.times.batch_rows().unwrap().get(), 4);
            assert!(reply.times.of(Stage::Gather).is_some());
        }
    }
    until("all are counted", || pool.stats().served == 4 && pool.stats().failed == 1);
    assert!(clients.all.iter().all(|client| client.table.free_slots() == 32));
}

#[test]
fn a_batch_with_one_that_fails_runs_again_one_by_one() {
    let hand = Hand::default();
    let engine = Device::boxed(&hand, Poison::Fails);
    let pool = Pool::start("m", vec![engine], options(batches_of(5))).unwrap();
    let mut clients = Clients::new([1; 5]);
    for (session, first) in [(1, 1), (2, 2), (3, POISON), (4, 4), (5, 5)] {
        assert!(pool.dispatch(clients.work(session, first)).is_none());
    }
    hand.let_end(100);
    for reply in clients.inbox.take(5) {
        match reply.session.0 {
            3 => assert_eq!(reply.status, Status::EngineFailed),
            session => clients.check(&reply, u8::try_from(session).unwrap()),
        }
    }
}

#[test]
fn requests_with_an_engine_that_panics_are_answered() {
    let hand = Hand::default();
    let again = hand.clone();
    let rebuild = Some(Rebuild::new(move || Ok(Device::boxed(&again, Poison::Fails))));
    let options = PoolOptions { rebuild, ..options(batches_of(5)) };
    let engine = Device::boxed(&hand, Poison::Panics);
    let pool = Pool::start("m", vec![engine], options).unwrap();
    let mut clients = Clients::new([1; 6]);
    assert!(pool.dispatch(clients.work(6, 6)).is_none());
    until("it is held", || hand.came().len() == 1);
    for session in 1..=5 {
        assert!(pool.dispatch(clients.work(session, u8::try_from(session).unwrap())).is_none());
    }
    until("a full batch joins", || hand.came().len() == 2);
    hand.let_end(100);
    let mut lost = 0;
    for reply in clients.inbox.take(6) {
        match reply.status {
            Status::Ok => clients.check(&reply, u8::try_from(reply.session.0).unwrap()),
            _ => lost += 1,
        }
    }
    assert_eq!(lost, 4, "those that the engine had");
    until("all are counted", || pool.stats().served == 2 && pool.stats().failed == 4);
    assert!(pool.is_healthy());
}
