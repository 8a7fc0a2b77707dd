//! Without the library. A process of its own: once a library is open, it stays open.

use ferry_engine::EngineError;
use ferry_onnx::{EngineChoice, Options, Probe, Search, load, probe};

#[test]
fn a_missing_library_is_explained_and_tract_takes_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let garbage = directory.path().join("libonnxruntime.so");
    std::fs::write(&garbage, "not a library").unwrap();
    let nowhere = directory.path().join("nowhere.so");
    let digits = ferry_zoo::write("digits", directory.path(), 1, &mut |_| {}).unwrap().model;

    for explicit in [&garbage, &nowhere] {
        let library = Search { explicit: Some(explicit.clone()), candidates: vec![] };
        let Probe::Missing { why, fix } = probe(&library) else { panic!("found") };
        assert!(why.contains(explicit.to_str().unwrap()), "{why}");
        assert!(fix.contains("fetch-onnxruntime"), "{fix}");

        let options = Options { threads: 1, library };
        let loaded = load(EngineChoice::Auto, &digits, &options).unwrap();
        assert_eq!(loaded.engine_name, "tract");
        let error = load(EngineChoice::Ort, &digits, &options).unwrap_err();
        let EngineError::Library { why, .. } = &error else { panic!("{error:?}") };
        assert!(why.contains("fetch-onnxruntime"), "{why}");
    }
    // A file that is an ELF library, but another one.
    let other = std::fs::read_to_string("/proc/self/maps").unwrap();
    let other = other.lines().find_map(|line| {
        let path = line.split_whitespace().last()?;
        (path.starts_with('/') && path.contains("libc.so")).then(|| path.to_owned())
    });
    if let Some(other) = other {
        let library = Search { explicit: Some(other.clone().into()), candidates: vec![] };
        let Probe::Missing { why, .. } = probe(&library) else { panic!("{other} taken") };
        assert!(why.contains("OrtGetApiBase"), "{why}");
    }
    // A candidate that fails is passed over; a later call can still find the right one.
    let right =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache/onnxruntime/1.30.0/libonnxruntime.so");
    let candidates = vec![nowhere, garbage, right.into()];
    match probe(&Search { explicit: None, candidates }) {
        Probe::Found { version, .. } => assert_eq!(version, "1.30.0"),
        Probe::Missing { why, fix } => panic!("{why}: {fix}"),
    }
}
