//! Memory of sessions is used in place, not kept, and not mixed up.

use std::sync::Arc;

use ferry_core::{Placement, Stage};
use ferry_memory::{Backing, HeapBacking, MemoryError, PeerAccess, Region};
use ferry_onnx::{EngineChoice, Options, open};

use crate::common::{
    BOTH, bytes_of, finish, floats_of, job, model, noise, options, run, table, zoo,
};

#[test]
fn floats_are_used_where_they_lie() {
    let directory = tempfile::tempdir().unwrap();
    let model = model(EngineChoice::Ort, &zoo(directory.path(), "digits"));
    let binding = Arc::new(model.signature().bind(&[]).unwrap());
    let mut engine = model.instance().unwrap();
    let request = bytes_of(&noise(64));
    let (_, times) = run(&mut *engine, &binding, PeerAccess::Writes, &request).unwrap();
    assert!(times.of(Stage::Infer).is_some());
    assert_eq!((times.of(Stage::Preprocess), times.of(Stage::Postprocess)), (None, None));
}

#[test]
fn closed_sessions_are_let_go_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = zoo(directory.path(), "digits");
    for choice in BOTH {
        let model = model(choice, &path);
        let binding = Arc::new(model.signature().bind(&[]).unwrap());
        let mut engine = model.instance().unwrap();
        let request = bytes_of(&noise(64));
        let (expected, _) = run(&mut *engine, &binding, PeerAccess::None, &request).unwrap();
        // More sessions than bindings are kept, all open at once, and the first one again.
        let mut open: Vec<_> = (0..1_500).map(|_| table(&binding, PeerAccess::Writes, 1)).collect();
        for slots in open.iter().chain(&open[..1]) {
            let (reply, _) = finish(&mut *engine, job(slots, &binding, &request)).unwrap();
            assert!(reply == expected);
        }
        for slots in open.drain(..) {
            let gone = Arc::downgrade(&slots);
            drop(slots);
            assert!(gone.upgrade().is_none(), "{choice:?} keeps a closed session's slots");
        }
        // New sessions may be where closed ones were.
        for _ in 0..100 {
            let (reply, _) = run(&mut *engine, &binding, PeerAccess::Writes, &request).unwrap();
            assert!(reply == expected);
        }
    }
}

#[test]
fn slots_of_several_sessions_keep_their_own_answers() {
    let directory = tempfile::tempdir().unwrap();
    let path = zoo(directory.path(), "digits");
    let model = model(EngineChoice::Ort, &path);
    let binding = Arc::new(model.signature().bind(&[]).unwrap());
    let mut engine = model.instance().unwrap();
    let inputs: Vec<Vec<f32>> = noise(64 * 6).chunks(64).map(<[f32]>::to_vec).collect();
    let alone = |engine: &mut dyn ferry_engine::Engine, input: &[f32]| {
        run(engine, &binding, PeerAccess::None, &bytes_of(input)).unwrap().0
    };
    let expected: Vec<Vec<u8>> = inputs.iter().map(|it| alone(&mut *engine, it)).collect();
    assert!(expected[0] != expected[1], "different inputs give different answers");
    let sessions = [2, 3].map(|slots| table(&binding, PeerAccess::Writes, slots));
    for round in 0..5 {
        // All slots are filled before the first one runs.
        let filled =
            sessions.iter().flat_map(|slots| (0..slots.layout().slots).map(move |_| slots));
        let jobs: Vec<_> = filled
            .enumerate()
            .map(|(at, slots)| ((at + round) % 6, slots))
            .map(|(which, slots)| (which, job(slots, &binding, &bytes_of(&inputs[which]))))
            .collect();
        for (which, job) in jobs {
            assert!(finish(&mut *engine, job).unwrap().0 == expected[which]);
        }
    }
}

#[test]
fn instances_run_at_the_same_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = zoo(directory.path(), "mobilenetv3-small");
    for (choice, threads) in
        [(EngineChoice::Ort, 1), (EngineChoice::Ort, 2), (EngineChoice::Tract, 1)]
    {
        let model = open(choice, &path, &Options { threads, ..options() }).unwrap();
        let binding = Arc::new(model.signature().bind(&[]).unwrap());
        let inputs: Vec<Vec<u8>> =
            (0..4).map(|shift| bytes_of(&noise(3 * 224 * 224 + shift)[shift..])).collect();
        let mut alone = model.instance().unwrap();
        let expected: Vec<Vec<f32>> = inputs
            .iter()
            .map(|it| floats_of(&run(&mut *alone, &binding, PeerAccess::None, it).unwrap().0))
            .collect();
        std::thread::scope(|scope| {
            for (request, expected) in inputs.iter().zip(&expected) {
                let (model, binding) = (&model, &binding);
                scope.spawn(move || {
                    let mut engine = model.instance().unwrap();
                    let slots = table(binding, PeerAccess::Writes, 1);
                    for _ in 0..10 {
                        let job = job(&slots, binding, request);
                        let (reply, _) = finish(&mut *engine, job).unwrap();
                        assert!(floats_of(&reply) == *expected, "{choice:?} mixes requests up");
                    }
                });
            }
        });
    }
}

#[test]
fn prepared_inputs_are_used_instead_of_the_payload() {
    let directory = tempfile::tempdir().unwrap();
    let path = zoo(directory.path(), "digits");
    for choice in BOTH {
        let model = model(choice, &path);
        let binding = Arc::new(model.signature().bind(&[]).unwrap());
        let mut engine = model.instance().unwrap();
        let request = bytes_of(&noise(64));
        let (expected, _) = run(&mut *engine, &binding, PeerAccess::None, &request).unwrap();
        let mut region = Region::whole(HeapBacking::new(request.len()).unwrap());
        region.view_mut().copy_in(0, &request).unwrap();
        let slots = table(&binding, PeerAccess::Writes, 1);
        let mut job = job(&slots, &binding, &[7; 3]);
        job.prepared = Some(region);
        assert!(finish(&mut *engine, job).unwrap().0 == expected, "{choice:?}");
    }
}

/// Memory that no CPU can address, as a device's is.
#[derive(Debug)]
struct Elsewhere(Region);

#[expect(unsafe_code, reason = "a backing has to promise what its pointer is; this has none")]
// SAFETY: there is no pointer to keep a promise about.
unsafe impl Backing for Elsewhere {
    fn placement(&self) -> Placement {
        Placement::Host
    }
    fn bytes(&self) -> usize {
        self.0.bytes()
    }
    fn host(&self) -> Option<std::ptr::NonNull<u8>> {
        None
    }
    unsafe fn copy_in(&self, at: usize, from: &[u8]) -> Result<(), MemoryError> {
        // SAFETY: the caller's argument.
        unsafe { self.0.copy_in(at, from) }
    }
    unsafe fn copy_out(&self, at: usize, into: &mut [u8]) -> Result<(), MemoryError> {
        // SAFETY: the caller's argument.
        unsafe { self.0.copy_out(at, into) }
    }
}

#[test]
fn memory_that_cannot_be_bound_is_copied() {
    let directory = tempfile::tempdir().unwrap();
    let path = zoo(directory.path(), "digits");
    for choice in BOTH {
        let model = model(choice, &path);
        let binding = Arc::new(model.signature().bind(&[]).unwrap());
        let mut engine = model.instance().unwrap();
        let request = bytes_of(&noise(64));
        let (expected, _) = run(&mut *engine, &binding, PeerAccess::None, &request).unwrap();
        let heap = |bytes| Region::whole(HeapBacking::new(bytes).unwrap());
        let elsewhere = Region::whole(Elsewhere(heap(request.len())));
        let unaligned = heap(request.len() + 1).split_at(1).unwrap().1;
        for mut region in [elsewhere, unaligned] {
            region.view_mut().copy_in(0, &request).unwrap();
            let slots = table(&binding, PeerAccess::Writes, 1);
            let mut job = job(&slots, &binding, &request);
            job.prepared = Some(region);
            let (reply, times) = finish(&mut *engine, job).unwrap();
            assert!(reply == expected, "{choice:?}");
            assert!(times.of(Stage::Preprocess).is_some(), "the copy is timed");
        }
    }
}
