//! Requests that run as one on the device: each gets its own answer, wherever its slot is.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ferry_core::{BoundSignature, HostMemory, MemoryChoice, Stage, Status};
use ferry_engine::{BatchOptions, Engine, Pool, PoolOptions, Work};
use ferry_memory::{Departure, ReplyTo, SlotTable};
use ferry_onnx::CudaOptions;
use ferry_zoo::{Batch, Precision};

use crate::common::{
    At, EVERYWHERE, again, bytes_of, finish, floats_of, job, model, noise, relative_error, reply,
    table,
};

#[derive(Debug, Default)]
struct Inbox(Mutex<Vec<Departure>>);

impl ReplyTo for Inbox {
    fn depart(&self, departure: Departure) {
        self.0.lock().unwrap().push(departure);
    }
}

impl Inbox {
    fn take(&self, count: usize) -> Vec<Departure> {
        let start = Instant::now();
        loop {
            let mut all = self.0.lock().unwrap();
            if all.len() >= count {
                return all.drain(..).collect();
            }
            drop(all);
            assert!(start.elapsed() < Duration::from_secs(60), "not all are answered");
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

fn zoo_open(directory: &Path, name: &str) -> PathBuf {
    let (precision, batch) = (Precision::Fp32, Batch::Open);
    ferry_zoo::write_as(precision, batch, name, directory, 1, &mut |_| {}).unwrap().model
}

fn batches(rows_max: u64) -> PoolOptions {
    let (delay, elements_max) = (Duration::ZERO, 64 << 20);
    let batch = Some(BatchOptions { rows_max, delay, preferred: Vec::new(), elements_max });
    PoolOptions { batch, ..PoolOptions::default() }
}

fn work(
    table: &Arc<SlotTable>,
    binding: &Arc<BoundSignature>,
    request: &[u8],
    session: u64,
    (memory, inbox): (MemoryChoice, &Arc<Inbox>),
) -> Work {
    let job = job(table, binding, request, session, u8::from(session.is_multiple_of(11)));
    let (arrival, binding) = (job.arrival.into_arrival(), Arc::clone(binding));
    let reply_to = Arc::<Inbox>::clone(inbox);
    Work { arrival, binding, memory, reply_to, deadline: None }
}

/// Sessions of one, two and three rows, in slots of every kind, all at once and from the first
/// request on.
#[test]
fn each_request_of_a_batch_gets_its_own_answer() {
    let directory = tempfile::tempdir().unwrap();
    let path = zoo_open(directory.path(), "mobilenetv3-small");
    let model = model(&path, CudaOptions { streams: 2, ..CudaOptions::default() });
    let (first, name) = (model.signature().inputs[0].clone(), "input");
    assert_eq!(first.name, name);
    let bound = |rows| {
        let shape = vec![rows, 3, 224, 224];
        Arc::new(model.signature().bind(&[(name.to_owned(), shape)]).unwrap())
    };
    let sessions: u64 = 36;
    let mut alone = model.instance().unwrap();
    let mut all = Vec::new();
    for session in 1..=sessions {
        let at = EVERYWHERE[usize::try_from(session % 3).unwrap()];
        let memory = match (session % 4, at) {
            (0, At::Pinned) => MemoryChoice::Always(HostMemory::Mapped),
            (1, At::Pinned) => MemoryChoice::Always(HostMemory::Pageable),
            _ => MemoryChoice::Auto,
        };
        let binding = bound(1 + u64::from(session % 7 == 0) + u64::from(session % 14 == 0));
        let values = usize::try_from(binding.request_bytes()).unwrap() / 4;
        let request = bytes_of(&noise(values, u32::try_from(session).unwrap()));
        let slots = table(&binding, at, 2);
        let right = reply(&finish(&mut alone, job(&slots, &binding, &request, session, 0)));
        all.push((slots, binding, request, memory, floats_of(&right)));
    }
    let engine: Box<dyn Engine> = Box::new(model.instance().unwrap());
    let pool = Pool::start("m", vec![engine], batches(8)).unwrap();
    let inbox = Arc::new(Inbox::default());
    let mut sizes = Vec::new();
    for round in 0..10 {
        for (session, (slots, binding, request, memory, _)) in (1..).zip(&all) {
            let work = work(slots, binding, request, session, (*memory, &inbox));
            assert!(pool.dispatch(work).is_none());
        }
        for reply in inbox.take(all.len()) {
            let session = reply.session.0;
            let (_, binding, _, _, right) = &all[usize::try_from(session).unwrap() - 1];
            assert_eq!(reply.status, Status::Ok, "round {round} session {session}");
            let mut bytes = vec![0; usize::try_from(binding.reply_bytes()).unwrap()];
            reply.slot.reply().copy_out(0, &mut bytes).unwrap();
            let error = relative_error(&floats_of(&bytes), right);
            assert!(error < 1e-4, "round {round} session {session}: {error}");
            assert!(reply.times.of(Stage::Infer).is_some());
            sizes.extend(reply.times.batch_rows().map(|rows| rows.get()));
        }
    }
    sizes.sort_unstable();
    sizes.dedup();
    assert!(sizes.contains(&8), "of {sizes:?} rows");
    assert!(sizes.iter().all(|rows| [2, 4, 8].contains(rows)), "of {sizes:?} rows");
    assert_eq!(pool.stats().failed, 0);
}

/// What there is to win: whole batches that lie in place on the device, two at once, again and again.
/// `control/measure/batches.py` sets what requests of one row get beside it.
#[test]
fn whole_batches_in_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = zoo_open(directory.path(), "resnet50");
    for precision in [ferry_onnx::Precision::Fp32, ferry_onnx::Precision::Tf32] {
        let model = model(&path, CudaOptions { streams: 2, precision, ..CudaOptions::default() });
        let mut engine = model.instance().unwrap();
        for rows in [1, 8, 16, 32, 64] {
            let shape = vec![rows, 3, 224, 224];
            let binding = model.signature().bind(&[("input".to_owned(), shape)]).unwrap();
            let binding = Arc::new(binding);
            let tables: Vec<_> = (0..2).map(|_| table(&binding, At::Device, 1)).collect();
            let bytes = usize::try_from(binding.request_bytes()).unwrap();
            let mut finished = Vec::new();
            let (mut start, mut runs) = (Instant::now(), 0_u32);
            let send = |engine: &mut dyn Engine, session: u64| {
                let slot = tables[usize::try_from(session).unwrap()].acquire().unwrap();
                assert!(engine.submit(again(slot, &binding, bytes, session, 0)).is_none());
            };
            (0..2).for_each(|session| send(&mut engine, session));
            while runs < 10 || start.elapsed() < Duration::from_millis(700) {
                engine.poll(&mut finished);
                for done in finished.drain(..) {
                    done.outcome.as_ref().unwrap();
                    let session = done.job.arrival.session.0;
                    drop(done);
                    send(&mut engine, session);
                    runs += 1;
                    if runs == 10 {
                        start = Instant::now();
                    }
                }
            }
            let rate = f64::from(runs - 10) * rows as f64 / start.elapsed().as_secs_f64();
            eprintln!("resnet50 {precision:?}: {rate:.0}/s in batches of {rows}, two at once");
            while finished.len() < 2 {
                engine.poll(&mut finished);
            }
        }
    }
}
