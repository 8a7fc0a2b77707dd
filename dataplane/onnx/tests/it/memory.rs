//! Memory of sessions is used in place, not kept, and not mixed up.

use std::sync::Arc;

use ferry_core::{Placement, RegionDescriptor, Stage};
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
        for _ in 0..1_500 {
            let slots = table(&binding, PeerAccess::Writes, 1);
            let gone = Arc::downgrade(&slots);
            let (reply, _) = finish(&mut *engine, job(&slots, &binding, &request)).unwrap();
            assert!(reply == expected);
            drop(slots);
            assert!(gone.upgrade().is_none(), "{choice:?} keeps a closed session's slots");
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
        let backing: Arc<dyn Backing> = Arc::new(HeapBacking::new(request.len()).unwrap());
        backing.copy_in(0, &request).unwrap();
        let slots = table(&binding, PeerAccess::Writes, 1);
        let mut job = job(&slots, &binding, &[7; 3]);
        job.prepared = Some(Region::whole(backing));
        assert!(finish(&mut *engine, job).unwrap().0 == expected, "{choice:?}");
    }
}

/// Memory that no CPU can address, as a device's is.
#[derive(Debug)]
struct Elsewhere(HeapBacking);

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
    fn copy_in(&self, at: usize, from: &[u8]) -> Result<(), MemoryError> {
        self.0.copy_in(at, from)
    }
    fn copy_out(&self, at: usize, into: &mut [u8]) -> Result<(), MemoryError> {
        self.0.copy_out(at, into)
    }
    fn make_visible(&self) -> Result<(), MemoryError> {
        Ok(())
    }
    fn describe(&self) -> Option<RegionDescriptor> {
        None
    }
    fn dma_buf(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
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
        let backing = Elsewhere(HeapBacking::new(request.len()).unwrap());
        backing.copy_in(0, &request).unwrap();
        let unaligned: Arc<dyn Backing> = Arc::new(HeapBacking::new(request.len() + 1).unwrap());
        unaligned.copy_in(1, &request).unwrap();
        let unaligned = Region::whole(unaligned).part(1, request.len()).unwrap();
        for region in [Region::whole(Arc::new(backing)), unaligned] {
            let slots = table(&binding, PeerAccess::Writes, 1);
            let mut job = job(&slots, &binding, &request);
            job.prepared = Some(region);
            let (reply, times) = finish(&mut *engine, job).unwrap();
            assert!(reply == expected, "{choice:?}");
            assert!(times.of(Stage::Preprocess).is_some(), "the copy is timed");
        }
    }
}
