//! Servers that end and sessions that are taken away.

use std::time::{Duration, Instant};

use ferry_client::blocking::{Client, Session};
use ferry_client::{Error, Transport, v1};
use ferry_conformance::transports::{linked, outside};
use ferry_proto::v1::admin_client::AdminClient;
use rustix::process::Signal;

use crate::server::Server;

fn echo(client: &Client, transport: Transport) -> Session {
    let session = client.session("echo").transport(transport).slots(1);
    session.shape("input", &[64]).shape("output", &[64]).open().unwrap()
}

fn once(session: &mut Session, value: u8) -> Result<(), Error> {
    let mut slot = session.slot()?;
    slot.input_mut(0)?.fill(value);
    let reply = session.infer(slot)?;
    assert_eq!(reply.output(0)?, [value; 64]);
    Ok(())
}

#[test]
fn a_session_that_was_evicted_is_opened_again_by_the_next_slot() {
    let server = Server::start(&[], |_| {});
    let client = Client::connect(&server.url).unwrap();
    for transport in outside() {
        let mut session = echo(&client, transport);
        once(&mut session, 1).unwrap();
        let id = session.agreed().session().to_string();
        assert!(server.ferry(&["sessions", "evict", &id]).status.success());
        let deadline = Instant::now() + Duration::from_secs(30);
        // The first request may find out that the session has ended; the next one must work.
        while once(&mut session, 2).is_err() {
            assert!(Instant::now() < deadline, "{transport} never came back");
        }
        assert_ne!(session.agreed().session().to_string(), id, "{transport}: a new session");
    }
}

#[test]
fn a_killed_server_is_noticed_and_its_successor_found() {
    for transport in outside() {
        let mut server = Server::start(&[], |_| {});
        let address = server.url.trim_start_matches("http://").to_owned();
        let client = Client::connect(&server.url).unwrap();
        let mut session = echo(&client, transport);
        once(&mut session, 1).unwrap();
        server.signal(Signal::KILL);
        server.wait();
        assert!(once(&mut session, 2).is_err(), "{transport}: nobody can have answered");
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("models")).unwrap();
        let _successor = Server::on(&address, &[], folder);
        let deadline = Instant::now() + Duration::from_secs(30);
        while let Err(error) = once(&mut session, 3) {
            assert!(Instant::now() < deadline, "{transport}: {error}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_server_killed_mid_request_is_told_to_whoever_waits() {
    for transport in outside() {
        let mut server = Server::start(&[], |_| {});
        let client = Client::connect(&server.url).unwrap();
        let mut session = echo(&client, transport);
        once(&mut session, 1).unwrap();
        // Stopped, it answers nothing: the request is in flight when it dies.
        server.halt();
        let mut slot = session.slot().unwrap();
        slot.input_mut(0).unwrap().fill(2);
        session.submit(slot).unwrap();
        server.signal(Signal::KILL);
        server.wait();
        let told = session.next_reply().expect("the request ends");
        assert!(matches!(told, Err(Error::LinkLost(_))), "{transport}: {told:?}");
        assert!(session.next_reply().is_none(), "{transport}: once");
    }
}

#[test]
fn a_drain_answers_what_was_accepted_and_ends_the_run() {
    let mut server = Server::start(&[], |_| {});
    let client = Client::connect(&server.url).unwrap();
    let mut session = echo(&client, Transport::Shm);
    once(&mut session, 1).unwrap();
    let mut answered = 1;
    server.signal(Signal::TERM);
    let refused = loop {
        match once(&mut session, 2) {
            Ok(()) => answered += 1,
            Err(error) => break error,
        }
    };
    // Told, or cut off after the drain: never left waiting.
    let is_told = matches!(refused, Error::Request { .. } | Error::LinkLost(_));
    assert!(is_told || matches!(refused, Error::Resume { .. }), "{refused:?}");
    assert!(answered > 0);
    drop(session);
    assert_eq!(server.wait(), Some(0), "an asked-for end");
    let sql =
        "SELECT count(*) AS n FROM runs WHERE kind = 'serve' AND finished_unix_ns IS NOT NULL";
    assert_eq!(server.json(&["sql", "--store", &server.store(), sql])[0]["n"], 1);
}

/// What failed first is told, also where nobody is left to end the run with.
#[test]
fn a_bench_whose_server_is_killed_says_how_its_link_ended() {
    let mut server = Server::start(&[], |_| {});
    let bench = std::process::Command::new(crate::server::ferry_path())
        .args(["bench", "--server", &server.url, "--model", "echo", "--transport", "tcp"])
        .args(["--requests", "100000000", "--rounds", "1"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while server.json(&["sessions"]).is_empty() {
        assert!(Instant::now() < deadline, "the bench opened no session");
    }
    // Requests are under way then, of the warm-up or of a round.
    std::thread::sleep(Duration::from_millis(500));
    server.signal(Signal::KILL);
    server.wait();
    let ended = bench.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(5), "{told}");
    assert!(told.contains("requests failed; the first: ") && told.contains("the link"), "{told}");
}

#[test]
fn clients_that_vanish_leave_nothing_behind() {
    let server = Server::start(&["--lease-seconds", "1"], |_| {});
    let files = || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
        // One may be closed between the two looks.
        open.filter_map(|file| std::fs::read_link(file.unwrap().path()).ok()).collect::<Vec<_>>()
    };
    let client = Client::connect(&server.url).unwrap();
    // The server has taken its connection once a call is answered.
    let mut admin = AdminClient::new(client.control().channel());
    client.run(admin.status(v1::StatusRequest {})).unwrap();
    let before = files();
    for transport in outside() {
        let mut bench = std::process::Command::new(crate::server::ferry_path())
            .args(["bench", "--server", &server.url, "--model", "echo", "--clients", "4"])
            .args(["--requests", "1000000", "--transport", transport.name()])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while server.json(&["sessions"]).len() < 4 {
            assert!(Instant::now() < deadline, "{transport}: no sessions");
        }
        bench.kill().unwrap();
        bench.wait().unwrap();
        while !server.json(&["sessions"]).is_empty() || files().len() > before.len() {
            assert!(Instant::now() < deadline, "{transport}: {:?}, were {before:?}", files());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    drop(client);
}

#[test]
fn a_restart_of_the_control_plane_under_load_breaks_no_request_and_no_session() {
    let server = Server::start(&["--lease-seconds", "2"], |_| {});
    let client = Client::connect(&server.url).unwrap();
    // grpc carries its requests over what is restarted.
    for transport in linked() {
        let mut session = echo(&client, transport);
        let (id, start) = (session.agreed().session(), Instant::now());
        let mut restarts = 0;
        // Longer than a lease: heartbeats must have found the new one.
        while start.elapsed() < Duration::from_secs(5) {
            once(&mut session, 7).unwrap_or_else(|error| panic!("{transport}: {error}"));
            if start.elapsed() > Duration::from_millis(400 * (restarts + 1)) && restarts < 3 {
                server.signal(Signal::HUP);
                restarts += 1;
            }
        }
        assert_eq!(restarts, 3);
        assert_eq!(session.agreed().session(), id);
        assert_eq!(session.agreed().generation(), 1, "{transport}: not even resumed");
        let sessions = server.json(&["sessions"]);
        assert!(!sessions.is_empty(), "the new control plane knows the session");
        session.close().unwrap();
    }
}
