//! Streams of one session, over one set of weights, do not disturb each other.

use std::sync::Arc;
use std::time::Instant;

use ferry_engine::{Engine, Finished};
use ferry_onnx::CudaOptions;

use crate::common::{
    At, again, bytes_of, device, finish, floats_of, job, model, noise, relative_error, reply,
    table, zoo,
};

const SESSIONS: usize = 16;

#[test]
fn sixteen_streams_give_each_session_its_own_answer() {
    let directory = tempfile::tempdir().unwrap();
    for (name, at) in [("resnet50", At::Device), ("mobilenetv3-small", At::Pinned)] {
        let before = device().memory().unwrap().0;
        let path = zoo(directory.path(), name);
        let options = CudaOptions { streams: SESSIONS, ..CudaOptions::default() };
        let model = model(&path, options);
        let loaded = device().memory().unwrap().0;
        let mut engine = model.instance().unwrap();
        let binding = Arc::new(engine.signature().bind(&[]).unwrap());
        let values = usize::try_from(binding.request_bytes()).unwrap() / 4;
        let bytes = values * 4;
        let tables: Vec<_> = (0..SESSIONS).map(|_| table(&binding, at, 1)).collect();
        let mut alone = Vec::new();
        for (i, slots) in tables.iter().enumerate() {
            let request = bytes_of(&noise(values, u32::try_from(i).unwrap()));
            let done = finish(&mut engine, job(slots, &binding, &request, i as u64 + 1, 0));
            alone.push(floats_of(&reply(&done)));
        }
        let different = relative_error(&alone[1], &alone[0]);
        assert!(different > 1e-3, "inputs that differ give outputs that differ: {different}");
        let after = device().memory().unwrap().0;
        eprintln!(
            "{name}: device memory: model {} MiB (weights {} MiB), 16 streams {} MiB \
            (own count {} MiB)",
            (before - loaded) >> 20,
            model.weights_bytes() >> 20,
            (loaded - after) >> 20,
            engine.streams_bytes() >> 20
        );
        for round in 0..50 {
            let mut finished: Vec<Finished> = Vec::new();
            for (i, slots) in tables.iter().enumerate() {
                let mut slot = slots.acquire().unwrap();
                let dirty = vec![0xFF; slot.reply().bytes()];
                slot.reply_mut().copy_in(0, &dirty).unwrap();
                finished.extend(engine.submit(again(slot, &binding, bytes, i as u64 + 1, 0)));
            }
            while finished.len() < SESSIONS {
                engine.poll(&mut finished);
            }
            for done in &finished {
                let i = usize::try_from(done.job.arrival.request).unwrap() - 1;
                let error = relative_error(&floats_of(&reply(done)), &alone[i]);
                assert!(error < 1e-4, "{name} round {round} session {i}: {error}");
            }
        }
        times(name, &mut engine, &tables, &binding, bytes);
    }
}

fn times(
    name: &str,
    engine: &mut dyn Engine,
    tables: &[Arc<ferry_memory::SlotTable>],
    binding: &Arc<ferry_core::BoundSignature>,
    bytes: usize,
) {
    let one = |engine: &mut dyn Engine, priority| {
        let start = Instant::now();
        let slot = tables[0].acquire().unwrap();
        drop(finish(engine, again(slot, binding, bytes, 1, priority)));
        start.elapsed().as_nanos()
    };
    let median = |mut all: Vec<u128>| {
        all.sort_unstable();
        all[all.len() / 2] / 1000
    };
    let alone = median((0..300).map(|_| one(engine, 0)).collect());
    let urgent = median((0..300).map(|_| one(engine, 1)).collect());
    eprintln!("{name}: alone p50 {alone} us, on a stream of high priority {urgent} us");
    // One urgent session among the others, which never pause.
    for priority in [0, 1] {
        let mut finished = Vec::new();
        let mut mine = Vec::new();
        let mut others = 0;
        let mut since = None;
        let start = Instant::now();
        for (i, slots) in tables.iter().enumerate() {
            let slot = slots.acquire().unwrap();
            let own = i == 0;
            if own {
                since = Some(Instant::now());
            }
            let priority = if own { priority } else { 0 };
            finished.extend(engine.submit(again(slot, binding, bytes, i as u64 + 1, priority)));
        }
        while mine.len() < 300 {
            engine.poll(&mut finished);
            for done in std::mem::take(&mut finished) {
                let i = usize::try_from(done.job.arrival.request).unwrap() - 1;
                drop(done);
                if i == 0 {
                    mine.push(since.take().unwrap().elapsed().as_nanos());
                    since = Some(Instant::now());
                } else {
                    others += 1;
                }
                let slot = tables[i].acquire().unwrap();
                let priority = if i == 0 { priority } else { 0 };
                let job = again(slot, binding, bytes, i as u64 + 1, priority);
                assert!(engine.submit(job).is_none());
            }
        }
        let rate = f64::from(others) / 15.0 / start.elapsed().as_secs_f64();
        eprintln!(
            "{name}: one of 16 with priority {priority}: p50 {} us, others {rate:.0}/s each",
            median(mine)
        );
        while finished.len() < tables.len() {
            engine.poll(&mut finished);
        }
    }
}
