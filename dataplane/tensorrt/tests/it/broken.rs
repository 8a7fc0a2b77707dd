//! What cannot be built is refused in words that help.

use std::path::Path;

use ferry_engine::EngineError;
use ferry_tensorrt::{BuildOptions, Capability, DimRange, build};

use crate::common::{search, zoo};
use crate::tiny::{D, FLOAT, INT64, STRING, file, onnx};

/// The text of the error for a file.
fn refused(path: &Path) -> String {
    match build(path, &search(), &BuildOptions::default()) {
        Err(EngineError::Model(text)) => {
            let name = path.file_name().unwrap().to_string_lossy();
            assert!(text.contains(&*name), "names the file: {text}");
            assert!(text.matches(": ").count() >= 2, "file, reason, remedy: {text}");
            text
        }
        other => panic!("took {}: {other:?}", path.display()),
    }
}

#[test]
fn files_that_are_no_models() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str, content: &[u8]| file(directory.path(), name, content);
    let whole = ferry_zoo::digits::onnx();
    refused(&at("empty.onnx", b""));
    refused(&at("text.onnx", b"this is not a model, it is a text"));
    refused(&at("zeros.onnx", &[0; 4096]));
    refused(&at("ones.onnx", &[0xFF; 4096]));
    for cut in [1, 100, whole.len() / 2, whole.len() - 1] {
        refused(&at("cut.onnx", &whole[..cut]));
    }
    refused(directory.path());
    refused(&directory.path().join("missing.onnx"));
}

#[test]
fn an_operator_that_nobody_has() {
    let directory = tempfile::tempdir().unwrap();
    const SHAPE: [D; 1] = [D::Of(4)];
    let model = onnx(
        &[("Frobnicate", &["x"], &["y"])],
        &[],
        &[("x", FLOAT, &SHAPE)],
        &[("y", FLOAT, &SHAPE)],
    );
    let text = refused(&file(directory.path(), "frob.onnx", &model));
    assert!(text.contains("node 0 [Frobnicate") && text.contains("engine = \"onnx\""), "{text}");
}

#[test]
fn an_operator_that_is_known_and_used_wrongly() {
    let directory = tempfile::tempdir().unwrap();
    let model = onnx(
        &[("MatMul", &["x", "w"], &["y"])],
        &[("w", &[3, 2], &[0.0; 6])],
        &[("x", FLOAT, &[D::Of(1), D::Of(2)])],
        &[("y", FLOAT, &[D::Of(1), D::Of(2)])],
    );
    let text = refused(&file(directory.path(), "matmul.onnx", &model));
    assert!(text.to_lowercase().contains("matmul") || text.contains("MatrixMultiply"), "{text}");
}

#[test]
fn every_byte_may_be_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let whole = onnx(
        &[("Gemm", &["x", "w"], &["h"]), ("Softmax", &["h"], &["y"])],
        &[("w", &[2, 2], &[1.0, 2.0, 3.0, 4.0])],
        &[("x", FLOAT, &[D::Of(1), D::Of(2)])],
        &[("y", FLOAT, &[D::Of(1), D::Of(2)])],
    );
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x15;
        let path = file(directory.path(), "changed.onnx", &changed);
        // Some changes only rename something. What counts is that nothing worse happens.
        match ferry_tensorrt::signature(&path, &search()) {
            Ok(_) => {}
            Err(EngineError::Model(text)) => assert!(text.contains("changed.onnx"), "{text}"),
            Err(other) => panic!("byte {at}: {other:?}"),
        }
    }
}

#[test]
fn outputs_of_unknown_size_and_texts() {
    let directory = tempfile::tempdir().unwrap();
    let model = onnx(
        &[("NonZero", &["x"], &["y"])],
        &[],
        &[("x", FLOAT, &[D::Of(4)])],
        &[("y", INT64, &[D::Of(1), D::Open])],
    );
    let text = refused(&file(directory.path(), "nonzero.onnx", &model));
    assert!(text.contains("NonZero"), "{text}");
    const SHAPE: [D; 1] = [D::Of(4)];
    let model = onnx(
        &[("Identity", &["x"], &["y"])],
        &[],
        &[("x", STRING, &SHAPE)],
        &[("y", STRING, &SHAPE)],
    );
    refused(&file(directory.path(), "texts.onnx", &model));
}

#[test]
fn weights_in_another_file() {
    let directory = tempfile::tempdir().unwrap();
    // `data_location` (field 14) EXTERNAL, put behind the weights' last field by hand.
    let plain = onnx(
        &[("Identity", &["w"], &["y"])],
        &[("w", &[1], &[1.0])],
        &[],
        &[("y", FLOAT, &[D::Of(1)])],
    );
    let weights = [0x4A, 4, 0, 0, 0x80, 0x3F];
    let at = plain.windows(6).position(|it| it == weights).unwrap();
    let mut model = plain.clone();
    model.splice(at..at + 6, [0x72, 4, 0x0A, 0x02, b'k', b'v']);
    // The same length as before: `external_data` in place of `raw_data`; then the location.
    let mut located = plain;
    located.splice(at..at + 6, [0x70, 1, 0x70, 1, 0x70, 1]);
    let text = refused(&file(directory.path(), "external.onnx", &located));
    assert!(text.contains("\"w\"") && text.contains("one file"), "{text}");
    refused(&file(directory.path(), "nothing.onnx", &model));
}

#[test]
fn gpus_and_ranges_that_there_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = zoo(directory.path(), "digits");
    let capability = Some(Capability { major: 9, minor: 0 });
    let error = build(&path, &search(), &BuildOptions { capability, ..Default::default() });
    let text = error.unwrap_err().to_string();
    assert!(text.contains("9.0") && text.contains("engine = \"onnx\""), "{text}");

    let capability = Some(Capability { major: 8, minor: 9 });
    let plan = build(&path, &search(), &BuildOptions { capability, ..Default::default() }).unwrap();
    assert_eq!(plan.capability(), capability);

    for (min, typical, max) in [(0, 1, 2), (2, 1, 3), (1, 3, 2), (1, 1, u64::MAX)] {
        let ranges = [("n".to_owned(), DimRange { min, typical, max })].into();
        let error = build(&path, &search(), &BuildOptions { ranges, ..Default::default() });
        let Err(EngineError::Shapes(text)) = error else { panic!("{min} {typical} {max}") };
        assert!(text.contains("min..typical..max"), "{text}");
    }
}
