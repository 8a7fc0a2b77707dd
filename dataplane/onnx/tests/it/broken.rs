//! What cannot be run is refused in words that help.

use std::path::Path;

use ferry_engine::EngineError;
use ferry_onnx::{EngineChoice, Options, Probe, Search, load, open, probe};

use crate::common::{BOTH, options, search};
use crate::tiny::{D, FLOAT, STRING, file, onnx};

/// The text of the error that both libraries give for a file.
fn refused(path: &Path) -> [String; 2] {
    BOTH.map(|choice| match open(choice, path, &options()) {
        Err(EngineError::Model(text)) => {
            let name = path.file_name().unwrap().to_string_lossy();
            assert!(text.contains(&*name), "{choice:?} names the file: {text}");
            assert!(text.matches(": ").count() >= 2, "{choice:?}: file, reason, remedy: {text}");
            text
        }
        other => panic!("{choice:?} took {}: {other:?}", path.display()),
    })
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
        for choice in BOTH {
            // Some changes only rename something. What counts is that nothing worse happens.
            match open(choice, &path, &options()) {
                Ok(model) => drop(model.instance()),
                Err(EngineError::Model(text)) => assert!(text.contains("changed.onnx"), "{text}"),
                Err(other) => panic!("byte {at}, {choice:?}: {other:?}"),
            }
        }
    }
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
    for text in refused(&file(directory.path(), "frob.onnx", &model)) {
        assert!(text.contains("Frobnicate") && text.contains("engine = "), "{text}");
    }
}

#[test]
fn texts() {
    let directory = tempfile::tempdir().unwrap();
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
fn the_library_is_found_once_and_named() {
    let Probe::Found { path, version } = probe(&search()) else { panic!("run the script") };
    assert!(path.ends_with("libonnxruntime.so") && version == "1.30.0", "{path:?} {version}");
    // Another search finds what is open.
    let elsewhere = Search { explicit: Some("/nowhere".into()), candidates: vec![] };
    assert_eq!(probe(&elsewhere), Probe::Found { path, version });

    let directory = tempfile::tempdir().unwrap();
    let digits = crate::common::zoo(directory.path(), "digits");
    for (choice, name) in [
        (EngineChoice::Auto, "onnx"),
        ("onnx".parse().unwrap(), "onnx"),
        ("tract".parse().unwrap(), "tract"),
    ] {
        let loaded = load(choice, &digits, &Options { threads: 2, ..options() }).unwrap();
        assert_eq!(loaded.engine_name, name);
        assert!(loaded.library_version.split('.').count() == 3, "{loaded:?}");
    }
    assert!("torch".parse::<EngineChoice>().unwrap_err().to_string().contains("tract"));
}
