//! What an application links with the SDK.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::process::Command;

/// The packages that a build of the SDK takes, with these options.
fn packages(options: &[&str]) -> Vec<String> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["tree", "--offline", "-p", "ferry-client", "-e", "normal,build"]);
    command.args(["--prefix", "none", "--no-dedupe", "-f", "{p}"]).args(options);
    // Of this package alone, whatever the workspace is built with.
    let command = command.current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.env_remove("CARGO_RESOLVER_FEATURE_UNIFICATION").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn an_application_links_no_decoder_of_pictures_and_nothing_that_watches_gpus() {
    let all = packages(&[]);
    for needed in ["ferry-transport", "ferry-rdma", "zmq-sys", "cudarc"] {
        assert!(all.iter().any(|it| it == needed), "{needed} is missing: {all:?}");
    }
    let foreign = ["ferry-vision", "ferry-engine", "zune-jpeg", "fast_image_resize"];
    for foreign in foreign.into_iter().chain(["nvml-wrapper", "nvml-wrapper-sys", "sqlx"]) {
        assert!(!all.iter().any(|it| it == foreign), "{foreign} is linked");
    }
}

#[test]
fn without_its_features_the_sdk_needs_no_compiler_but_rusts() {
    let all = packages(&["--no-default-features"]);
    let native = ["zmq", "zmq-sys", "zeromq-src", "ferry-rdma", "rdma-mummy-sys"];
    for native in native.into_iter().chain(["cc", "cmake", "bindgen"]) {
        assert!(!all.iter().any(|it| it == native), "{native} is taken");
    }
}
