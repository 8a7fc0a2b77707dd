//! The binary itself: its first line, its signals, its exit codes.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use ferry_conformance::transports::linked;
use ferry_core::{Status, Transport};
use ferry_proto::v1;
use ferry_proto::v1::admin_client::AdminClient;
use ferry_proto::v1::sessions_client::SessionsClient;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tonic::transport::Channel;

use crate::common::{Client, LONG, ask, until};

pub(crate) struct Ferryd {
    pub(crate) child: Child,
    pub(crate) address: String,
    pub(crate) http: Option<String>,
}

pub(crate) fn command(folder: &Path, listen: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferryd"));
    command.current_dir(folder).args(["--listen", listen, "--store", "sqlite:f.db"]);
    command.args(["--log", "warn"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Ferryd {
    fn start(folder: &Path) -> Ferryd {
        Ferryd::spawn(&mut command(folder, "127.0.0.1:0"))
    }

    pub(crate) fn spawn(command: &mut Command) -> Ferryd {
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = json["listening"].as_str().unwrap().to_owned();
        let http = json["http"].as_str().map(str::to_owned);
        Ferryd { child, address, http }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for Ferryd {
    fn drop(&mut self) {
        // Ended already, except where a test failed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_answers_what_was_accepted_and_ends_with_0() {
    let folder = tempfile::tempdir().unwrap();
    let mut ferryd = Ferryd::start(folder.path());
    let url = format!("http://{}", ferryd.address);
    let mut sessions = SessionsClient::connect(url).await.unwrap();
    let mut threads = Vec::new();
    let (served, seen) = std::sync::mpsc::sync_channel(1024);
    for transport in linked() {
        let opened = sessions.open(ask(transport, 4096, 4096)).await.unwrap().into_inner();
        let served = served.clone();
        threads.push(tokio::task::spawn_blocking(move || {
            let mut client = Client::connect(&opened);
            let (mut answered, mut told) = (0_u64, false);
            while !told {
                let (status, _) = client.infer(&[1; 4096]);
                match status {
                    Status::Ok => answered += 1,
                    Status::Draining | Status::LinkLost => told = true,
                    other => panic!("{other}"),
                }
                if answered == 100 {
                    served.send(()).unwrap();
                }
            }
            answered
        }));
    }
    for _ in &threads {
        seen.recv_timeout(LONG).unwrap();
    }
    ferryd.signal(Signal::TERM);
    assert_eq!(ferryd.wait().code(), Some(0));
    let mut answered = 0;
    for thread in threads {
        answered += thread.await.unwrap();
    }
    let rows = stored(folder.path()).await;
    assert!(rows >= answered, "{rows} rows for {answered} answers");
}

/// More than the kernel keeps between two ends of a connection.
const LONG_REPLY: usize = 32 << 20;

/// A server with one request served whose reply its client has not begun to read.
async fn with_unread_reply(folder: &Path) -> (Ferryd, Client) {
    let ferryd = Ferryd::start(folder);
    let channel = Channel::from_shared(format!("http://{}", ferryd.address)).unwrap();
    let channel = channel.connect().await.unwrap();
    let asked = ask(Transport::Tcp, 64, LONG_REPLY as u64);
    let opened = SessionsClient::new(channel.clone()).open(asked).await.unwrap().into_inner();
    let mut client = Client::connect(&opened);
    client.send(&[7; 64]);
    let mut admin = AdminClient::new(channel);
    let late = Instant::now() + LONG;
    loop {
        let status = admin.status(v1::StatusRequest {}).await.unwrap().into_inner();
        if status.lanes.iter().any(|lane| lane.replies == 1) {
            return (ferryd, client);
        }
        assert!(Instant::now() < late, "not served");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_its_last_reply_whole_before_the_server_ends() {
    let folder = tempfile::tempdir().unwrap();
    let (mut ferryd, mut client) = with_unread_reply(folder.path()).await;
    ferryd.signal(Signal::TERM);
    // It reads only after a pause, while the server waits to end.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(ferryd.child.try_wait().unwrap().is_none(), "it ended with a reply of somebody's");
    let (status, payload) = client.reply();
    assert_eq!((status, payload.len()), (Status::Ok, LONG_REPLY));
    assert!(payload.iter().all(|&byte| byte == 7));
    assert_eq!(ferryd.wait().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_its_last_reply_does_not_keep_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let (mut ferryd, client) = with_unread_reply(folder.path()).await;
    ferryd.signal(Signal::TERM);
    assert_eq!(ferryd.wait().code(), Some(0));
    drop(client);
    let mut said = String::new();
    ferryd.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("cut_off=1"), "{said}");
}

/// What a process holds: descriptors, and mappings of memory that sessions share.
fn held(ferryd: &Ferryd) -> (usize, usize) {
    let proc = format!("/proc/{}", ferryd.child.id());
    let maps = std::fs::read_to_string(format!("{proc}/maps")).unwrap();
    let shared = maps.lines().filter(|line| line.contains("memfd:ferry")).count();
    (std::fs::read_dir(format!("{proc}/fd")).unwrap().count(), shared)
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_sessions_leave_no_descriptor_and_no_mapping() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.toml");
    std::fs::write(&config, "lease-seconds = 0.5\nlanes.shm = 1").unwrap();
    let mut command = command(folder.path(), "127.0.0.1:0");
    let ferryd = Ferryd::spawn(command.arg("--config").arg(&config));
    let url = format!("http://{}", ferryd.address);
    let mut sessions = SessionsClient::connect(url).await.unwrap();
    // What is made once is made before the count: threads of the runtime, the first connection.
    let warm = sessions.open(ask(Transport::Tcp, 64, 64)).await.unwrap().into_inner();
    drop(Client::connect(&warm));
    let close = v1::CloseSessionRequest { session: warm.session };
    sessions.close(close).await.unwrap();
    let before = held(&ferryd);
    let mut clients = Vec::new();
    for transport in (0..5).flat_map(|_| linked()) {
        let opened = sessions.open(ask(transport, 4096, 4096)).await.unwrap().into_inner();
        let mut client = Client::connect(&opened);
        assert_eq!(client.infer(&[1; 4096]).0, Status::Ok);
        clients.push(client);
    }
    let during = held(&ferryd);
    assert!(during.0 > before.0 && during.1 >= 5, "{before:?} {during:?}");
    // The clients hold their ends, as a client does that hangs, and send no heartbeat.
    until("all that is the server's is back", || {
        let now = held(&ferryd);
        now.1 == before.1 && now.0 < during.0
    })
    .await;
    drop(clients);
    until("the last descriptors are back", || held(&ferryd).0 <= before.0).await;
}

/// Rows of ended runs in the store that the server left behind.
async fn stored(folder: &Path) -> u64 {
    let sql = "SELECT count(*), 0 FROM request_rows JOIN runs ON runs.id = run_id \
               WHERE finished_unix_ns IS NOT NULL";
    counts(folder, sql).await.0
}

/// Runs in the store that a server left behind, and those of them that have ended.
pub(crate) async fn finished_runs(folder: &Path) -> (u64, u64) {
    counts(folder, "SELECT count(*), count(finished_unix_ns) FROM runs").await
}

async fn counts(folder: &Path, sql: &'static str) -> (u64, u64) {
    let url = format!("sqlite:{}", folder.join("f.db").display());
    let mut store = SqliteConnectOptions::from_str(&url).unwrap().connect().await.unwrap();
    let (a, b): (i64, i64) = sqlx::query_as(sql).fetch_one(&mut store).await.unwrap();
    store.close().await.unwrap();
    (a.try_into().unwrap(), b.try_into().unwrap())
}

#[test]
fn sigint_ends_it_too_and_nothing_else_is_on_stdout() {
    let folder = tempfile::tempdir().unwrap();
    let mut ferryd = Ferryd::start(folder.path());
    ferryd.signal(Signal::INT);
    assert_eq!(ferryd.wait().code(), Some(0));
    let mut rest = String::new();
    let mut out = BufReader::new(ferryd.child.stdout.take().unwrap());
    assert_eq!(out.read_line(&mut rest).unwrap(), 0, "{rest}");
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    let pid_free = !sockets.contains(&format!("ferry-{}", ferryd.child.id()));
    assert!(pid_free, "no socket is left");
}

/// As behind `ferryd 2>&1 | head`.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_any_more_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (reads, writes) = std::io::pipe().unwrap();
    drop(reads);
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferryd"));
    command.current_dir(folder.path()).args(["--listen", "127.0.0.1:0", "--store", "sqlite:f.db"]);
    let mut ferryd =
        Ferryd::spawn(command.args(["--log", "debug"]).stdout(Stdio::piped()).stderr(writes));
    let mut sessions = SessionsClient::connect(format!("http://{}", ferryd.address)).await.unwrap();
    let opened = sessions.open(ask(Transport::Tcp, 64, 64)).await.unwrap().into_inner();
    let (status, _) = Client::connect(&opened).infer(&[7; 64]);
    assert_eq!(status, Status::Ok);
    ferryd.signal(Signal::TERM);
    assert_eq!(ferryd.wait().code(), Some(0));
}

/// ONNX Runtime's official builds report to their maker, unless they find this when they are opened.
#[test]
fn libraries_are_told_not_to_report_unless_somebody_chose_otherwise() {
    for (chosen, expected) in [(None, "1"), (Some("0"), "0")] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = command(folder.path(), "127.0.0.1:0");
        command.env_remove("ORT_DISABLE_TELEMETRY");
        command.envs(chosen.map(|value| ("ORT_DISABLE_TELEMETRY", value)));
        let mut ferryd = Ferryd::spawn(&mut command);
        let environment = std::fs::read(format!("/proc/{}/environ", ferryd.child.id())).unwrap();
        let expected = format!("ORT_DISABLE_TELEMETRY={expected}");
        let mut variables = environment.split(|&byte| byte == 0);
        assert!(variables.any(|variable| variable == expected.as_bytes()), "{expected}");
        ferryd.signal(Signal::INT);
        assert_eq!(ferryd.wait().code(), Some(0));
    }
}

#[test]
fn a_port_in_use_is_named_with_the_fix() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = command(folder.path(), &address).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains(&address) && text.contains("--listen"), "{text}");
    assert!(output.stdout.is_empty());
}

#[test]
fn options_without_a_meaning_end_with_64() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.toml");
    std::fs::write(&config, "lisen = '127.0.0.1:0'").unwrap();
    for (args, hint) in [
        (vec!["--queue", "0"], "at least 1"),
        (vec!["--no-such-option"], "no-such-option"),
        (vec!["--config", config.to_str().unwrap()], "`listen`"),
        (vec!["--config", "missing.toml"], "missing.toml"),
        (vec!["--log", "a=b=c"], "--log"),
    ] {
        let output = command(folder.path(), "127.0.0.1:0").args(&args).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{args:?}: {text}");
        assert!(text.contains(hint), "{args:?}: {text}");
    }
}

#[test]
fn a_store_or_model_folder_that_is_not_there_ends_with_1_and_the_fix() {
    let folder = tempfile::tempdir().unwrap();
    for (args, hint) in [
        (["--store", "sqlite:none/f.db"], "--store"),
        (["--store", "postgres://x"], "sqlite:PATH"),
        (["--models", "none"], "--models none"),
        (
            ["--cuda-libraries", "none,other"],
            "--cuda-libraries: none: name a folder that is there: No such file",
        ),
        (["--cuda-libraries", "."], "libcudart.so.13"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferryd"));
        command.current_dir(folder.path()).args(["--listen", "127.0.0.1:0"]).args(args);
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {text}");
        assert!(text.contains(hint), "{args:?}: {text}");
    }
}
