//! The same echo over every link.

use ferry_conformance::transports::linked;
use ferry_core::{Status, Transport};
use ferry_proto::v1;

use crate::common::{Client, Running, ask, echoed, link};

#[tokio::test(flavor = "multi_thread")]
async fn every_link_carries_requests_to_the_model_and_back() {
    let server = Running::start(|_| {}).await;
    for transport in linked() {
        let opened = server.open(ask(transport, 5000, 7000)).await.unwrap();
        assert_eq!(opened.transport, transport.name());
        assert_eq!((opened.model.as_str(), opened.version), ("echo", 1));
        assert_eq!(opened.layout.unwrap().slots, 2);
        assert_eq!(opened.signature.as_ref().unwrap().outputs[0].bytes, 7000);
        let mut client = Client::connect(&opened);
        for round in 0..50_u8 {
            let input: Vec<u8> = (0..=250).cycle().map(|i: u8| i ^ round).take(5000).collect();
            let (status, output) = client.infer(&input);
            assert_eq!(status, Status::Ok, "{transport}");
            assert!(output == echoed(&input, 7000), "{transport}, round {round}");
        }
    }
    let status = server.state.in_flight();
    assert_eq!(status, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_requests_are_in_flight_up_to_the_slots() {
    let server = Running::start(|_| {}).await;
    for transport in linked() {
        let asked = v1::OpenSessionRequest { slots: 8, ..ask(transport, 64, 64) };
        let mut client = server.client(asked).await;
        for i in 0..8_u8 {
            client.send(&[i; 64]);
        }
        assert!(client.table.acquire().is_none(), "all slots are in flight");
        let mut seen: Vec<u8> = (0..8).map(|_| client.reply().1[0]).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..8).collect::<Vec<u8>>());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_says_what_it_chose_and_why() {
    let server = Running::start(|_| {}).await;
    let mut asked = ask(Transport::Shm, 1, 1);
    asked.transport = String::new();
    let here = server.open(asked.clone()).await.unwrap();
    assert_eq!(here.transport, "shm");
    assert!(here.transport_reason.contains("share a host"), "{}", here.transport_reason);
    asked.host_id = "elsewhere".into();
    let there = server.open(asked.clone()).await.unwrap();
    assert_eq!(there.transport, "tcp");
    assert!(there.transport_reason.contains("share no host"), "{}", there.transport_reason);
    asked.has_rdma = true;
    let alone = server.open(asked).await.unwrap();
    assert_eq!(alone.transport, "tcp", "one end with a device is not enough");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_token_joins_no_session_and_is_counted() {
    let server = Running::start(|_| {}).await;
    for (forged, transport) in linked().enumerate() {
        let opened = server.open(ask(transport, 64, 64)).await.unwrap();
        let error = link(&opened, ferry_core::Token::new([9; 32])).unwrap_err();
        assert!(!error.is_empty());
        let total = || server.state.refusals.total();
        crate::common::until("the refusal is counted", || total() > forged as u64).await;
        let mut client = Client::connect(&opened);
        assert_eq!(client.infer(&[3; 64]).0, Status::Ok, "the owner is let in all the same");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_of_the_wrong_length_is_told_and_the_session_goes_on() {
    let server = Running::start(|_| {}).await;
    for transport in linked() {
        let mut client = server.client(ask(transport, 64, 64)).await;
        let (status, text) = client.infer(&[1; 63]);
        assert_eq!(status, Status::BadRequest);
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("63") && text.contains("64"), "{text}");
        assert_eq!(client.infer(&[1; 64]).0, Status::Ok);
    }
    server.stop().await;
}
