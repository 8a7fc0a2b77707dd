//! Open dimensions, and elements that are no floats.

use std::sync::Arc;

use ferry_core::{DType, Dim};
use ferry_engine::EngineError;
use ferry_memory::PeerAccess;

use crate::common::{BOTH, bytes_of, finish, floats_of, job, model, run, table};
use crate::tiny::{BOOL, D, FLOAT, INT64, file, onnx};

/// `y = x · w` for any batch.
fn batches() -> Vec<u8> {
    onnx(
        &[("MatMul", &["x", "w"], &["y"])],
        &[("w", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])],
        &[("x", FLOAT, &[D::Named("batch"), D::Of(2)])],
        &[("y", FLOAT, &[D::Named("batch"), D::Of(3)])],
    )
}

#[test]
fn a_batch_of_any_size() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), "batch.onnx", &batches());
    for choice in BOTH {
        let model = model(choice, &path);
        assert_eq!(model.signature().inputs[0].shape[0], Dim::Named("batch".into()));
        let mut engine = model.instance().unwrap();
        // More sizes than tract keeps plans for, and back.
        for batch in (1..=10).chain([3, 1]) {
            let bound = model.signature().bind(&[("x".into(), vec![batch, 2])]).unwrap();
            let binding = Arc::new(bound);
            assert_eq!(binding.outputs[0].shape, [batch, 3]);
            let rows = usize::try_from(batch).unwrap();
            let request = bytes_of(&[1.0, 10.0].repeat(rows));
            let (reply, _) = run(&mut *engine, &binding, PeerAccess::None, &request).unwrap();
            assert_eq!(floats_of(&reply), [41.0, 52.0, 63.0].repeat(rows), "{choice:?}");
        }
    }
}

#[test]
fn unnamed_dimensions_are_named_alike() {
    let directory = tempfile::tempdir().unwrap();
    let content = onnx(
        &[("Relu", &["x"], &["y"])],
        &[],
        &[("x", FLOAT, &[D::Open, D::Of(2)])],
        &[("y", FLOAT, &[D::Open, D::Of(2)])],
    );
    let path = file(directory.path(), "open.onnx", &content);
    for choice in BOTH {
        let model = model(choice, &path);
        let open = |name: &str| vec![Dim::Named(name.into()), Dim::Fixed(2)];
        assert_eq!(model.signature().inputs[0].shape, open("x.0"));
        assert_eq!(model.signature().outputs[0].shape, open("y.0"));
        let mut engine = model.instance().unwrap();
        let shapes = |rows| [("x".into(), vec![2, 2]), ("y".into(), vec![rows, 2])];
        let right = Arc::new(model.signature().bind(&shapes(2)).unwrap());
        let request = bytes_of(&[-1.0, 2.0, 3.0, -4.0]);
        let (reply, _) = run(&mut *engine, &right, PeerAccess::None, &request).unwrap();
        assert_eq!(floats_of(&reply), [0.0, 2.0, 3.0, 0.0]);
        // The shape of the output is the client's guess, and room for it: less than the model needs
        // is an error that says how much, and no write outside the reply.
        let small = Arc::new(model.signature().bind(&shapes(1)).unwrap());
        let error = run(&mut *engine, &small, PeerAccess::None, &request).unwrap_err();
        let EngineError::ReplyTooLarge(told) = error else { panic!("{error:?}") };
        assert_eq!((&*told.name, &*told.shape, told.bytes, told.room), ("y", &[2, 2][..], 16, 8));
        let large = Arc::new(model.signature().bind(&shapes(3)).unwrap());
        let (reply, _) = run(&mut *engine, &large, PeerAccess::None, &request).unwrap();
        assert_eq!(floats_of(&reply[..16]), [0.0, 2.0, 3.0, 0.0]);
        run(&mut *engine, &right, PeerAccess::None, &request).unwrap();
    }
}

#[test]
fn indices_are_taken_out_of_a_peers_reach() {
    let directory = tempfile::tempdir().unwrap();
    let content = onnx(
        &[("Gather", &["table", "at"], &["y"]), ("Identity", &["at"], &["same"])],
        &[("table", &[3], &[10.0, 20.0, 30.0])],
        &[("at", INT64, &[D::Of(2)])],
        &[("y", FLOAT, &[D::Of(2)]), ("same", INT64, &[D::Of(2)])],
    );
    let path = file(directory.path(), "gather.onnx", &content);
    let indices = |a: i64, b: i64| [a.to_le_bytes(), b.to_le_bytes()].concat();
    for choice in BOTH {
        let model = model(choice, &path);
        assert_eq!(model.signature().inputs[0].dtype, DType::I64);
        let mut engine = model.instance().unwrap();
        let binding = Arc::new(model.signature().bind(&[]).unwrap());
        for peer in [PeerAccess::None, PeerAccess::Writes] {
            let (reply, times) = run(&mut *engine, &binding, peer, &indices(2, 0)).unwrap();
            assert_eq!(floats_of(&reply[..8]), [30.0, 10.0]);
            assert_eq!(reply[64..], indices(2, 0));
            if choice == BOTH[0] {
                let copied = peer == PeerAccess::Writes;
                assert_eq!(times.of(ferry_core::Stage::Preprocess).is_some(), copied);
                assert_eq!(times.of(ferry_core::Stage::Postprocess).is_some(), copied);
            }
            let error = run(&mut *engine, &binding, peer, &indices(2, 1 << 40)).unwrap_err();
            // tract does not say whose fault it is.
            let of_input = matches!(error, EngineError::Input(_));
            assert_eq!(of_input, choice == BOTH[0], "{choice:?}: {error:?}");
            assert!(of_input || matches!(error, EngineError::Run(_)), "{error:?}");
        }
    }
}

#[test]
fn floats_that_become_indices_are_taken_out_of_a_peers_reach() {
    const SHAPE: [D; 1] = [D::Of(2)];
    let directory = tempfile::tempdir().unwrap();
    let content = onnx(
        &[("OneHot", &["at", "depth", "values"], &["y"]), ("Relu", &["at"], &["z"])],
        &[("depth", &[1], &[3.0]), ("values", &[2], &[0.0, 1.0])],
        &[("at", FLOAT, &SHAPE)],
        &[("y", FLOAT, &[D::Of(2), D::Of(3)]), ("z", FLOAT, &SHAPE)],
    );
    let model = model(BOTH[0], &file(directory.path(), "one-hot.onnx", &content));
    let mut engine = model.instance().unwrap();
    let binding = Arc::new(model.signature().bind(&[]).unwrap());
    for peer in [PeerAccess::None, PeerAccess::Writes] {
        let request = bytes_of(&[2.0, 0.0]);
        let (reply, times) = run(&mut *engine, &binding, peer, &request).unwrap();
        assert_eq!(floats_of(&reply[..24]), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!(floats_of(&reply[64..72]), [2.0, 0.0]);
        // Operators that only compute with floats: see `memory::floats_are_used_where_they_lie`.
        let copied = peer == PeerAccess::Writes;
        assert_eq!(times.of(ferry_core::Stage::Preprocess).is_some(), copied, "{peer:?}");
        assert_eq!(times.of(ferry_core::Stage::Postprocess).is_some(), copied, "{peer:?}");
    }
}

#[test]
fn booleans_are_made_booleans() {
    let directory = tempfile::tempdir().unwrap();
    const SHAPE: [D; 1] = [D::Of(4)];
    let content =
        onnx(&[("Not", &["x"], &["y"])], &[], &[("x", BOOL, &SHAPE)], &[("y", BOOL, &SHAPE)]);
    let path = file(directory.path(), "not.onnx", &content);
    for choice in BOTH {
        let model = model(choice, &path);
        let binding = Arc::new(model.signature().bind(&[]).unwrap());
        let mut engine = model.instance().unwrap();
        for peer in [PeerAccess::None, PeerAccess::Writes] {
            let (reply, _) = run(&mut *engine, &binding, peer, &[0, 1, 2, 255]).unwrap();
            assert_eq!(reply, [1, 0, 0, 0], "{choice:?}");
        }
    }
}

#[test]
fn outputs_that_no_operator_makes_are_in_the_reply_all_the_same() {
    const SHAPE: [D; 1] = [D::Of(2)];
    let directory = tempfile::tempdir().unwrap();
    let content = onnx(
        &[
            ("Identity", &["x"], &["same"]),
            ("Identity", &["w"], &["constant"]),
            ("Relu", &["x"], &["y"]),
            ("Identity", &["y"], &["again"]),
        ],
        &[("w", &[2], &[5.0, 6.0])],
        &[("x", FLOAT, &SHAPE)],
        &[
            ("same", FLOAT, &SHAPE),
            ("constant", FLOAT, &SHAPE),
            ("y", FLOAT, &SHAPE),
            ("again", FLOAT, &SHAPE),
        ],
    );
    let path = file(directory.path(), "through.onnx", &content);
    for choice in BOTH {
        let model = model(choice, &path);
        let binding = Arc::new(model.signature().bind(&[]).unwrap());
        let mut engine = model.instance().unwrap();
        let slots = table(&binding, PeerAccess::Writes, 1);
        for number in [1.0, 2.0, 3.0] {
            let mut job = job(&slots, &binding, &bytes_of(&[number, -number]));
            let dirty = vec![0x55; job.arrival.slot.reply().bytes()];
            job.arrival.slot.reply_mut().copy_in(0, &dirty).unwrap();
            let (reply, _) = finish(&mut *engine, job).unwrap();
            let at = |tensor: usize| floats_of(&reply[tensor * 64..tensor * 64 + 8]);
            assert_eq!(at(0), [number, -number], "{choice:?}");
            assert_eq!(at(1), [5.0, 6.0], "{choice:?}");
            assert_eq!(at(2), [number, 0.0], "{choice:?}");
            assert_eq!(at(3), [number, 0.0], "{choice:?}");
        }
    }
}

#[test]
fn a_failed_run_leaves_no_answer_behind() {
    let directory = tempfile::tempdir().unwrap();
    let content = onnx(
        &[("Gather", &["table", "at"], &["y"])],
        &[("table", &[3], &[10.0, 20.0, 30.0])],
        &[("at", INT64, &[D::Of(1)])],
        &[("y", FLOAT, &[D::Of(1)])],
    );
    let path = file(directory.path(), "gather.onnx", &content);
    for choice in BOTH {
        let model = model(choice, &path);
        let binding = Arc::new(model.signature().bind(&[]).unwrap());
        let mut engine = model.instance().unwrap();
        let slots = table(&binding, PeerAccess::Writes, 1);
        for (index, answer) in
            [(0, Some(10.0)), (7, None), (1, Some(20.0)), (9, None), (2, Some(30.0))]
        {
            let index: i64 = index;
            let outcome = finish(&mut *engine, job(&slots, &binding, &index.to_le_bytes()));
            let got = outcome.ok().map(|(reply, _)| floats_of(&reply)[0]);
            assert_eq!(got, answer, "{choice:?}");
        }
    }
}
