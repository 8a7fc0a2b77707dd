//! Tenants and what they may hold.

use ferry_control::tenants::{Quota, TenantConfig};
use ferry_core::{Status, Transport};
use ferry_proto::v1;
use ferry_proto::v1::admin_client::AdminClient;
use tonic::{Code, Request};
use tonic_types::StatusExt;

use crate::common::{Running, ask};

#[tokio::test(flavor = "multi_thread")]
async fn the_refusal_names_the_quota_and_what_ends_makes_room() {
    let quota = Quota { sessions: 3, slots: 4, bytes: 300_000, in_flight: 100 };
    let server = Running::start(|config| config.quota = quota).await;
    let slots = v1::OpenSessionRequest { slots: 5, ..ask(Transport::Tcp, 64, 64) };
    let bytes = ask(Transport::Tcp, 200_000, 64);
    for (asked, name, value) in [(slots, "slots", "4"), (bytes, "bytes", "300000")] {
        let status = server.open(asked).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        let failure = status.get_details_quota_failure().unwrap();
        assert_eq!(failure.violations[0].subject, format!("default/{name}"));
        assert!(failure.violations[0].description.contains(value), "{failure:?}");
    }
    let one = || v1::OpenSessionRequest { slots: 1, ..ask(Transport::Tcp, 64, 64) };
    let first = server.open(one()).await.unwrap();
    server.open(one()).await.unwrap();
    server.open(one()).await.unwrap();
    let fourth = server.open(one()).await.unwrap_err();
    assert!(fourth.message().contains("quota sessions is 3"), "{}", fourth.message());
    let close = v1::CloseSessionRequest { session: first.session };
    server.sessions().close(close).await.unwrap();
    server.open(one()).await.unwrap();
    assert!(server.state.refusals.total() >= 3);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_above_the_quota_in_flight_are_told_and_not_lost() {
    let quota = Quota { in_flight: 0, ..Quota::default() };
    let server = Running::start(|config| config.quota = quota).await;
    let mut client = server.client(ask(Transport::Tcp, 64, 64)).await;
    let (status, text) = client.infer(&[1; 64]);
    assert_eq!(status, Status::Overloaded);
    assert!(String::from_utf8(text).unwrap().contains("quota in-flight is 0"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_told_apart_by_their_keys() {
    let tenant = |name: &str, sessions| TenantConfig {
        name: name.into(),
        key: format!("key of {name}"),
        quota: Quota { sessions, ..Quota::default() },
        rate: None,
    };
    let server = Running::start(|config| {
        config.tenants = vec![tenant("a", 1), tenant("b", 0)];
        config.operator_key = Some("operator".into());
    })
    .await;
    let open = |key: Option<&'static str>| {
        let mut request = Request::new(ask(Transport::Tcp, 64, 64));
        if let Some(key) = key {
            request.metadata_mut().insert("ferry-key", key.parse().unwrap());
        }
        let mut sessions = server.sessions();
        async move { sessions.open(request).await.map(drop) }
    };
    assert_eq!(open(None).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(open(Some("key of c")).await.unwrap_err().code(), Code::Unauthenticated);
    open(Some("key of a")).await.unwrap();
    let second = open(Some("key of a")).await.unwrap_err();
    assert!(second.message().contains("tenant a"), "{}", second.message());
    assert_eq!(open(Some("key of b")).await.unwrap_err().code(), Code::ResourceExhausted);

    let mut admin = AdminClient::new(server.channel.clone());
    let mut status = Request::new(v1::StatusRequest {});
    status.metadata_mut().insert("ferry-key", "key of a".parse().unwrap());
    assert_eq!(admin.status(status).await.unwrap_err().code(), Code::PermissionDenied);
    let mut status = Request::new(v1::StatusRequest {});
    status.metadata_mut().insert("ferry-key", "operator".parse().unwrap());
    assert_eq!(admin.status(status).await.unwrap().into_inner().sessions, 1);
    server.stop().await;
}
