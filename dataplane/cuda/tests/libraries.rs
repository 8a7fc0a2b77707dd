//! Libraries that a compiler made, in a folder as Python packages have it, opened for real: a test
//! of its own, since what is open stays open.

use std::path::Path;
use std::process::Command;

use ferry_cuda::libraries::{LibrarySearch, cudnn_version, is_loadable, open, opened};

/// Builds a library with a function, that needs others by their names alone.
fn build(folder: &Path, file: &str, source: &str, needs: &[&Path]) {
    std::fs::create_dir_all(folder).expect("a folder");
    let text = folder.join(format!("{file}.c"));
    std::fs::write(&text, source).expect("a file");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-Wl,--no-as-needed"])
        .arg(format!("-Wl,-soname,{file}"))
        .arg("-o")
        .arg(folder.join(file))
        .arg(&text)
        .args(needs)
        .status()
        .expect("no C compiler (cc): install gcc, as ./test does");
    assert!(built.success());
    std::fs::remove_file(text).expect("written before");
}

#[test]
fn what_is_opened_by_path_is_found_by_name_from_then_on() {
    let root = tempfile::tempdir().unwrap();
    let nvidia = root.path().join("lib/python3.12/site-packages/nvidia");
    let (cuda, cudnn) = (nvidia.join("cu13/lib"), nvidia.join("cudnn/lib"));
    build(&cuda, "libcudart.so.13", "int ferry_a(void) { return 1; }", &[]);
    // The loader finds what this needs by name only because it is open already.
    let needs = [cuda.join("libcudart.so.13")];
    build(
        &cuda,
        "libcurand.so.10",
        "int ferry_a(void); int ferry_b(void) { return ferry_a(); }",
        &[&needs[0]],
    );
    // Opened before what it needs, by order of names; it works when its turn comes again.
    build(&cudnn, "libcudnn_b.so.9", "int ferry_d(void) { return 3; }", &[]);
    let needs = [cudnn.join("libcudnn_b.so.9")];
    build(
        &cudnn,
        "libcudnn_a.so.9",
        "int ferry_d(void); int ferry_c(void) { return ferry_d(); }",
        &[&needs[0]],
    );
    build(&cudnn, "libcudnn.so.9", "unsigned long cudnnGetVersion(void) { return 91900; }", &[]);
    // No library at all.
    std::fs::write(cuda.join("libcufft.so.12"), "not a library").unwrap();

    let search = LibrarySearch {
        environments: vec![root.path().to_owned()],
        root: root.path().join("nothing"),
        ..LibrarySearch::default()
    };
    assert!(opened().is_none());
    assert!(!is_loadable("libcudnn_a.so.9"), "no cuDNN has one");
    assert_eq!(cudnn_version(&search).unwrap().to_string(), "9.19.0");
    let all = open(&search).unwrap();
    let names: Vec<_> =
        all.files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
    let expected = [
        "libcudart.so.13",
        "libcurand.so.10",
        "libcudnn_b.so.9",
        "libcudnn.so.9",
        "libcudnn_a.so.9",
    ];
    assert_eq!(names, expected);
    assert_eq!(all.folders(), [cuda.as_path(), cudnn.as_path()]);
    let [(file, why)] = all.failed.as_slice() else { panic!("{:?}", all.failed) };
    assert!(file.ends_with("libcufft.so.12") && why.contains("libcufft.so.12"), "{why}");
    for name in expected {
        assert!(is_loadable(name), "{name}");
    }
    let other = LibrarySearch::default();
    assert!(std::ptr::eq(open(&other).unwrap(), all), "once for a process");

    // The files are told apart from those that were found and not opened.
    let survey = ferry_cuda::survey(&search);
    let find = |name: &str| survey.iter().find(|found| found.name == name).unwrap();
    assert!(find("cudart").usable && find("cudart").detail.starts_with("opened in"));
    let broken = find("cuFFT");
    assert!(!broken.usable && broken.fix.contains("nvidia-cufft"), "{broken:?}");
}
