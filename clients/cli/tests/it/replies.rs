//! Every request that was sent has its reply, in whatever way it is waited for.

use std::time::{Duration, Instant};

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

#[test]
fn answers_come_with_their_numbers_and_whoever_waits_can_be_told_to_stop() {
    let server = Server::start(&[], |_| {});
    let client = Client::connect(&server.url).unwrap();
    let far = || Instant::now() + Duration::from_secs(60);
    for transport in outside() {
        let builder = client.session("echo").transport(transport).slots(2);
        let builder = builder.shape("input", &[8]).shape("output", &[8]);
        let mut session = builder.open().unwrap();
        let nothing = session.next_until(far(), || false);
        assert!(matches!(nothing, Err(Error::LinkLost(_))), "{transport}: nothing is in flight");

        let mut sent = vec![(submit(&mut session, 1), 1), (submit(&mut session, 2), 2)];
        assert!(session.slot_at_once().is_none(), "{transport}: both are in flight");
        // It is asked after a look that found nothing; one look may have found both.
        let mut held = Vec::new();
        while let Some((request, reply)) = session.next_until(far(), || true).unwrap() {
            held.push((request, reply.unwrap()));
            if held.len() == 2 {
                break;
            }
        }
        while held.len() < 2 {
            let (request, reply) = session.next_until(far(), || false).unwrap().unwrap();
            held.push((request, reply.unwrap()));
        }
        for (request, mut reply) in held {
            let at = sent.iter().position(|it| it.0 == request).unwrap();
            let byte = sent.swap_remove(at).1;
            assert_eq!((reply.request(), reply.output(0).unwrap()), (request, &[byte; 8][..]));
            reply.output_mut(0).unwrap().fill(9);
            assert_eq!(reply.output(0).unwrap(), [9; 8], "{transport}");
        }
        assert!(session.slot_at_once().is_some(), "{transport}");
        session.close().unwrap();
    }
}
