//! `Sessions.Attach`: who may tell of its end, for which session, and what is counted. What a link
//! makes of it needs a device: see the tests of `ferry-rdma`.

use ferry_conformance::transports::linked;
use ferry_core::{Attachment, Gid, MemoryKey, QueuePair, Retry, Status, Transport};
use ferry_proto::v1;
use tonic::Code;

use crate::common::{Client, Running, ask};

fn attachment() -> Attachment {
    let queue_pair = QueuePair {
        number: 17,
        first_psn: 4711,
        gids: vec![Gid([1; 16])],
        lid: 0,
        path_mtu_bytes: 1024,
        rd_atomic_max: 1,
        dest_rd_atomic_max: 1,
        retry: Retry::default(),
    };
    let key = MemoryKey { address: 0x7000_0000_0000, remote_key: 9, bytes: 1 << 20 };
    Attachment { queue_pair, key, server_gid: Gid([2; 16]) }
}

fn request(session: &v1::SessionRef) -> v1::AttachSessionRequest {
    v1::AttachSessionRequest::new(session.clone(), &attachment())
}

impl Running {
    async fn refused(&self, request: v1::AttachSessionRequest) -> tonic::Status {
        self.sessions().attach(request).await.unwrap_err()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_owns_the_live_lease_can_attach() {
    let server = Running::start(|_| {}).await;
    let opened = server.open(ask(Transport::Tcp, 64, 64)).await.unwrap();
    let good = opened.session.unwrap();
    let unknown = v1::SessionRef { session_id: 5, ..good.clone() };
    let mut forged = good.clone();
    forged.token = vec![0; 32].into();
    let later = v1::SessionRef { generation: 2, ..good.clone() };
    let mut answers = Vec::new();
    for bad in [unknown, forged, later] {
        answers.push(server.refused(request(&bad)).await);
    }
    let resume = v1::ResumeSessionRequest { session: Some(good.clone()) };
    server.sessions().resume(resume).await.unwrap();
    answers.push(server.refused(request(&good)).await);
    for answer in &answers {
        assert_eq!(answer.code(), Code::NotFound);
        assert_eq!(answer.message(), answers[0].message(), "no answer tells what was wrong");
    }
    assert_eq!(server.state.refusals.total(), 4);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_other_transports_are_not_attached_and_go_on() {
    let server = Running::start(|_| {}).await;
    for transport in linked() {
        let opened = server.open(ask(transport, 64, 64)).await.unwrap();
        let mut client = Client::connect(&opened);
        let refused = server.refused(request(&client.reference)).await;
        assert_eq!(refused.code(), Code::InvalidArgument);
        let text = refused.message();
        assert!(
            text.contains(transport.name()) && text.contains("only sessions on rdma"),
            "{text}"
        );
        assert_eq!(client.infer(&[1; 64]).0, Status::Ok, "{transport}");
    }
    let inline = server.open(ask(Transport::Grpc, 64, 64)).await.unwrap();
    let refused = server.refused(request(&inline.session.unwrap())).await;
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(server.state.refusals.total(), linked().count() as u64 + 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_that_cannot_be_are_refused_by_field_and_counted() {
    type Spoil = fn(&mut v1::AttachSessionRequest);
    fn pair(request: &mut v1::AttachSessionRequest) -> &mut v1::QueuePair {
        request.endpoint.as_mut().unwrap().queue_pair.as_mut().unwrap()
    }
    let spoils: [(&str, Spoil); 9] = [
        ("session", |it| it.session = None),
        ("endpoint", |it| it.endpoint = None),
        ("endpoint.queue_pair", |it| {
            it.endpoint.as_mut().unwrap().queue_pair = None;
        }),
        ("key", |it| it.key = None),
        ("memory_key", |it| it.key.as_mut().unwrap().bytes = u64::MAX),
        ("server_gid", |it| it.server_gid = vec![0; 4].into()),
        ("qp_number", |it| pair(it).qp_number = 1 << 24),
        ("gids", |it| pair(it).gids = vec![vec![0; 16].into(); 9]),
        ("path_mtu_bytes", |it| pair(it).path_mtu_bytes = 9000),
    ];
    let server = Running::start(|_| {}).await;
    let opened = server.open(ask(Transport::Tcp, 64, 64)).await.unwrap();
    let session = opened.session.unwrap();
    for (field, spoil) in spoils {
        let mut bad = request(&session);
        spoil(&mut bad);
        let refused = server.refused(bad).await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{field}");
        assert!(refused.message().contains(field), "{field}: {}", refused.message());
    }
    // All but the one that named no session.
    assert_eq!(server.state.refusals.total(), 8);
    server.stop().await;
}
