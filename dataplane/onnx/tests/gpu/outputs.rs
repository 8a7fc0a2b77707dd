//! Outputs that the library does not write where they were bound, and outputs of any size.

use std::sync::Arc;

use ferry_engine::{Engine, EngineError, Finished, Job};
use ferry_onnx::{Completion, CudaModel, CudaOptions};

use crate::common::{
    At, EVERYWHERE, bytes_of, finish, floats_of, job, model, reply, table, table_of,
};
use crate::tiny::{self, BOOL, D, FLOAT, INT64, Node, Value, Weights};

const TWO: [D; 1] = [D::Of(2)];

/// What is not written shows.
fn options(completion: Completion) -> CudaOptions {
    CudaOptions { completion, streams: 2, poison: true, ..CudaOptions::default() }
}

fn open(
    completion: Completion,
    nodes: &[Node],
    weights: &[Weights],
    inputs: &[Value],
    outputs: &[Value],
) -> Arc<CudaModel> {
    let directory = tempfile::tempdir().unwrap();
    let content = tiny::onnx(nodes, weights, inputs, outputs);
    model(&tiny::file(directory.path(), "tiny.onnx", &content), options(completion))
}

/// Output `index` of a request that is done.
fn output(finished: &Finished, index: usize) -> Vec<u8> {
    assert!(finished.outcome.is_ok(), "the job failed: {:?}", finished.outcome);
    let view = finished.job.output(index).unwrap();
    let mut bytes = vec![0; view.bytes()];
    view.copy_out(0, &mut bytes).unwrap();
    bytes
}

fn shape(finished: &Finished, index: usize) -> Vec<u64> {
    match &finished.job.placed {
        Some(placed) => placed.shapes.get(index).unwrap().to_vec(),
        None => finished.job.binding.outputs[index].shape.clone(),
    }
}

fn integers_of(bytes: &[u8]) -> Vec<i64> {
    bytes.as_chunks().0.iter().map(|eight| i64::from_le_bytes(*eight)).collect()
}

#[test]
fn an_output_that_is_an_input_is_copied_behind_each_replay() {
    for completion in [Completion::Poll, Completion::Wait] {
        let model = open(
            completion,
            &[("Relu", &["x"], &["y"]), ("Identity", &["y"], &["again"])],
            &[],
            &[("x", FLOAT, &TWO)],
            &[("x", FLOAT, &TWO), ("y", FLOAT, &TWO), ("again", FLOAT, &TWO)],
        );
        assert!(model.has_graphs(), "nothing keeps it from being recorded");
        let mut engine = model.instance().unwrap();
        let binding = Arc::new(model.signature().bind(&[]).unwrap());
        for at in EVERYWHERE {
            let slots = table(&binding, at, 2);
            for number in [1.0, 2.0, 3.0, 4.0] {
                for priority in [0, 1] {
                    let request = bytes_of(&[number, -number]);
                    let done = finish(&mut engine, job(&slots, &binding, &request, 1, priority));
                    let got = [0, 1, 2].map(|index| floats_of(&output(&done, index)));
                    let right = [vec![number, -number], vec![number, 0.0], vec![number, 0.0]];
                    assert_eq!(got, right, "{completion:?} {at:?}");
                }
            }
        }
        assert!(model.has_graphs(), "they were not given up on the way");
    }
}

#[test]
fn outputs_that_no_value_reaches_are_written_each_time() {
    for completion in [Completion::Poll, Completion::Wait] {
        let model = open(
            completion,
            &[
                ("Relu", &["x"], &["y"]),
                ("Identity", &["w"], &["constant"]),
                ("Shape", &["x"], &["shape"]),
            ],
            &[("w", &[2], &[5.0, 6.0])],
            &[("x", FLOAT, &TWO)],
            &[
                ("y", FLOAT, &TWO),
                ("w", FLOAT, &TWO),
                ("constant", FLOAT, &TWO),
                ("shape", INT64, &[D::Of(1)]),
            ],
        );
        assert!(!model.has_graphs(), "a graph would not repeat all of it");
        let mut engine = model.instance().unwrap();
        let binding = Arc::new(model.signature().bind(&[]).unwrap());
        for at in EVERYWHERE {
            let slots = table(&binding, at, 2);
            for number in [1.0, 2.0, 3.0] {
                let request = bytes_of(&[number, -number]);
                let done = finish(&mut engine, job(&slots, &binding, &request, 1, 0));
                let got = [0, 1, 2].map(|index| floats_of(&output(&done, index)));
                let right = [vec![number, 0.0], vec![5.0, 6.0], vec![5.0, 6.0]];
                assert_eq!(got, right, "{completion:?} {at:?}");
                assert_eq!(integers_of(&output(&done, 3)), [2], "{completion:?} {at:?}");
            }
        }
    }
}

/// `where` has as many columns as `x` has numbers that are not 0; `y` lies behind it.
fn nonzero(completion: Completion) -> Arc<CudaModel> {
    open(
        completion,
        &[("NonZero", &["x"], &["where"]), ("Relu", &["x"], &["y"])],
        &[],
        &[("x", FLOAT, &[D::Of(8)])],
        &[("where", INT64, &[D::Of(1), D::Named("found")]), ("y", FLOAT, &[D::Of(8)])],
    )
}

/// The first `ones` of eight numbers are 1.
fn eight(ones: usize) -> Vec<u8> {
    let mut numbers = [0.0_f32; 8];
    numbers[..ones].fill(1.0);
    bytes_of(&numbers)
}

#[test]
fn sizes_are_what_the_model_makes_them() {
    for completion in [Completion::Poll, Completion::Wait] {
        let model = nonzero(completion);
        assert!(!model.has_graphs());
        let mut engine = model.instance().unwrap();
        let binding = Arc::new(model.signature().bind(&[]).unwrap());
        for at in EVERYWHERE {
            let slots = table_of(binding.request_bytes(), 4096, at, 2);
            for ones in [3, 0, 8, 1] {
                let done = finish(&mut engine, job(&slots, &binding, &eight(ones), 1, 0));
                assert_eq!(shape(&done, 0), [1, ones as u64], "{completion:?} {at:?}");
                let indices: Vec<i64> = (0..).take(ones).collect();
                assert_eq!(integers_of(&output(&done, 0)), indices, "{completion:?} {at:?}");
                assert_eq!(output(&done, 1), eight(ones), "{completion:?} {at:?}");
            }
        }
    }
}

#[test]
fn a_reply_without_room_says_how_much_it_needs_and_the_next_is_served() {
    let model = nonzero(Completion::Poll);
    let mut engine = model.instance().unwrap();
    let binding = Arc::new(model.signature().bind(&[]).unwrap());
    for at in EVERYWHERE {
        // Room for no number of `where`, and for `y` neither.
        let slots = table_of(binding.request_bytes(), 8, at, 1);
        let done = finish(&mut engine, job(&slots, &binding, &eight(3), 1, 0));
        let Err(EngineError::ReplyTooLarge(told)) = &done.outcome else {
            panic!("{at:?}: {:?}", done.outcome)
        };
        assert_eq!((&*told.name, &*told.shape), ("where", &[1, 3][..]), "{at:?}");
        assert_eq!((told.bytes, told.room), (64 + 32, 8), "{at:?}");
        drop(done);
        let slots = table_of(binding.request_bytes(), 64 + 32, at, 1);
        let done = finish(&mut engine, job(&slots, &binding, &eight(3), 1, 0));
        assert_eq!(integers_of(&output(&done, 0)), [0, 1, 2], "{at:?}");
    }
}

#[test]
fn booleans_are_made_booleans_wherever_they_are() {
    const FOUR: [D; 1] = [D::Of(4)];
    for completion in [Completion::Poll, Completion::Wait] {
        let model = open(
            completion,
            &[("Not", &["x"], &["y"])],
            &[],
            &[("x", BOOL, &FOUR)],
            &[("y", BOOL, &FOUR)],
        );
        let mut engine = model.instance().unwrap();
        let binding = Arc::new(model.signature().bind(&[]).unwrap());
        for at in EVERYWHERE {
            let slots = table(&binding, at, 1);
            for _ in 0..2 {
                let done = finish(&mut engine, job(&slots, &binding, &[0, 1, 2, 255], 1, 0));
                assert_eq!(reply(&done), [1, 0, 0, 0], "{completion:?} {at:?}");
            }
        }
    }
}

/// Requests that run without a graph and requests that replay one, of one model, at once: the shapes
/// of a request decide.
#[test]
fn a_request_with_an_open_output_runs_beside_those_that_are_recorded() {
    let rows: &[D] = &[D::Named("rows"), D::Of(2)];
    let model = open(
        Completion::Poll,
        &[("Relu", &["a"], &["c"]), ("Relu", &["b"], &["d"])],
        &[],
        &[("a", FLOAT, rows), ("b", FLOAT, rows)],
        &[("c", FLOAT, rows), ("d", FLOAT, rows)],
    );
    assert!(model.has_graphs());
    let mut engine = model.instance().unwrap();
    let shapes = |a, b| [("a".into(), vec![a, 2]), ("b".into(), vec![b, 2])];
    let bind = |a, b| Arc::new(model.signature().bind(&shapes(a, b)).unwrap());
    // One name with two sizes tells nothing of the outputs.
    let (same, other) = (bind(2, 2), bind(1, 3));
    assert!(!same.outputs[0].open && other.outputs[0].open);
    let slots = table_of(4096, 4096, At::Pinned, 16);
    let mut expected = 0;
    for round in 0..8_u64 {
        for (session, binding) in [(1, &same), (2, &other)] {
            let mut request = vec![0; usize::try_from(binding.request_bytes()).unwrap()];
            for tensor in &binding.inputs {
                let count = usize::try_from(tensor.bytes / 4).unwrap();
                let at = usize::try_from(tensor.offset).unwrap();
                request[at..at + count * 4].copy_from_slice(&bytes_of(&vec![2.0; count]));
            }
            let job: Job = job(&slots, binding, &request, session, 0);
            assert!(engine.submit(job).is_none(), "round {round}");
            expected += 1;
        }
    }
    let mut finished = Vec::new();
    while finished.len() < expected {
        engine.poll(&mut finished);
    }
    for done in &finished {
        let sizes = if done.job.arrival.request == 1 { [2, 2] } else { [1, 3] };
        for (index, rows) in sizes.into_iter().enumerate() {
            assert_eq!(shape(done, index), [rows, 2]);
            let count = usize::try_from(rows * 2).unwrap();
            assert_eq!(floats_of(&output(done, index)), vec![2.0; count]);
        }
    }
}
