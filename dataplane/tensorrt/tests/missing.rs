//! Without the libraries, or with others. A process of its own: once they are open, they stay open.

#![cfg(not(feature = "enterprise"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::process::Command;

use ferry_engine::EngineError;
use ferry_tensorrt::{BuildOptions, Cache, FETCHED, Probe, Search, build, probe, signature};

const MAIN: &str = "libtensorrt_rtx.so.1";
const PARSER: &str = "libtensorrt_onnxparser_rtx.so.1";

fn missing(search: &Search) -> String {
    let Probe::Missing { why, fix } = probe(search) else { panic!("found") };
    assert!(fix.contains("fetch-tensorrt") && fix.contains("TENSORRT_LIB_DIR"), "{fix}");
    why
}

/// A folder with two libraries made of C.
fn libraries(root: &Path, name: &str, main: &str, parser: &str) -> PathBuf {
    let folder = root.join(name);
    std::fs::create_dir(&folder).unwrap();
    for (file, source) in [(MAIN, main), (PARSER, parser)] {
        let c = folder.join("source.c");
        std::fs::write(&c, source).unwrap();
        let made = Command::new("cc")
            .args(["-shared", "-fPIC", "-nostdlib", "-o"])
            .arg(folder.join(file))
            .arg(&c)
            .status();
        assert!(made.expect("this test needs a C compiler: install gcc").success());
    }
    folder
}

fn of_version(major: i32, minor: i32) -> String {
    format!(
        "int getInferLibMajorVersion(void) {{ return {major}; }}
         int getInferLibMinorVersion(void) {{ return {minor}; }}
         int getInferLibPatchVersion(void) {{ return 1; }}
         int getInferLibBuildVersion(void) {{ return 116; }}"
    )
}

#[test]
fn missing_and_wrong_libraries_are_explained() {
    let root = tempfile::tempdir().unwrap();
    let explicit = |path: &Path| Search { explicit: Some(path.to_owned()), candidates: Vec::new() };
    let digits = ferry_zoo::write("digits", root.path(), 1, &mut |_| {}).unwrap().model;

    let nowhere = root.path().join("nowhere");
    assert!(missing(&explicit(&nowhere)).contains("no such file"));
    let empty = root.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    assert!(missing(&explicit(&empty)).contains("in it"));
    let garbage = root.path().join("garbage");
    std::fs::create_dir(&garbage).unwrap();
    std::fs::write(garbage.join(MAIN), "not a library").unwrap();
    assert!(missing(&explicit(&garbage)).contains("beside it"));
    std::fs::write(garbage.join(PARSER), "not a library").unwrap();
    assert!(missing(&explicit(&garbage)).contains(MAIN));

    let other = libraries(root.path(), "other", "int other;", "int other;");
    let why = missing(&explicit(&other));
    assert!(why.contains("not TensorRT") && why.contains("getInferLibMajorVersion"), "{why}");
    let old = libraries(root.path(), "old", &of_version(1, 4), "int other;");
    let why = missing(&explicit(&old));
    assert!(why.contains("version 1.4.1.116") && why.contains("1.7 is needed"), "{why}");
    let parser = "int getNvOnnxParserVersion(void) { return 199; }";
    let parser = libraries(root.path(), "parser", &of_version(1, 7), parser);
    let why = missing(&explicit(&parser));
    assert!(why.contains("a parser of version 199"), "{why}");

    // The same where something is wanted of them.
    let search = explicit(&nowhere);
    let options = BuildOptions::default();
    let cache = Cache::new(root.path().join("cache"), 1 << 30);
    let errors = [
        build(&digits, &search, &options).map(drop),
        signature(&digits, &search).map(drop),
        cache.get(&digits, &search, &options).map(drop),
    ];
    for error in errors {
        let Err(EngineError::Library { library, why }) = error else { panic!("{error:?}") };
        assert_eq!(library, "tensorrt-rtx");
        assert!(why.contains("nowhere") && why.contains("fetch-tensorrt"), "{why}");
    }

    // Folders that fail are passed over; a later call can still find the right ones.
    let right = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(FETCHED);
    let candidates = vec![nowhere, garbage, other, old, parser, right.clone()];
    let found = probe(&Search { explicit: None, candidates });
    let Probe::Found { path, version } = found else { panic!("run fetch-tensorrt: {found:?}") };
    assert_eq!(path, std::path::absolute(right.join(MAIN)).unwrap());
    assert_eq!(version, "1.7.1.116");
    // Another search finds what is open.
    assert_eq!(probe(&search), Probe::Found { path, version });
}
