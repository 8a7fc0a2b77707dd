//! The binary while it starts: told to end, and the limits that it finds.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ferry_proto::v1;
use ferry_proto::v1::models_client::ModelsClient;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::process::Signal;
use tonic::transport::Channel;

use crate::binary::{Ferryd, command, finished_runs};
use crate::common::LONG;

/// A model whose file has no end: it is loaded until the other end of the pipe is closed.
fn endless(models: &Path, name: &str) {
    let path = models.join(format!("{name}.onnx"));
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

/// Waits until the server reads the model; the other end of the pipe.
fn being_loaded(models: &Path, name: &str) -> std::fs::File {
    let mut open = OpenOptions::new();
    // Without a reader, this fails at once.
    open.write(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let late = Instant::now() + LONG;
    loop {
        match open.open(models.join(format!("{name}.onnx"))) {
            Ok(pipe) => return pipe,
            Err(error) => assert!(Instant::now() < late, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A server that has begun and is not looked after by [`Ferryd`], which waits for its first line.
fn begun(command: &mut Command) -> Ferryd {
    let child: Child = command.spawn().unwrap();
    Ferryd { child, address: String::new() }
}

fn text(mut from: impl Read) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_while_a_model_is_loaded_ends_it_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let folder = tempfile::tempdir().unwrap();
        let models = folder.path().join("models");
        std::fs::create_dir(&models).unwrap();
        // The first one ends when it is told to; the second one is never begun.
        for name in ["a", "b"] {
            endless(&models, name);
        }
        let mut ferryd = begun(command(folder.path(), "127.0.0.1:0").args(["--models", "models"]));
        let pipe = being_loaded(&models, "a");
        ferryd.signal(signal);
        assert_eq!(ferryd.wait().code(), Some(0), "as after any other start");
        drop(pipe);
        assert_eq!(text(ferryd.child.stdout.take().unwrap()), "", "it never listened");
        assert_eq!(finished_runs(folder.path()).await, (1, 1), "the run has an end");
        let mut left: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["f.db", "models"], "no log beside a store that was closed");
        let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
        assert!(!sockets.contains(&format!("ferry-{}", ferryd.child.id())), "no socket is left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_while_a_model_is_loaded_by_a_call_ends_it_too() {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    std::fs::create_dir(&models).unwrap();
    let mut ferryd =
        Ferryd::spawn(command(folder.path(), "127.0.0.1:0").args(["--models", "models"]));
    endless(&models, "late");
    let channel = Channel::from_shared(format!("http://{}", ferryd.address)).unwrap();
    let mut client = ModelsClient::new(channel.connect().await.unwrap());
    let load = v1::LoadModelRequest { name: "late".into(), version: 0 };
    let call = tokio::spawn(async move { client.load(load).await });
    let pipe = tokio::task::block_in_place(|| being_loaded(&models, "late"));
    ferryd.signal(Signal::TERM);
    assert_eq!(tokio::task::block_in_place(|| ferryd.wait()).code(), Some(0));
    drop(pipe);
    assert!(call.await.unwrap().is_err(), "whoever called is told");
    assert_eq!(finished_runs(folder.path()).await, (1, 1), "the run has an end");
}

/// The soft and the hard limit of descriptors of a process.
fn descriptors(ferryd: &Ferryd) -> (u64, u64) {
    let limits = format!("/proc/{}/limits", ferryd.child.id());
    let limits = std::fs::read_to_string(limits).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let mut numbers = line.split_whitespace().filter_map(|word| word.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Starts with these limits; what it is once it serves, and what it said until it ended.
fn with_limits(limits: &str, options: &[&str]) -> ((u64, u64), String) {
    let folder = tempfile::tempdir().unwrap();
    let mut limited = Command::new("sh");
    limited.args(["-c", &format!("{limits} && exec \"$0\" \"$@\"")]);
    limited.arg(env!("CARGO_BIN_EXE_ferryd")).args(["--listen", "127.0.0.1:0"]).args(options);
    limited.args(["--store", "sqlite:f.db"]);
    limited.current_dir(folder.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut ferryd = Ferryd::spawn(&mut limited);
    let has = descriptors(&ferryd);
    ferryd.signal(Signal::TERM);
    assert_eq!(ferryd.wait().code(), Some(0));
    (has, text(ferryd.child.stderr.take().unwrap()))
}

#[test]
fn the_limit_of_descriptors_is_raised_as_far_as_it_goes_and_said_where_that_is_too_low() {
    let (has, said) = with_limits("ulimit -Sn 200", &["--quota-sessions", "4"]);
    assert!(has.0 == has.1 && has.0 > 200, "{has:?}");
    assert!(said.contains("raised") && !said.contains("quota-sessions"), "{said}");
    let (has, said) = with_limits("ulimit -Sn 200 && ulimit -Hn 300", &[]);
    assert_eq!(has, (300, 300));
    for part in ["300 descriptors", "some 11 sessions", "4096", "ulimit -Hn"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
