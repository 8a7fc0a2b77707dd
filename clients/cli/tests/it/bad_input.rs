//! What bad input gets: an exit code, and a sentence that says what to do.

use std::fs;
use std::io::Read;

use ferry_client::Transport;
use ferry_conformance::transports::everywhere;

use crate::server::{Server, ferryd, run, text};

/// Runs a command that must fail; its exit code and what it said.
fn refused(server: &Server, words: &[&str]) -> (i32, String) {
    let output = server.ferry(words);
    assert!(!output.status.success(), "{words:?} succeeded");
    (output.status.code().unwrap(), text(&output.stderr))
}

#[test]
fn usage_and_absence_have_exit_codes_of_their_own() {
    assert_eq!(run(&["infer"], None).status.code(), Some(2));
    assert_eq!(run(&["bench", "--transport", "udp"], None).status.code(), Some(2));
    let nobody = run(&["models"], Some("http://127.0.0.1:1"));
    assert_eq!(nobody.status.code(), Some(3));
    assert!(text(&nobody.stderr).contains("is ferryd running"), "{}", text(&nobody.stderr));
}

#[test]
fn wrong_requests_are_told_what_would_fit() {
    let server = Server::start(&[], |models| {
        fs::write(models.join("broken.onnx"), b"not a model").unwrap();
    });
    let jpeg = ferry_zoo::digits::demo_jpeg().bytes;
    let file = |name: &str, bytes: &[u8]| {
        fs::write(server.path(name), bytes).unwrap();
        server.path(name).to_str().unwrap().to_owned()
    };
    let picture = file("good.jpg", jpeg);
    let infer = |model: &str, transport: &str, image: &str| {
        refused(&server, &["infer", "--model", model, "--transport", transport, "--image", image])
    };
    let (code, said) = infer("nobody", "tcp", &picture);
    assert!(code == 4 && said.contains("nobody") && said.contains("digits"), "{said}");
    let (code, said) = infer("broken", "tcp", &picture);
    assert!(code == 4 && said.contains("broken"), "{said}");
    let (code, said) = infer("digits", "rdma", &picture);
    assert!(code == 4 && said.contains("rdma"), "{said}");
    let (_, said) = infer("echo", "tcp", &picture);
    assert!(said.contains("[picture]"), "{said}");
    let cut = file("cut.jpg", &jpeg[..jpeg.len() / 2]);
    let mut bomb = jpeg.to_vec();
    // Height and width of the frame header: 65,535 each.
    let sof = bomb.windows(2).position(|it| it == [0xFF, 0xC0]).unwrap();
    bomb[sof + 5..sof + 9].fill(0xFF);
    let bomb = file("bomb.jpg", &bomb);
    for transport in everywhere().map(Transport::name) {
        for image in [&cut, &bomb] {
            let (_, said) = infer("digits", transport, image);
            assert!(!said.is_empty(), "{transport} {image}");
        }
        let good = ["infer", "--model", "digits", "--transport", transport, "--image", &picture];
        assert!(server.ferry(&good).status.success(), "{transport} serves on");
    }
}

#[test]
fn a_query_that_writes_is_refused() {
    let server = Server::start(&[], |_| {});
    for sql in ["DELETE FROM runs", "SELECT 1; DROP TABLE runs", "ATTACH 'x' AS y"] {
        let (_, said) = refused(&server, &["sql", sql]);
        assert!(!said.is_empty(), "{sql}");
        let store = server.store();
        refused(&server, &["sql", "--store", &store, sql]);
    }
}

#[test]
fn a_port_in_use_and_a_store_that_cannot_be_are_named() {
    let server = Server::start(&[], |_| {});
    let address = server.url.trim_start_matches("http://");
    let fails = |options: &[&str]| {
        let mut child = ferryd(options).spawn().unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (child.wait().unwrap().code(), said)
    };
    let (code, said) = fails(&["--listen", address, "--store", "sqlite::memory:"]);
    assert_eq!(code, Some(1));
    assert!(said.contains(address) && said.contains("--listen"), "{said}");
    assert_eq!(said.matches("in use").count(), 1, "the reason, once: {said}");
    let (code, said) = fails(&["--listen", "127.0.0.1:0", "--store", "sqlite:/no/such/folder/x"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("/no/such/folder"), "{said}");
    let store = ["--listen", "127.0.0.1:0", "--store", "sqlite::memory:"];
    let (code, said) = fails(&[&store[..], &["--models", "/no/such/models"]].concat());
    assert_eq!(code, Some(1));
    assert!(said.contains("--models /no/such/models: create the folder"), "{said}");
    assert_eq!(said.matches("No such file").count(), 1, "the reason, once: {said}");
    let (code, _) = fails(&["--listen", "nonsense"]);
    assert_eq!(code, Some(64));
}
