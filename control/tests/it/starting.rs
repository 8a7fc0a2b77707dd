//! The binary while it starts: told to end, and the limits that it finds.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ferry_proto::v1;
use ferry_proto::v1::model::State;
use ferry_proto::v1::models_client::ModelsClient;
use ferry_proto::v1::sessions_client::SessionsClient;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::binary::{Ferryd, command, finished_runs};
use crate::common::{LONG, ask};
use crate::http::Connection;

/// Fields of protobuf of less than 128 bytes.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat()
}

/// A field of protobuf that may be longer.
fn long_field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut all = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        all.push(u8::try_from(length & 0x7F).unwrap() | 0x80);
        length >>= 7;
    }
    all.push(u8::try_from(length).unwrap());
    [&all, content].concat()
}

/// A model that takes ONNX Runtime a minute to load: products of large matrices that are all known,
/// which it computes then.
fn slow(models: &Path, name: &str) {
    // FLOAT [1, 1].
    let dims = field(1, &[8, 1]).repeat(2);
    let kind = field(1, &[&[8, 1], &*field(2, &dims)].concat());
    let value = |name: &str| [field(1, name.as_bytes()), field(2, &kind)].concat();
    let node = |op: &str, inputs: &[&str], output: &str, more: &[u8]| {
        let inputs: Vec<u8> = inputs.iter().flat_map(|input| field(1, input.as_bytes())).collect();
        let node = [&*inputs, &field(2, output.as_bytes()), &field(4, op.as_bytes()), more];
        field(1, &node.concat())
    };
    // [3072, 3072], two INT64.
    let size = [&[8, 2, 16, 7], &*field(8, b"size"), &*field(7, &[0x80, 24, 0x80, 24])].concat();
    let mut graph = [node("ConstantOfShape", &["size"], "p0", &[]), field(5, &size)].concat();
    for at in 0..60 {
        let [from, to] = [format!("p{at}"), format!("p{}", at + 1)];
        graph.extend(node("MatMul", &[&from, "p0"], &to, &[]));
    }
    graph.extend(node("ReduceMax", &["p60"], "max", &[]));
    graph.extend(node("Add", &["x", "max"], "y", &[]));
    graph.extend([field(2, b"g"), field(11, &value("x")), field(12, &value("y"))].concat());
    let model = [&[8, 8], &*long_field(7, &graph), &*field(8, &[16, 13])].concat();
    std::fs::write(models.join(format!("{name}.onnx")), model).unwrap();
    std::fs::write(models.join(format!("{name}.toml")), "engine = 'onnx'").unwrap();
}

/// An address on which nobody listens.
fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// A connection to a server that may just begin.
async fn connected(address: &str) -> Channel {
    let late = Instant::now() + LONG;
    loop {
        match Channel::from_shared(format!("http://{address}")).unwrap().connect().await {
            Ok(channel) => return channel,
            Err(error) => assert!(Instant::now() < late, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A server that has begun and is not looked after by [`Ferryd`], which waits for its first line.
fn begun(command: &mut Command) -> Ferryd {
    let child: Child = command.spawn().unwrap();
    Ferryd { child, address: String::new(), http: None }
}

fn text(mut from: impl Read) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    text
}

/// Its first answer that says how far it is.
async fn loading(address: &str) -> tonic::Status {
    let mut client = ModelsClient::new(connected(address).await);
    let late = Instant::now() + LONG;
    loop {
        let told = client.list(v1::ListModelsRequest {}).await.unwrap_err();
        assert_eq!(told.code(), Code::Unavailable, "{told}");
        if !told.message().contains("loading: 0 of 0") {
            return told;
        }
        assert!(Instant::now() < late, "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_while_a_model_is_loaded_ends_it_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let folder = tempfile::tempdir().unwrap();
        let models = folder.path().join("models");
        std::fs::create_dir(&models).unwrap();
        // The first one ends when the process does; the second one is never begun.
        for name in ["a", "b"] {
            slow(&models, name);
        }
        let address = free_address();
        let mut ferryd = begun(command(folder.path(), &address).args(["--models", "models"]));
        let told = loading(&address).await;
        assert!(told.message().contains("loading: 0 of 2 models"), "{told}");
        ferryd.signal(signal);
        assert_eq!(ferryd.wait().code(), Some(0), "as after any other start");
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
    slow(&models, "late");
    let channel = connected(&ferryd.address).await;
    let mut client = ModelsClient::new(channel.clone());
    let load = v1::LoadModelRequest { name: "late".into(), version: 0, config_toml: None };
    let call = tokio::spawn(async move { client.load(load).await });
    // It is in the list as soon as the load has begun.
    let mut client = ModelsClient::new(channel);
    let late = Instant::now() + LONG;
    loop {
        let listed = client.list(v1::ListModelsRequest {}).await.unwrap().into_inner().models;
        if listed.iter().any(|model| model.name == "late") {
            break;
        }
        assert!(Instant::now() < late, "{listed:?}");
    }
    ferryd.signal(Signal::TERM);
    assert_eq!(tokio::task::block_in_place(|| ferryd.wait()).code(), Some(0));
    assert!(call.await.unwrap().is_err(), "whoever called is told");
    assert_eq!(finished_runs(folder.path()).await, (1, 1), "the run has an end");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_models_load_the_port_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    std::fs::create_dir(&models).unwrap();
    std::fs::write(models.join("a.onnx"), "broken").unwrap();
    slow(&models, "b");
    let (address, http) = (free_address(), free_address());
    let options = ["--models", "models", "--http", &http];
    let mut ferryd = begun(command(folder.path(), &address).args(options));
    // The first one has failed; that is one that is done.
    let late = Instant::now() + LONG;
    while !loading(&address).await.message().contains("loading: 1 of 2 models") {
        assert!(Instant::now() < late);
    }
    let channel = connected(&address).await;
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "ferry.v1.Sessions"] {
        let check = HealthCheckRequest { service: service.into() };
        let health = health.check(check).await.unwrap().into_inner();
        assert_eq!(health.status(), ServingStatus::NotServing, "{service}");
    }
    let open = ask(ferry_core::Transport::Tcp, 1, 1);
    let told = SessionsClient::new(channel).open(open).await.unwrap_err();
    assert!(told.message().contains("1 of 2") && told.message().contains("again"), "{told}");
    let mut over_http = Connection::open(http.parse().unwrap());
    let told = tokio::task::block_in_place(|| over_http.call("GET /v2/health/ready", &[], &[]));
    assert_eq!(told.status, 503);
    assert!(told.error().contains("1 of 2"), "{told:?}");
    ferryd.signal(Signal::TERM);
    assert_eq!(ferryd.wait().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_in_the_folder_keeps_the_server_from_starting_and_each_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    for made in ["models/named/1", "models/nover", "models/toml"] {
        std::fs::create_dir_all(folder.path().join(made)).unwrap();
    }
    let fifo = |path: &str| {
        let kind = FileType::Fifo;
        mknodat(CWD, models.join(path), kind, Mode::RUSR | Mode::WUSR, 0).unwrap();
    };
    for name in ["fifo.onnx", "fifo_toml.toml", "fifo_labels.txt"] {
        fifo(name);
    }
    let _socket = std::os::unix::net::UnixListener::bind(models.join("socket.onnx")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", models.join("zero.onnx")).unwrap();
    let digits = ferry_zoo::digits::onnx();
    for name in [
        "right.onnx",
        "fifo_toml.onnx",
        "fifo_labels.onnx",
        "my model.onnx",
        "modèle.onnx",
        "UPPER.ONNX",
        "named/1/net.onnx",
        "nover/model.onnx",
        "echo.onnx",
    ] {
        std::fs::write(models.join(name), digits).unwrap();
    }
    std::fs::write(models.join("fifo_labels.toml"), "labels = 'fifo_labels.txt'").unwrap();
    let mut ferryd =
        Ferryd::spawn(command(folder.path(), "127.0.0.1:0").args(["--models", "models"]));
    let mut client = ModelsClient::new(connected(&ferryd.address).await);
    let listed = client.list(v1::ListModelsRequest {}).await.unwrap().into_inner().models;
    let states: Vec<_> = listed.iter().map(|it| (it.name.as_str(), it.state())).collect();
    let failed = ["fifo", "fifo_labels", "fifo_toml", "socket", "zero"];
    for (name, state) in states {
        let expected = if failed.contains(&name) { State::Failed } else { State::Loaded };
        assert_eq!(state, expected, "{name}");
    }
    assert_eq!(listed.len(), failed.len() + 2, "and echo and right");
    // Later, too, it is told why.
    let load = v1::LoadModelRequest { name: "nover".into(), version: 0, config_toml: None };
    let refused = client.load(load).await.unwrap_err();
    assert!(refused.message().contains("nover/1/model.onnx"), "{refused}");
    ferryd.signal(Signal::TERM);
    assert_eq!(ferryd.wait().code(), Some(0));
    let said = text(ferryd.child.stderr.take().unwrap());
    for (file, why) in [
        ("fifo.onnx", "a FIFO"),
        ("fifo_toml.toml", "a FIFO"),
        ("fifo_labels.txt", "a FIFO"),
        ("socket.onnx", "a socket"),
        ("zero.onnx", "a device"),
        ("my model.onnx", "letters, digits"),
        ("modèle.onnx", "letters, digits"),
        ("UPPER.ONNX", "lower case"),
        ("named/1", "model.onnx"),
        ("nover/model.onnx", "move it"),
        ("echo.onnx", "built-in"),
    ] {
        let line = said.lines().find(|line| line.contains(file)).unwrap_or_default();
        assert!(line.contains(why), "{file}: {said}");
    }
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

#[test]
fn too_few_descriptors_are_told_before_it_listens() {
    let folder = tempfile::tempdir().unwrap();
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 20 && exec \"$0\" \"$@\""]);
    limited.arg(env!("CARGO_BIN_EXE_ferryd")).args(["--listen", "127.0.0.1:0"]);
    limited.args(["--store", "sqlite:f.db"]).current_dir(folder.path());
    let output = limited.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout[..]), "", "it never listened");
    let said = text(&output.stderr[..]);
    assert!(said.contains("20 descriptors") && said.contains("at least 128"), "{said}");
}
