//! A link that breaks under a live session: the session is taken up again, and serves on.

use std::time::{Duration, Instant};

use ferry_client::{Error, Reply, Transport, blocking};
use tokio::runtime::Runtime;

use crate::between::Between;
use crate::server::Server;

/// A watchdog, and no more.
pub(crate) const LONG: Duration = Duration::from_secs(30);

const SLOTS: u32 = 4;

/// How often a link is cut under one session.
const CUTS: u32 = 3;

fn blocking_session(client: &blocking::Client, transport: Transport) -> blocking::Session {
    let asked = client.session("echo").transport(transport).slots(SLOTS).record(false);
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
    for transport in [Transport::Tcp, Transport::Zmq] {
        let between = Between::new(&server.url);
        let client = blocking::Client::connect(&between.url).unwrap();
        let mut session = blocking_session(&client, transport);
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
                let told = session.next().expect("each request in flight ends");
                assert!(matches!(told, Err(Error::LinkLost(_))), "{transport}: {told:?}");
            }
            assert!(session.next().is_none(), "and ends once");
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
    let id = session.agreed().await.session();
    for generation in 1..=CUTS {
        assert_eq!(session.agreed().await.generation(), generation, "{transport}");
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
    assert_eq!(session.agreed().await.session(), id, "{transport}: taken up, not opened anew");
    assert_eq!(session.agreed().await.generation(), CUTS + 1);
    session.close().await.unwrap();
}
