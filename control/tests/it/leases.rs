//! Heartbeat, expiry, resume, close, eviction, drain.

use std::time::Duration;

use ferry_conformance::transports::linked;
use ferry_core::{Status, Transport};
use ferry_proto::v1;
use ferry_proto::v1::admin_client::AdminClient;
use tonic::Code;

use crate::common::{Client, Running, ask, link, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_session_without_a_heartbeat_ends_and_gives_everything_back() {
    let server = Running::start(|config| config.lease = Duration::from_secs(2)).await;
    let mut clients = Vec::new();
    for transport in linked().chain([Transport::Grpc]) {
        let opened = server.open(ask(transport, 4096, 4096)).await.unwrap();
        if transport != Transport::Grpc {
            clients.push(Client::connect(&opened));
        }
    }
    assert_eq!(server.state.sessions.count(), clients.len() + 1);
    until("all leases are over", || server.state.sessions.count() == 0).await;
    for client in &mut clients {
        // Told by the link; the slot that it sends is lost with it.
        until("the client learns of it", || {
            client.driver.poll();
            client.driver.state() != &ferry_transport::DriverState::Live
        })
        .await;
    }
    let lanes = &server.state.lanes.0;
    assert!(lanes.iter().all(|lane| lane.sessions.load(std::sync::atomic::Ordering::SeqCst) == 0));
    drop(clients);
    let identity = server.state.tenants.identify(None);
    let tenant = identity.tenant().unwrap();
    let all = tenant.quota();
    assert!(tenant.reserve(all.slots, all.bytes).is_ok(), "the whole quota is free again");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_of_an_expired_session_is_good_for_nothing() {
    let server = Running::start(|config| config.lease = Duration::from_millis(200)).await;
    let mut all = Vec::new();
    for transport in linked() {
        all.push(server.open(ask(transport, 64, 64)).await.unwrap());
    }
    until("all leases are over", || server.state.sessions.count() == 0).await;
    for opened in all {
        let (_, token, _) = opened.session.as_ref().unwrap().parts().unwrap();
        tokio::task::block_in_place(|| link(&opened, token)).expect_err("its link is closed");
        let resume = v1::ResumeSessionRequest { session: opened.session };
        let refused = server.sessions().resume(resume).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        assert!(refused.message().contains("open another"), "{}", refused.message());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_keep_a_session_and_say_which_are_gone() {
    let server = Running::start(|config| config.lease = Duration::from_millis(1500)).await;
    let mut client = server.client(ask(Transport::Tcp, 64, 64)).await;
    let unknown = v1::SessionRef { session_id: 7, ..client.reference.clone() };
    let mut forged = client.reference.clone();
    forged.token = vec![1; 32].into();
    for _ in 0..10 {
        let sessions = vec![client.reference.clone(), unknown.clone(), forged.clone()];
        let request = v1::HeartbeatRequest { sessions };
        let answer = server.sessions().heartbeat(request).await.unwrap().into_inner();
        assert_eq!(answer.gone, [7, forged.session_id]);
        assert!(!answer.draining);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(client.infer(&[1; 64]).0, Status::Ok, "kept for two leases");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resume_begins_a_new_lease_and_fences_the_old_one() {
    let server = Running::start(|_| {}).await;
    for transport in linked() {
        let mut old = server.client(ask(transport, 64, 64)).await;
        assert_eq!(old.infer(&[1; 64]).0, Status::Ok);
        let resume = v1::ResumeSessionRequest { session: Some(old.reference.clone()) };
        let resumed = server.sessions().resume(resume.clone()).await.unwrap().into_inner();
        let reference = resumed.session.clone().unwrap();
        assert_eq!(reference.session_id, old.reference.session_id);
        assert_eq!(reference.generation, 2);
        let mut new = Client::connect(&resumed);
        assert_eq!(new.infer(&[2; 64]), (Status::Ok, vec![2; 64]));
        until("the old link is over", || {
            old.driver.poll();
            old.driver.state() != &ferry_transport::DriverState::Live
        })
        .await;
        let again = server.sessions().resume(resume).await.unwrap_err();
        assert_eq!(again.code(), Code::NotFound, "the old generation is no proof");
        assert_eq!(new.infer(&[3; 64]).1, vec![3; 64], "and has changed nothing");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn close_and_evict_end_a_session_at_once() {
    let server = Running::start(|_| {}).await;
    let mut admin = AdminClient::new(server.channel.clone());
    for transport in linked() {
        let client = server.client(ask(transport, 64, 64)).await;
        let close = v1::CloseSessionRequest { session: Some(client.reference.clone()) };
        server.sessions().close(close.clone()).await.unwrap();
        let twice = server.sessions().close(close).await.unwrap_err();
        assert_eq!(twice.code(), Code::NotFound);

        let mut other = server.client(ask(transport, 64, 64)).await;
        let session_id = other.reference.session_id;
        let listed = admin.list_sessions(v1::ListSessionsRequest {}).await.unwrap().into_inner();
        assert_eq!(listed.sessions.len(), 1);
        assert_eq!((listed.sessions[0].session_id, listed.sessions[0].slots), (session_id, 2));
        admin.evict_session(v1::EvictSessionRequest { session_id }).await.unwrap();
        assert_eq!(server.state.sessions.count(), 0);
        until("its client learns of it", || {
            other.driver.poll();
            other.driver.state() != &ferry_transport::DriverState::Live
        })
        .await;
        let none = admin.evict_session(v1::EvictSessionRequest { session_id }).await.unwrap_err();
        assert_eq!(none.code(), Code::NotFound);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_answers_everything_that_was_accepted_and_refuses_the_rest() {
    let server = Running::start(|_| {}).await;
    let mut threads = Vec::new();
    for transport in linked() {
        let asked = v1::OpenSessionRequest { slots: 4, ..ask(transport, 4096, 4096) };
        let opened = server.open(asked).await.unwrap();
        threads.push(tokio::task::spawn_blocking(move || load(&opened)));
    }
    until("the load runs", || {
        server.state.sessions.all().iter().all(|session| session.meter.requests() > 100)
    })
    .await;
    let mut admin = AdminClient::new(server.channel.clone());
    let drained = admin.drain(v1::DrainRequest::default()).await.unwrap().into_inner();
    assert!(drained.drained, "{drained:?}");
    for thread in threads {
        let (served, turned_away) = thread.await.unwrap();
        assert!(served > 100 && turned_away > 0, "{served} {turned_away}");
    }
    let refused = server.open(ask(Transport::Tcp, 64, 64)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    let beat = v1::HeartbeatRequest::default();
    assert!(server.sessions().heartbeat(beat).await.unwrap().into_inner().draining);
    server.stop().await;
}

/// Closed loop until the server says that it drains; every request has to be answered.
fn load(opened: &v1::OpenSessionResponse) -> (u64, u64) {
    let mut client = Client::connect(opened);
    let (mut sent, mut served, mut turned_away) = (0, 0, 0);
    loop {
        while turned_away == 0 && sent - served < 4 {
            client.send(&[5; 4096]);
            sent += 1;
        }
        if served + turned_away == sent {
            return (served, turned_away);
        }
        match client.reply().0 {
            Status::Ok => served += 1,
            Status::Draining => turned_away += 1,
            other => panic!("{other}"),
        }
    }
}
