use super::*;

#[test]
fn names_that_could_be_paths_are_refused() {
    for good in ["resnet50", "a.b-c_D9"] {
        check_name(good).unwrap();
    }
    for bad in ["", "..", ".x", "a/b", "../a", "a\\b", "a\0", "ä", &"x".repeat(129)] {
        assert!(check_name(bad).is_err(), "{bad:?}");
    }
}

fn scan_of(files: &[&str]) -> (tempfile::TempDir, Scan) {
    let dir = tempfile::tempdir().unwrap();
    for path in files {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
    }
    let scan = scan(dir.path()).unwrap();
    (dir, scan)
}

#[test]
fn both_shapes_of_folder_are_found() {
    let all = ["a.onnx", "a.toml", "b/2/model.onnx", "b/10/model.onnx", "b/model.toml"];
    let others = ["b/10/model.toml", "c.txt", ".git/1/config", ".hidden"];
    let (dir, Scan { sources, passed_over, .. }) = scan_of(&[&all[..], &others].concat());
    let names: Vec<_> = sources.iter().map(|it| (it.name.as_str(), it.version)).collect();
    assert_eq!(names, [("a", 1), ("b", 2), ("b", 10)]);
    assert_eq!(sources[0].file, dir.path().join("a.onnx"));
    assert!(sources.iter().all(|it| it.metadata.is_some()));
    assert_eq!(sources[2].metadata, Some(dir.path().join("b/10/model.toml")));
    assert_eq!(passed_over, []);
}

#[test]
fn what_is_passed_over_has_a_reason() {
    let expected = [
        (".d.onnx", "start with no dot"),
        (".hidden/1/model.onnx", "starts with a dot: rename it"),
        (".other/net.onnx", "starts with a dot: rename it"),
        ("UPPER.ONNX", "rename it to UPPER.onnx"),
        ("a/1/model.onnx", "another file is a version 1"),
        ("b/0/model.onnx", "versions are numbers from 1"),
        ("b/x/model.onnx", "versions are numbers from 1"),
        ("modèle.onnx", "letters, digits"),
        ("my model.onnx", "letters, digits"),
        ("my model/1/model.onnx", "letters, digits"),
        ("named/1/net.onnx", "is called model.onnx"),
        ("nover/model.onnx", "move it to nover/1/model.onnx"),
    ];
    let files: Vec<_> = expected.iter().map(|it| it.0).chain(["a.onnx"]).collect();
    let (dir, Scan { sources, passed_over, .. }) = scan_of(&files);
    assert_eq!(sources.len(), 1, "{sources:?}");
    let mut told: Vec<_> = passed_over
        .iter()
        .map(|it| (it.path.strip_prefix(dir.path()).unwrap().to_str().unwrap(), it.why.as_str()))
        .collect();
    told.sort_unstable();
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for ((path, why), (file, part)) in told.into_iter().zip(expected) {
        assert!(file.starts_with(path) && why.contains(part), "{file}: {path}: {why}");
    }
}

fn scan_with(files: &[(&str, &str)]) -> (tempfile::TempDir, Scan) {
    let dir = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let scan = scan(dir.path()).unwrap();
    (dir, scan)
}

#[test]
fn a_configuration_says_which_file_and_which_versions() {
    let all = [
        ("a/config.pbtxt", "default_model_filename: 'net.onnx'"),
        ("a/1/net.onnx", ""),
        ("a/2/net.onnx", ""),
        ("b/model.toml", "versions = [1, 3]"),
        ("b/1/model.onnx", ""),
        ("b/2/model.onnx", ""),
        ("c/1/model.onnx", ""),
        ("c/2/model.onnx", ""),
    ];
    let (_dir, Scan { sources, passed_over, .. }) = scan_with(&all);
    assert_eq!(passed_over, []);
    let serve: Vec<_> = sources
        .iter()
        .filter(|it| it.left_out.is_none())
        .map(|it| (it.name.as_str(), it.version))
        .collect();
    assert_eq!(serve, [("a", 2), ("b", 1), ("c", 1), ("c", 2)]);
    assert_eq!(sources[0].left_out.as_deref().map(|it| it.contains("the latest 1")), Some(true));
    assert!(sources[1].file.ends_with("a/2/net.onnx"));
}

#[test]
fn what_is_wrong_with_a_configuration_is_found_when_its_versions_are_loaded() {
    let all = [
        ("broken/config.pbtxt", "{"),
        ("broken/1/other", ""),
        ("ensemble/config.pbtxt", "ensemble_scheduling { }"),
        ("ensemble/1/.keep", ""),
        ("twice/config.pbtxt", ""),
        ("twice/model.toml", ""),
        ("twice/1/model.onnx", ""),
        ("none/config.pbtxt", ""),
        ("plan/1/model.plan", ""),
    ];
    let (_dir, Scan { sources, passed_over, .. }) = scan_with(&all);
    let names: Vec<_> = sources.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["broken", "ensemble", "twice"]);
    for (source, word) in sources.iter().zip(["config.pbtxt", "ensemble_scheduling", "remove one"])
    {
        let path = source.metadata.as_ref().unwrap();
        let error = Metadata::read(path, &source.name, Metadata::unnamed(1, 1)).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    let told: Vec<_> = passed_over.iter().map(|it| (&*it.name, &*it.why)).collect();
    assert!(told[0].0 == "none" && told[0].1.contains("none/1"), "{told:?}");
    assert!(told[1].0 == "plan" && told[1].1.contains("ONNX file"), "{told:?}");
}

#[test]
fn versions_are_plain_numbers_from_1() {
    let all = ["01", "+2", "-1", "v1", "0", "18446744073709551616"]
        .map(|version| (format!("m/{version}/model.onnx"), ""));
    let all: Vec<_> = all.iter().map(|(path, text)| (path.as_str(), *text)).collect();
    let (_dir, Scan { sources, passed_over, .. }) = scan_with(&all);
    let versions: Vec<_> = sources.iter().map(|it| it.version).collect();
    assert_eq!((versions, passed_over.len()), (vec![1], 5), "{passed_over:?}");
}

#[test]
fn files_that_cannot_be_models_do_not_stop_the_others() {
    let mut files: Vec<_> = (0..5000).map(|i| format!("no {i}.onnx")).collect();
    files.push("a.onnx".to_owned());
    let files: Vec<_> = files.iter().map(String::as_str).collect();
    let (_dir, Scan { sources, passed_over, more }) = scan_of(&files);
    assert_eq!(
        (sources.len(), passed_over.len(), more),
        (1, PASSED_OVER_MAX, 5000 - PASSED_OVER_MAX)
    );
}
