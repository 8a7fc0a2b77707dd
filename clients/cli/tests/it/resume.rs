//! A link that breaks under a live session: the session is taken up again, and serves on.

use std::time::{Duration, Instant};

use ferry_client::{Error, LinkError, Reply, Transport, WaitPolicy, blocking};
use ferry_core::error_text;
use tokio::runtime::Runtime;

use crate::between::{Between, REFUSAL};
use crate::server::Server;

/// A watchdog, and no more.
pub(crate) const LONG: Duration = Duration::from_secs(30);

const SLOTS: u32 = 4;

/// How often a link is cut under one session.
const CUTS: u32 = 3;

fn blocking_session(client: &blocking::Client, transport: Transport) -> blocking::Session {
    waiting_session(client, transport, WaitPolicy::default())
}

fn waiting_session(
    client: &blocking::Client,
    transport: Transport,
    wait: WaitPolicy,
) -> blocking::Session {
    let asked = client.session("echo").transport(transport).wait(wait);
    let asked = asked.slots(SLOTS).record(false);
    asked.shape("input", &[64]).shape("output", &[64]).timeout(LONG).open().unwrap()
}

fn filled(session: &mut blocking::Session, value: u8) -> Result<ferry_client::Slot, Error> {
    let mut slot = session.slot()?;
    slot.input_mut(0)?.fill(value);
    Ok(slot)
}

fn echoes(reply: &Reply, value: u8) {
    assert_eq!(reply.output(0).unwrap(), [value; 64]);
}

#[test]
fn a_blocking_session_whose_link_is_cut_in_flight_serves_the_next_request_in_its_next_lease() {
    let server = Server::start(&[], |_| {});
    let (adaptive, block) = (WaitPolicy::Adaptive, WaitPolicy::Block);
    for (transport, wait) in
        [(Transport::Tcp, adaptive), (Transport::Zmq, adaptive), (Transport::Zmq, block)]
    {
        let between = Between::new(&server.url);
        let client = blocking::Client::connect(&between.url).unwrap();
        let mut session = waiting_session(&client, transport, wait);
        let id = session.agreed().session();
        for generation in 1..=CUTS {
            assert_eq!(session.agreed().generation(), generation, "{transport}");
            let slot = filled(&mut session, 1).unwrap();
            echoes(&session.infer(slot).unwrap(), 1);
            between.mute();
            for _ in 0..SLOTS {
                let slot = filled(&mut session, 2).unwrap();
                session.submit(slot).unwrap();
            }
            between.cut();
            for _ in 0..SLOTS {
                let told = session.next_reply().expect("each request in flight ends");
                assert!(matches!(told, Err(Error::LinkLost(_))), "{transport}: {told:?}");
            }
            assert!(session.next_reply().is_none(), "and ends once");
            let slot = filled(&mut session, 3).unwrap();
            echoes(&session.infer(slot).unwrap(), 3);
        }
        assert_eq!(session.agreed().session(), id, "{transport}: taken up, not opened anew");
        assert_eq!(session.agreed().generation(), CUTS + 1);
        session.close().unwrap();
    }
}

#[test]
fn a_blocking_session_that_was_cut_while_it_rested_loses_no_request() {
    let server = Server::start(&[], |_| {});
    let between = Between::new(&server.url);
    let client = blocking::Client::connect(&between.url).unwrap();
    let mut session = blocking_session(&client, Transport::Tcp);
    for generation in 2..2 + CUTS {
        let slot = filled(&mut session, 1).unwrap();
        echoes(&session.infer(slot).unwrap(), 1);
        between.cut_off();
        // A rest: a busy session does not look at its link before each slot.
        std::thread::sleep(Duration::from_millis(5));
        let slot = filled(&mut session, 2).unwrap();
        echoes(&session.infer(slot).unwrap(), 2);
        assert_eq!(session.agreed().generation(), generation);
    }
}

#[test]
fn an_async_session_whose_link_is_cut_in_flight_serves_all_its_tasks_in_its_next_lease() {
    let server = Server::start(&[], |_| {});
    let runtime = Runtime::new().unwrap();
    for transport in [Transport::Tcp, Transport::Zmq] {
        let between = Between::new(&server.url);
        runtime.block_on(cut_under_tasks(&between, transport));
    }
}

async fn cut_under_tasks(between: &Between, transport: Transport) {
    let client = ferry_client::Client::connect(&between.url).await.unwrap();
    let asked = client.session("echo").transport(transport).slots(SLOTS).record(false);
    let asked = asked.shape("input", &[64]).shape("output", &[64]).timeout(LONG);
    let session = asked.open().await.unwrap();
    let id = session.agreed().session();
    for generation in 1..=CUTS {
        assert_eq!(session.agreed().generation(), generation, "{transport}");
        between.mute();
        let mut tasks = Vec::new();
        for value in 0..u8::try_from(SLOTS).unwrap() {
            let session = session.clone();
            let mut slot = session.slot().await.unwrap();
            slot.input_mut(0).unwrap().fill(value);
            tasks.push(tokio::spawn(async move {
                let told = session.infer(slot).await;
                // The second is for whoever came only after another task had resumed.
                let is_told = matches!(told, Err(Error::LinkLost(_) | Error::ForeignSlot));
                assert!(is_told, "{told:?}");
                // The very next one, of each task, whoever of them resumes.
                let mut slot = session.slot().await.unwrap();
                slot.input_mut(0).unwrap().fill(value);
                echoes(&session.infer(slot).await.unwrap(), value);
            }));
        }
        between.cut();
        let start = Instant::now();
        for task in tasks {
            task.await.unwrap();
        }
        assert!(start.elapsed() < LONG, "{transport}: nobody waited for a time limit");
    }
    assert_eq!(session.agreed().session(), id, "{transport}: taken up, not opened anew");
    assert_eq!(session.agreed().generation(), CUTS + 1);
    session.close().await.unwrap();
}

/// The link's end comes first, then why nothing took its place; how the link ended.
fn tells_both(error: Option<Error>) -> LinkError {
    let Some(error @ Error::Resume { .. }) = error else { panic!("{error:?}") };
    let text = error_text(&error);
    let Error::Resume { lost, source } = error else { unreachable!() };
    assert!(matches!(*source, Error::Refused { .. }), "{source:?}");
    let (first, then) = (text.find(&lost.to_string()), text.find(REFUSAL));
    assert!(first.is_some() && first < then, "{text}");
    assert_eq!(text.matches(REFUSAL).count(), 1, "{text}");
    lost
}

#[test]
fn a_blocking_session_that_cannot_be_taken_up_again_says_how_its_link_ended_and_why_not() {
    let server = Server::start(&[], |_| {});
    for transport in [Transport::Tcp, Transport::Zmq] {
        let between = Between::new(&server.url);
        let client = blocking::Client::connect(&between.url).unwrap();
        let mut session = blocking_session(&client, transport);
        between.mute();
        let slot = filled(&mut session, 1).unwrap();
        let last = session.submit(slot).unwrap();
        between.cut();
        let told = session.next_reply().expect("the request in flight ends");
        let Err(Error::LinkLost(told)) = told else { panic!("{transport}: {told:?}") };
        between.refuse_resumes(2);
        for _ in 0..2 {
            assert_eq!(tells_both(session.slot().err()), told, "{transport}: not forgotten");
            // Who has no slot cannot be waiting.
            assert!(session.next_reply().is_none());
        }
        let slot = filled(&mut session, 2).unwrap();
        assert_eq!(session.submit(slot).unwrap(), last + 1, "{transport}: each number once");
        echoes(&session.next_reply().unwrap().unwrap(), 2);
        assert_eq!(session.agreed().generation(), 2, "{transport}: taken up, not opened anew");
        session.close().unwrap();
    }
}

#[test]
fn an_async_session_that_cannot_be_taken_up_again_says_how_its_link_ended_and_why_not() {
    let server = Server::start(&[], |_| {});
    let between = Between::new(&server.url);
    Runtime::new().unwrap().block_on(async {
        let client = ferry_client::Client::connect(&between.url).await.unwrap();
        let asked = client.session("echo").transport(Transport::Tcp).record(false);
        let asked = asked.shape("input", &[64]).shape("output", &[64]).timeout(LONG);
        let session = asked.open().await.unwrap();
        between.mute();
        let slot = session.slot().await.unwrap();
        let (told, ()) = tokio::join!(session.infer(slot), async { between.cut() });
        let Err(Error::LinkLost(told)) = told else { panic!("{told:?}") };
        between.refuse_resumes(2);
        for _ in 0..2 {
            assert_eq!(tells_both(session.slot().await.err()), told, "not forgotten");
        }
        let mut slot = session.slot().await.unwrap();
        slot.input_mut(0).unwrap().fill(3);
        echoes(&session.infer(slot).await.unwrap(), 3);
        assert_eq!(session.agreed().generation(), 2, "taken up, not opened anew");
        session.close().await.unwrap();
    });
}
