//! Every request that was sent has its reply, in whatever way it is waited for.

use ferry_client::blocking::{Client, Session};
use ferry_client::{Error, Transport};
use ferry_conformance::transports::outside;

use crate::server::Server;

/// Sends `byte`; the request's number.
fn submit(session: &mut Session, byte: u8) -> u64 {
    let mut slot = session.slot().unwrap();
    slot.input_mut(0).unwrap().fill(byte);
    session.submit(slot).unwrap()
}

#[test]
fn a_request_that_is_waited_for_leaves_the_replies_of_earlier_ones() {
    let server = Server::start(&[], |_| {});
    let client = Client::connect(&server.url).unwrap();
    for transport in outside() {
        let builder = client.session("echo").transport(transport).slots(3);
        let builder = builder.shape("input", &[8]).shape("output", &[8]);
        let mut session = builder.open().unwrap();
        let sent = [submit(&mut session, 1), submit(&mut session, 2)];
        let mut slot = session.slot().unwrap();
        slot.input_mut(0).unwrap().fill(3);
        assert_eq!(session.infer(slot).unwrap().output(0).unwrap(), [3; 8], "{transport}");
        let mut replies = Vec::new();
        while let Some(reply) = session.next_reply() {
            let reply = reply.unwrap();
            replies.push((reply.request(), reply.output(0).unwrap()[0]));
        }
        replies.sort_unstable();
        assert_eq!(replies, [(sent[0], 1), (sent[1], 2)], "{transport}");
        session.close().unwrap();
    }
}

#[test]
fn a_slot_of_the_last_lease_is_refused_and_those_of_the_present_one_are_taken() {
    let server = Server::start(&[], |_| {});
    let client = Client::connect(&server.url).unwrap();
    let builder = client.session("echo").transport(Transport::Tcp).slots(2);
    let mut session = builder.shape("input", &[8]).shape("output", &[8]).open().unwrap();
    let old = session.slot().unwrap();
    session.resume().unwrap();
    assert!(matches!(session.submit(old), Err(Error::ForeignSlot)));
    let mut slot = session.slot().unwrap();
    slot.input_mut(0).unwrap().fill(5);
    assert_eq!(session.infer(slot).unwrap().output(0).unwrap(), [5; 8]);
}
