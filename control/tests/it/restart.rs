//! The control plane is restarted; sessions do not notice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ferry_conformance::transports::linked;
use ferry_core::{Status, Transport};
use ferry_proto::v1;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{Client, LONG, Running, ask, until};

/// Restarts the control plane, and waits until the old one is gone.
async fn restart(server: &Running) {
    let mut connection = TcpStream::connect(server.address).await.unwrap();
    // Said by HTTP/2 at first; an answer means that the connection was taken.
    connection.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    connection.read_u8().await.unwrap();
    // Far below a whole one, so that the time of the next look does not matter.
    for session in server.state.sessions.all() {
        session.keep(Duration::from_secs(60));
    }
    let before = server.state.sessions.all().iter().map(|it| it.lease_left()).min().unwrap();
    server.state.restart.notify_one();
    // Nobody heartbeats here: only a restart gives a lease more time.
    until("the leases have their grace", || {
        server.state.sessions.all().iter().all(|session| session.lease_left() > before)
    })
    .await;
    let mut rest = Vec::new();
    let cut = tokio::time::timeout(LONG, connection.read_to_end(&mut rest)).await;
    drop(cut.expect("its connections are cut"));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_on_while_the_control_plane_is_restarted_and_heartbeats_come_back() {
    let server = Running::start(|config| config.lease = Duration::from_secs(600)).await;
    let (mut load, mut references) = (Vec::new(), Vec::new());
    static ENOUGH: AtomicBool = AtomicBool::new(false);
    for transport in linked() {
        let opened = server.open(ask(transport, 4096, 4096)).await.unwrap();
        references.push(opened.session.clone().unwrap());
        load.push(tokio::task::spawn_blocking(move || {
            let mut client = Client::connect(&opened);
            let mut answered = 0_u64;
            while !ENOUGH.load(Ordering::Relaxed) {
                assert_eq!(client.infer(&[7; 4096]).0, Status::Ok, "{transport}");
                answered += 1;
            }
            answered
        }));
    }
    let served = || server.state.sessions.all().iter().map(|it| it.meter.requests()).min();
    for round in 1..=3_u64 {
        until("every session is served", || served() > Some(round * 50)).await;
        restart(&server).await;
        let after = served().unwrap();
        until("every session is still served", || served() > Some(after + 20)).await;
    }
    ENOUGH.store(true, Ordering::Relaxed);
    for answered in load {
        assert!(answered.await.unwrap() > 150);
    }
    // The channel of before finds the new control plane; the sessions are the same leases.
    let mut beat = Err(tonic::Status::unknown("not asked"));
    let request = || v1::HeartbeatRequest { sessions: references.clone() };
    for _attempt in 0..10 {
        beat = server.sessions().heartbeat(request()).await;
        if beat.is_ok() {
            break;
        }
    }
    assert!(beat.unwrap().into_inner().gone.is_empty(), "all are known, in the same generation");
    let open = server.open(ask(Transport::Tcp, 64, 64)).await;
    open.expect("new sessions are taken");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_gives_every_lease_a_whole_one() {
    let server = Running::start(|config| config.lease = Duration::from_secs(600)).await;
    server.open(ask(Transport::Tcp, 64, 64)).await.unwrap();
    server.open(ask(Transport::Grpc, 64, 64)).await.unwrap();
    for session in server.state.sessions.all() {
        session.keep(Duration::from_secs(60));
    }
    restart(&server).await;
    for session in server.state.sessions.all() {
        assert!(session.lease_left() > Duration::from_secs(120));
    }
    server.stop().await;
}
