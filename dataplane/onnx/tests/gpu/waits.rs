//! Requests whose start takes long, and those beside them.

use std::sync::Arc;

use ferry_core::{HostMemory, MemoryChoice, Stage, Staged, Why};
use ferry_engine::{Engine, Finished, Job};
use ferry_memory::{HeapBacking, Region};
use ferry_onnx::{Completion, CudaOptions};

use crate::common::{
    At, bytes_of, finish, floats_of, job, model, noise, relative_error, reply, table, zoo,
};
use crate::tiny::{self, D, FLOAT, INT64};

/// What a session asks for, where its slots are, and what it gets.
const KINDS: [(At, MemoryChoice, Staged); 4] = [
    (
        At::Pinned,
        MemoryChoice::Always(HostMemory::Pageable),
        Staged { memory: HostMemory::Pageable, why: Why::Asked },
    ),
    (
        At::Pinned,
        MemoryChoice::Always(HostMemory::Pinned),
        Staged { memory: HostMemory::Pinned, why: Why::Asked },
    ),
    (
        At::Pageable,
        MemoryChoice::Auto,
        Staged { memory: HostMemory::Pinned, why: Why::Unregistered },
    ),
    (
        At::Pageable,
        MemoryChoice::Always(HostMemory::Mapped),
        Staged { memory: HostMemory::Pinned, why: Why::Unregistered },
    ),
];

/// Normal and urgent sessions of every kind at once, from the very first request: streams come and
/// go between threads, and every session gets its own answer.
#[test]
fn sessions_that_wait_and_sessions_that_do_not_each_get_their_own_answer() {
    let directory = tempfile::tempdir().unwrap();
    let path = zoo(directory.path(), "mobilenetv3-small");
    let model = model(&path, CudaOptions { streams: 3, ..CudaOptions::default() });
    let mut engine = model.instance().unwrap();
    let binding = Arc::new(engine.signature().bind(&[]).unwrap());
    let values = usize::try_from(binding.request_bytes()).unwrap() / 4;
    let sessions = KINDS.len() * 2;
    let requests: Vec<_> =
        (0..sessions).map(|i| bytes_of(&noise(values, u32::try_from(i).unwrap()))).collect();
    let own = table(&binding, At::Device, 1);
    let mut reference = model.instance().unwrap();
    let right: Vec<_> = requests
        .iter()
        .map(|it| floats_of(&reply(&finish(&mut reference, job(&own, &binding, it, 1, 0)))))
        .collect();
    let tables: Vec<_> =
        (0..sessions).map(|i| table(&binding, KINDS[i % KINDS.len()].0, 2)).collect();
    for round in 0..20 {
        let mut finished: Vec<Finished> = Vec::new();
        for twice in 0..2 {
            for i in 0..sessions {
                let priority = u8::from(i >= KINDS.len());
                let mut job = job(&tables[i], &binding, &requests[i], i as u64 + 1, priority);
                job.memory = KINDS[i % KINDS.len()].1;
                assert!(engine.submit(job).is_none(), "round {round} {twice}");
            }
        }
        while finished.len() < sessions * 2 {
            engine.poll(&mut finished);
        }
        for done in &finished {
            let i = usize::try_from(done.job.arrival.request).unwrap() - 1;
            let error = relative_error(&floats_of(&reply(done)), &right[i]);
            assert!(error < 1e-4, "round {round} session {i}: {error}");
            let times = done.outcome.as_ref().unwrap();
            assert_eq!(times.staged(), Some(KINDS[i % KINDS.len()].2), "session {i}");
            assert!(times.of(Stage::CopyIn).is_some() && times.of(Stage::CopyOut).is_some());
        }
    }
}

/// A model that waits for the device on the way cannot be recorded: it runs without a graph.
#[test]
fn a_model_that_cannot_be_recorded_runs_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let content = tiny::onnx(
        &[("NonZero", &["x"], &["where"]), ("ReduceSum", &["where"], &["sum"])],
        &[],
        &[("x", FLOAT, &[D::Of(64)])],
        &[("sum", INT64, &[D::Of(1), D::Of(1)])],
    );
    let path = tiny::file(directory.path(), "waits.onnx", &content);
    for completion in [Completion::Poll, Completion::Wait] {
        let model = model(&path, CudaOptions { completion, ..CudaOptions::default() });
        assert!(!model.has_graphs(), "what is recorded knows one size");
        let mut engine = model.instance().unwrap();
        let binding = Arc::new(model.signature().bind(&[]).unwrap());
        for at in [At::Pageable, At::Pinned, At::Device] {
            let slots = table(&binding, at, 2);
            for ones in [0_usize, 3, 64] {
                let mut values = [0.0_f32; 64];
                values[..ones].fill(1.0);
                let done = finish(&mut engine, job(&slots, &binding, &bytes_of(&values), 1, 0));
                let sum = u64::from_le_bytes(reply(&done).try_into().unwrap());
                assert_eq!(sum, (0..ones as u64).sum::<u64>(), "{completion:?} {at:?} {ones}");
                assert!(done.outcome.unwrap().of(Stage::Infer).is_some());
            }
        }
    }
}

/// An engine that is dropped while requests are being started ends cleanly, and answers them.
#[test]
fn an_engine_that_is_dropped_ends_what_is_being_started() {
    let directory = tempfile::tempdir().unwrap();
    let model = model(&zoo(directory.path(), "digits"), CudaOptions::default());
    let binding = Arc::new(model.signature().bind(&[]).unwrap());
    let request = bytes_of(&noise(64, 1));
    let slots = table(&binding, At::Pageable, 4);
    for _ in 0..10 {
        let mut engine = model.instance().unwrap();
        for session in 0..4 {
            assert!(engine.submit(job(&slots, &binding, &request, session, 0)).is_none());
        }
        drop(engine);
        assert_eq!(slots.free_slots(), 4, "every slot came back");
    }
}

/// What is prepared on the host lies in memory that the device reaches.
#[test]
fn prepared_inputs_are_registered() {
    let directory = tempfile::tempdir().unwrap();
    let model = model(&zoo(directory.path(), "digits"), CudaOptions::default());
    let mut engine = model.instance().unwrap();
    let placer = engine.placer().unwrap();
    let binding = Arc::new(model.signature().bind(&[]).unwrap());
    let request = bytes_of(&noise(64, 1));
    let slots = table(&binding, At::Pinned, 1);
    let right = reply(&finish(&mut engine, job(&slots, &binding, &request, 1, 0)));
    let prepared = || {
        let heap = Region::whole(HeapBacking::new(request.len()).unwrap());
        let mut region = placer.register(heap).unwrap();
        region.view_mut().copy_in(0, &request).unwrap();
        Some(region)
    };
    for (memory, expected) in [
        (MemoryChoice::Auto, (HostMemory::Mapped, Why::Idle)),
        (MemoryChoice::Always(HostMemory::Pinned), (HostMemory::Pinned, Why::Asked)),
    ] {
        let prepared = prepared();
        let job = Job { prepared, memory, ..job(&slots, &binding, &[0; 256], 1, 0) };
        let done = finish(&mut engine, job);
        assert_eq!(reply(&done), right);
        let staged = done.outcome.as_ref().unwrap().staged();
        assert_eq!(staged, Some(Staged { memory: expected.0, why: expected.1 }));
    }
}
