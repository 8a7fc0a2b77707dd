//! What nobody with rights would send: to a real ferryd, under limits of memory and descriptors
//! that it would break if it took it.

mod http;
mod raw;

use std::path::Path;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use ferry_core::{Status, Transport};
use ferry_proto::channel::KEY_METADATA;
use ferry_proto::v1;
use ferry_proto::v1::admin_client::AdminClient;
use ferry_proto::v1::sessions_client::SessionsClient;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::binary::Ferryd;
use crate::common::{Client, LONG, ask, until, until_asked};
use raw::{Raw, send};

/// Address space of the server: it uses a third of it when it serves, and what is sent here would
/// take more than all of it.
const ADDRESS_SPACE: &str = "4194304";

const CONFIG: &str = "\
operator-key = 'operator'
body-seconds = 2.0
handshake-seconds = 1.0
calls-bytes-max = 536870912
sample-seconds = 0.05
[tenants.a]
key = 'a'
[tenants.b]
key = 'b'
";

/// A server with tenants, and so many KiB of memory and so many descriptors.
fn limited(folder: &Path, descriptors: u32) -> Ferryd {
    std::fs::write(folder.join("c.toml"), CONFIG).unwrap();
    let mut limited = Command::new("sh");
    let limits = format!("ulimit -v {ADDRESS_SPACE} && ulimit -n {descriptors}");
    limited.args(["-c", &format!("{limits} && exec \"$0\" \"$@\"")]);
    limited.arg(env!("CARGO_BIN_EXE_ferryd")).args([
        "--listen",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
    ]);
    limited.args(["--config", "c.toml", "--store", "sqlite:f.db", "--log", "warn"]);
    limited.current_dir(folder).stdout(Stdio::piped()).stderr(Stdio::null());
    Ferryd::spawn(&mut limited)
}

/// A number of `/proc/PID/status`, in KiB.
fn kib(ferryd: &Ferryd, name: &str) -> u64 {
    let status = format!("/proc/{}/status", ferryd.child.id());
    let status = std::fs::read_to_string(status).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn descriptors(ferryd: &Ferryd) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", ferryd.child.id())).unwrap().count()
}

async fn channel(ferryd: &Ferryd) -> Channel {
    let channel = Channel::from_shared(format!("http://{}", ferryd.address)).unwrap();
    tokio::time::timeout(LONG, channel.connect()).await.expect("it answers").unwrap()
}

fn keyed<T>(key: &'static str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(KEY_METADATA, key.parse().unwrap());
    request
}

/// An honest tenant is served, from its first connection on, and so is the operator.
async fn serves(ferryd: &Ferryd) {
    let channel = channel(ferryd).await;
    let asked = keyed("a", ask(Transport::Tcp, 64, 64));
    let opened = SessionsClient::new(channel.clone()).open(asked).await.unwrap().into_inner();
    let mut client = Client::connect(&opened);
    assert_eq!(client.infer(&[1; 64]).0, Status::Ok);
    let close = keyed("a", v1::CloseSessionRequest { session: opened.session });
    SessionsClient::new(channel.clone()).close(close).await.unwrap();
    AdminClient::new(channel).status(keyed("operator", v1::StatusRequest {})).await.unwrap();
}

/// Ends the server in order; the kinds of refusals that stand in its store, and whose they were.
async fn refused(mut ferryd: Ferryd, folder: &Path) -> Vec<String> {
    ferryd.signal(rustix::process::Signal::TERM);
    assert_eq!(tokio::task::block_in_place(|| ferryd.wait()).code(), Some(0));
    let url = format!("sqlite:{}", folder.join("f.db").display());
    let mut store = SqliteConnectOptions::from_str(&url).unwrap().connect().await.unwrap();
    let sql = "SELECT DISTINCT what || ' of ' || coalesce(tenant, 'nobody') FROM refusals";
    let kinds = sqlx::query_scalar(sql).fetch_all(&mut store).await.unwrap();
    store.close().await.unwrap();
    kinds
}

/// `count` empty elements of the field whose key is `key`.
fn empty_elements(key: u8, count: usize) -> Bytes {
    [key, 0].repeat(count).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_millions_are_refused_before_memory_is_spent_on_them() {
    let folder = tempfile::tempdir().unwrap();
    let ferryd = limited(folder.path(), 1024);
    serves(&ferryd).await;
    let before = kib(&ferryd, "VmHWM");
    let channel = channel(&ferryd).await;
    // InferRequest.inputs, 80 MB; of nobody, of a tenant, and of one that lies about its shapes.
    let inputs = empty_elements(0x2a, 40_000_000);
    let infer = "/ferry.v1.Inference/Infer";
    let nobody = send(&channel, infer, None, inputs.clone()).await.unwrap_err();
    assert_eq!(nobody.code(), Code::Unauthenticated);
    for path in [infer, "/ferry.v1.Local/Infer"] {
        let tenant = send(&channel, path, Some("a"), inputs.clone()).await.unwrap_err();
        assert_eq!(tenant.code(), Code::ResourceExhausted, "{path}: {tenant:?}");
    }
    // Methods without tensors take no such message at all.
    for (path, key) in [
        ("/ferry.v1.Sessions/Open", "a"),
        ("/ferry.v1.Sessions/Heartbeat", "a"),
        ("/ferry.v1.Runs/Start", "a"),
        ("/ferry.v1.Admin/Drain", "operator"),
        ("/grpc.health.v1.Health/Check", "a"),
    ] {
        let long = send(&channel, path, Some(key), inputs.clone()).await.unwrap_err();
        assert_eq!(long.code(), Code::ResourceExhausted, "{path}: {long:?}");
        assert!(long.message().contains("at most"), "{path}: {long:?}");
    }
    // Short enough for their method, and too many all the same: Open.shapes.
    let shapes = empty_elements(0x42, 100_000);
    let shapes = send(&channel, "/ferry.v1.Sessions/Open", Some("a"), shapes).await.unwrap_err();
    assert_eq!(shapes.code(), Code::ResourceExhausted, "{shapes:?}");
    let grown = kib(&ferryd, "VmHWM") - before;
    // A few of the messages, and what the allocator keeps.
    assert!(grown < 400 << 10, "{grown} KiB for messages of 80 MB");
    serves(&ferryd).await;
    let kinds = refused(ferryd, folder.path()).await;
    for kind in ["message_bytes of a", "message_memory of a", "wrong_key of nobody"] {
        assert!(kinds.iter().any(|it| it == kind), "{kind}: {kinds:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_announced_and_never_end_hold_little_and_not_for_long() {
    let folder = tempfile::tempdir().unwrap();
    let ferryd = limited(folder.path(), 1024);
    serves(&ferryd).await;
    let before = kib(&ferryd, "VmHWM");
    let mut peers = Vec::new();
    for key in [None, Some("a"), Some("b"), Some("a"), Some("b")] {
        let mut peer = Raw::connect(&ferryd.address);
        for (path, bytes) in [
            ("/ferry.v1.Inference/Infer", 16_000_000),
            ("/ferry.v1.Sessions/Heartbeat", 16_000_000),
            ("/ferry.v1.Sessions/Heartbeat", 100_000),
            // 3 GiB, which no message may have.
            ("/inference.GRPCInferenceService/ModelInfer", 3 << 30),
        ] {
            for _ in 0..20 {
                peer.announce(path, key, bytes, &[0; 500]);
            }
        }
        peers.push(peer);
    }
    serves(&ferryd).await;
    let grown = kib(&ferryd, "VmHWM") - before;
    assert!(grown < 200 << 10, "{grown} KiB for 400 calls of 500 bytes each");
    // Once the time of a body is over, what it held is there for others.
    let channel = channel(&ferryd).await;
    let message = Bytes::from(vec![0x12; 60 << 20]);
    until_asked("it is given back", async || {
        // A payload of nothing but keys: it is read, and then is no message.
        let answer = send(&channel, "/ferry.v1.Inference/Infer", Some("a"), message.clone()).await;
        answer.unwrap_err().code() != Code::ResourceExhausted
    })
    .await;
    for peer in &mut peers {
        peer.still_there();
    }
    drop(peers);
    let kinds = refused(ferryd, folder.path()).await;
    assert!(kinds.iter().any(|it| it.starts_with("calls_bytes of")), "{kinds:?}");
    for kind in
        ["message_bytes of a", "message_bytes of b", "slow_body of a", "wrong_key of nobody"]
    {
        assert!(kinds.iter().any(|it| it == kind), "{kind}: {kinds:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_lock_nobody_out_and_are_gone_soon() {
    let folder = tempfile::tempdir().unwrap();
    // 64 connections, half of them strangers'.
    let ferryd = limited(folder.path(), 256);
    serves(&ferryd).await;
    let before = descriptors(&ferryd);
    let silent: Vec<_> = (0..150).map(|_| raw::tcp(&ferryd.address)).collect();
    serves(&ferryd).await;
    let half: Vec<_> = (0..150).map(|_| raw::half_preface(&ferryd.address)).collect();
    serves(&ferryd).await;
    let begun: Vec<_> = (0..100).map(|_| Raw::connect(&ferryd.address)).collect();
    serves(&ferryd).await;
    strangers_are_sent_away(ferryd, folder.path(), before, (silent, half, begun), |ferryd| {
        raw::half_preface(&ferryd.address)
    })
    .await;
}

/// Of very `many` strangers, most are sent away, and a few who have `half` begun after a second.
async fn strangers_are_sent_away<S>(
    ferryd: Ferryd,
    folder: &Path,
    before: usize,
    many: impl Sized,
    half: impl Fn(&Ferryd) -> S,
) {
    until("most were sent away", || descriptors(&ferryd) < before + 70).await;
    drop(many);
    until("those are gone", || descriptors(&ferryd) <= before + 2).await;
    // Few enough to be borne, for a second.
    let few: Vec<_> = (0..5).map(|_| half(&ferryd)).collect();
    until("they are there", || descriptors(&ferryd) > before + 2).await;
    until("they are sent away", || descriptors(&ferryd) <= before + 2).await;
    drop(few);
    let kinds = refused(ferryd, folder).await;
    for kind in ["handshake of nobody", "strangers of nobody"] {
        assert!(kinds.iter().any(|it| it == kind), "{kind}: {kinds:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moment_without_descriptors_is_survived_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let ferryd = limited(folder.path(), 1024);
    serves(&ferryd).await;
    let pid = Pid::from_raw(ferryd.child.id().try_into().unwrap()).unwrap();
    let limit = |current| {
        let maximum = Some(1024);
        prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(current), maximum }).unwrap();
    };
    limit(descriptors(&ferryd) as u64);
    let waiting: Vec<_> = (0..20).map(|_| raw::tcp(&ferryd.address)).collect();
    tokio::time::sleep(Duration::from_millis(600)).await;
    limit(1024);
    let again = unix_ns();
    drop(waiting);
    serves(&ferryd).await;
    let url = format!("sqlite:{}", folder.path().join("f.db").display());
    let options = SqliteConnectOptions::from_str(&url).unwrap();
    let mut store = options.busy_timeout(LONG).connect().await.unwrap();
    until_asked("resources are sampled again", async || {
        let sql = "SELECT count(*) FROM resource_samples WHERE unix_ns > ?";
        let after: i64 = sqlx::query_scalar(sql).bind(again).fetch_one(&mut store).await.unwrap();
        after > 0
    })
    .await;
    store.close().await.unwrap();
    let kinds = refused(ferryd, folder.path()).await;
    assert!(kinds.iter().any(|it| it == "accept of nobody"), "{kinds:?}");
}

fn unix_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_nanos().try_into().unwrap()
}
