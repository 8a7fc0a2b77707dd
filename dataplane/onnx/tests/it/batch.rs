//! Requests of several sessions that a pool runs as one: the numbers of each are those that it gets
//! alone.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use ferry_core::{BoundSignature, MemoryChoice, SessionId, Status};
use ferry_engine::{BatchOptions, Job, Pool, PoolOptions, Work};
use ferry_memory::{Departure, PeerAccess, ReplyTo, SlotTable};
use ferry_onnx::EngineChoice;

use crate::common::{BOTH, bytes_of, difference, floats_of, job, model, noise, run, table, zoo};

/// What products that are added up in another order may differ by, as a share of the largest.
const RELATIVE_MAX: f32 = 1e-5;

const WATCHDOG: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Inbox {
    replies: Mutex<Vec<Departure>>,
    came: Condvar,
}

impl ReplyTo for Inbox {
    fn depart(&self, departure: Departure) {
        self.replies.lock().unwrap().push(departure);
        self.came.notify_all();
    }
}

impl Inbox {
    fn take(&self, count: usize) -> Vec<Departure> {
        let replies = self.replies.lock().unwrap();
        let few = |all: &mut Vec<Departure>| all.len() < count;
        let (mut replies, timeout) = self.came.wait_timeout_while(replies, WATCHDOG, few).unwrap();
        assert!(!timeout.timed_out(), "{} of {count} replies came", replies.len());
        replies.sort_by_key(|reply| reply.session.0);
        std::mem::take(&mut *replies)
    }
}

struct Session {
    binding: Arc<BoundSignature>,
    table: Arc<SlotTable>,
    request: Vec<u8>,
    alone: Vec<f32>,
}

fn agrees(choice: EngineChoice, name: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = zoo(directory.path(), name);
    let file = std::fs::read(&path).unwrap();
    std::fs::write(&path, ferry_zoo::with_open_batch(&file).unwrap()).unwrap();
    let model = model(choice, &path);
    let signature = model.signature().clone();
    let mut engine = model.instance().unwrap();
    let mut values = noise(1 << 20).into_iter().cycle();
    let sessions: Vec<Session> = [1, 2, 1, 3]
        .into_iter()
        .map(|rows| {
            let mut shape = signature.bind(&[]).unwrap().inputs[0].shape.clone();
            shape[0] = rows;
            let input = (signature.inputs[0].name.clone(), shape);
            let binding = Arc::new(signature.bind(&[input]).unwrap());
            let count = usize::try_from(binding.request_bytes() / 4).unwrap();
            let request = bytes_of(&values.by_ref().take(count).collect::<Vec<_>>());
            let alone = run(&mut *engine, &binding, PeerAccess::Writes, &request).unwrap().0;
            let table = table(&binding, PeerAccess::Writes, 1);
            Session { binding, table, request, alone: floats_of(&alone) }
        })
        .collect();
    // Once each has been answered, a batch waits until all are in it, and has no room for more. In
    // the first round the others wait for the first one no longer than until all of them are there.
    let batch = BatchOptions {
        rows_max: 7,
        delay: ferry_engine::batch::BATCH_DELAY_MAX,
        preferred: vec![6, 7],
        elements_max: u64::MAX,
    };
    let options = PoolOptions { batch: Some(batch), ..PoolOptions::default() };
    let pool = Pool::start(name, vec![engine], options).unwrap();
    let inbox = Arc::new(Inbox::default());
    for round in 0..3 {
        for (id, session) in (1..).zip(&sessions) {
            let Session { binding, table, request, .. } = session;
            let Job { arrival, .. } = job(table, binding, request);
            let mut arrival = arrival.into_arrival();
            arrival.session = SessionId(id);
            arrival.visible = Instant::now();
            let (binding, memory) = (Arc::clone(binding), MemoryChoice::Auto);
            let reply_to = Arc::clone(&inbox) as Arc<dyn ReplyTo>;
            let work = Work { arrival, binding, memory, reply_to, deadline: None };
            assert!(pool.dispatch(work).is_none());
        }
        for (reply, session) in inbox.take(sessions.len()).iter().zip(&sessions) {
            assert_eq!(reply.status, Status::Ok);
            let mut bytes = vec![0; reply.payload_bytes];
            reply.slot.reply().copy_out(0, &mut bytes).unwrap();
            let apart = difference(&session.alone, &floats_of(&bytes));
            assert!(apart <= RELATIVE_MAX, "{name} {choice:?}: {apart:e}");
            let rows = reply.times.batch_rows().map(std::num::NonZeroU32::get);
            assert!(round == 0 || rows == Some(7), "round {round}: {rows:?}");
        }
    }
}

#[test]
fn digits() {
    for choice in BOTH {
        agrees(choice, "digits");
    }
}

#[test]
fn mobilenet() {
    for choice in BOTH {
        agrees(choice, "mobilenetv3-small");
    }
}
