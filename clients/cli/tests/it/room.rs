//! Replies that grow beyond the room of a session: it is opened again by itself, and every request
//! has its answer, once.

use std::collections::BTreeMap;
use std::time::Duration;

use ferry_client::blocking::{Client, Session};
use ferry_client::{Error, Reply, Slot, Status, Transport, v1};
use ferry_conformance::cases;
use ferry_conformance::transports::{everywhere, outside};
use ferry_proto::v1::local_client::LocalClient;
use serde_json::{Value, json};

use crate::cases::onnxruntime;
use crate::server::{Server, npy, text};

/// Numbers of which a reply has room in a session of which nothing is known (64 KiB), and of which
/// it has none. Each of the larger ones is more than twice as large as the one before, which is what
/// the server makes room for once it has seen that.
const SMALL: u64 = 5;
const LARGE: u64 = 20_000;
const LARGER: u64 = 60_000;

/// Only a guard: what is lost shows as a test that hangs.
const WATCHDOG: Duration = Duration::from_secs(120);

/// Serves `range`: as many numbers as the request says, from 0 on.
fn server(toml: &str) -> Server {
    Server::start(&["--onnxruntime", &onnxruntime()], |models| {
        let from = cases::folder().join("range.onnx");
        std::fs::copy(from, models.join("range.onnx")).unwrap();
        let toml = format!("engine = \"onnx\"\ndevice = \"cpu\"\n{toml}");
        std::fs::write(models.join("range.toml"), toml).unwrap();
    })
}

fn open(client: &Client, transport: Transport, slots: u32) -> Session {
    client.session("range").transport(transport).slots(slots).timeout(WATCHDOG).open().unwrap()
}

fn asking(mut slot: Slot, count: u64) -> Slot {
    slot.set_input(0, &count.to_le_bytes()).unwrap();
    slot
}

fn submit(session: &mut Session, count: u64) -> u64 {
    let slot = session.slot().unwrap();
    session.submit(asking(slot, count)).unwrap()
}

fn infer(session: &mut Session, count: u64) -> Result<Reply, Error> {
    let slot = session.slot()?;
    session.infer(asking(slot, count))
}

/// How many numbers came, after a look at each of them.
fn counted(reply: &Reply) -> u64 {
    let numbers = reply.output(0).unwrap().chunks_exact(8);
    let numbers = numbers.map(|it| u64::from_le_bytes(it.try_into().unwrap()));
    let count = reply.shape(0).unwrap()[0];
    assert!(numbers.eq(0..count));
    count
}

/// Takes all replies, each of which must be another request's: number and count.
fn all(session: &mut Session) -> BTreeMap<u64, u64> {
    let mut replies = BTreeMap::new();
    while let Some(reply) = session.next_reply() {
        let reply = reply.unwrap();
        let twice = replies.insert(reply.request(), counted(&reply));
        assert_eq!(twice, None, "request {} has two replies", reply.request());
    }
    replies
}

#[test]
fn a_reply_that_has_no_room_is_asked_for_once_more_and_those_beside_it_are_kept() {
    for transport in outside() {
        let server = server("");
        let client = Client::connect(&server.url).unwrap();
        let mut session = open(&client, transport, 8);
        let id = session.agreed().session();
        let sent: BTreeMap<u64, u64> = [SMALL, LARGE, 6, LARGE + 1, 7]
            .map(|count| (submit(&mut session, count), count))
            .into_iter()
            .collect();
        let waited_for = infer(&mut session, LARGE + 2).unwrap();
        assert_eq!(counted(&waited_for), LARGE + 2, "{transport}");
        assert!(!sent.contains_key(&waited_for.request()));
        assert_ne!(session.agreed().session(), id, "{transport}: opened again");
        assert_eq!(all(&mut session), sent, "{transport}");
        // What was read before is still there.
        assert_eq!(counted(&waited_for), LARGE + 2);
        let id = session.agreed().session();
        assert_eq!(counted(&infer(&mut session, LARGE).unwrap()), LARGE);
        assert_eq!(session.agreed().session(), id, "{transport}: there is room now");
        let tells = session.close().unwrap();
        assert_eq!((tells.lost, tells.refused), (0, 0), "{transport}");
    }
}

#[test]
fn a_session_with_as_many_untaken_replies_as_it_keeps_loses_none_when_it_grows() {
    for transport in [Transport::Shm, Transport::Tcp] {
        let server = server("");
        let client = Client::connect(&server.url).unwrap();
        let mut session = open(&client, transport, 64);
        let mut sent = BTreeMap::new();
        let mut send = |session: &mut Session, count| {
            sent.insert(submit(session, count), count);
        };
        (0..40).for_each(|count| send(&mut session, count));
        assert_eq!(counted(&infer(&mut session, LARGE).unwrap()), LARGE);
        // 40 wait by now; these and the next two make them more than a session keeps.
        (40..63).for_each(|count| send(&mut session, count));
        for count in [LARGER, SMALL, LARGER + 1] {
            send(&mut session, count);
        }
        assert_eq!(counted(&infer(&mut session, LARGER + 2).unwrap()), LARGER + 2, "{transport}");
        let slot = session.slot().unwrap();
        let refused = session.submit(asking(slot, SMALL));
        assert!(matches!(refused, Err(Error::RepliesWait(64..))), "{transport}: {refused:?}");
        assert_eq!(all(&mut session), sent, "{transport}");
        assert_eq!(counted(&infer(&mut session, SMALL).unwrap()), SMALL, "{transport}");
    }
}

#[test]
fn slots_that_are_out_while_the_session_grows_are_sent_as_they_are() {
    let server = server("");
    let client = Client::connect(&server.url).unwrap();
    for transport in [Transport::Shm, Transport::Tcp] {
        let mut session = open(&client, transport, 3);
        let held = [SMALL, LARGER].map(|count| asking(session.slot().unwrap(), count));
        assert_eq!(counted(&infer(&mut session, LARGE).unwrap()), LARGE);
        let numbers = held.map(|slot| session.submit(slot).unwrap());
        let sent = numbers.into_iter().zip([SMALL, LARGER]).collect();
        assert_eq!(all(&mut session), sent, "{transport}");
        let other = open(&client, transport, 1).slot().unwrap();
        assert!(matches!(session.submit(other), Err(Error::ForeignSlot)));
    }
}

#[test]
fn a_window_that_stays_full_does_not_keep_a_reply_without_room_waiting() {
    let server = server("");
    let client = Client::connect(&server.url).unwrap();
    let mut session = open(&client, Transport::Tcp, 4);
    let mut sent = BTreeMap::from([(submit(&mut session, LARGE), LARGE)]);
    let mut came = BTreeMap::new();
    for _ in 0..50 {
        while let Some(slot) = session.try_slot().unwrap() {
            let number = session.submit(asking(slot, SMALL)).unwrap();
            sent.insert(number, SMALL);
        }
        let reply = session.next_reply().unwrap().unwrap();
        came.insert(reply.request(), counted(&reply));
    }
    assert_eq!(came.values().filter(|&&count| count == LARGE).count(), 1, "among the first");
    came.extend(all(&mut session));
    assert_eq!(came, sent);
}

#[test]
fn where_there_may_be_no_such_room_the_error_names_the_bytes_and_the_session_serves_on() {
    let server = server("max_elements = 10000\n");
    let client = Client::connect(&server.url).unwrap();
    for transport in [Transport::Shm, Transport::Tcp] {
        let mut session = open(&client, transport, 4);
        let small = submit(&mut session, SMALL);
        let large = [LARGE, LARGE + 1].map(|count| (submit(&mut session, count), count));
        let mut told = BTreeMap::new();
        while let Some(reply) = session.next_reply() {
            match reply {
                Ok(reply) => assert_eq!((reply.request(), counted(&reply)), (small, SMALL)),
                Err(Error::ReplyTooLarge { request, bytes, text }) => {
                    assert!(text.contains("max_elements"), "{transport}: {text}");
                    assert_eq!(told.insert(request, bytes / 8), None);
                }
                Err(error) => panic!("{transport}: {error:?}"),
            }
        }
        assert_eq!(told, BTreeMap::from(large), "{transport}");
        assert_eq!(counted(&infer(&mut session, SMALL).unwrap()), SMALL, "{transport}");
        let error = infer(&mut session, LARGE).unwrap_err();
        assert!(matches!(error, Error::ReplyTooLarge { .. }), "{transport}: {error:?}");
        assert_eq!(counted(&infer(&mut session, SMALL).unwrap()), SMALL, "{transport}");
    }
}

#[test]
fn tasks_that_share_a_session_get_their_own_answers_while_it_grows() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for transport in outside() {
        let server = server("");
        let all = grow_under_tasks(&server, transport);
        runtime.block_on(async { tokio::time::timeout(WATCHDOG, all).await }).unwrap();
    }
}

async fn grow_under_tasks(server: &Server, transport: Transport) {
    let client = ferry_client::Client::connect(&server.url).await.unwrap();
    let builder = client.session("range").transport(transport).slots(3).timeout(WATCHDOG);
    let session = builder.open().await.unwrap();
    let first = session.agreed().session();
    let tasks = (0..12_u64).map(|task| {
        let session = session.clone();
        tokio::spawn(async move {
            for count in [SMALL, LARGE, 6, LARGER, 7].map(|count| count + task) {
                let slot = asking(session.slot().await.unwrap(), count);
                let reply = session.infer(slot).await.unwrap();
                assert_eq!(counted(&reply), count, "{transport}");
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_ne!(session.agreed().session(), first, "{transport}: opened again");
    // All slots came back.
    let slots = [session.slot().await, session.slot().await, session.slot().await];
    assert!(slots.iter().all(Result::is_ok), "{transport}: {slots:?}");
    drop(slots);
    let tells = session.close().await.unwrap();
    assert_eq!((tells.lost, tells.refused), (0, 0), "{transport}");
}

#[test]
fn a_slot_that_another_task_holds_while_the_session_grows_is_sent_as_it_is() {
    let server = server("");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for transport in [Transport::Shm, Transport::Tcp] {
        runtime.block_on(async {
            let client = ferry_client::Client::connect(&server.url).await.unwrap();
            let builder = client.session("range").transport(transport).slots(2).timeout(WATCHDOG);
            let session = builder.reply_bytes(SMALL * 8).open().await.unwrap();
            let held = asking(session.slot().await.unwrap(), SMALL);
            let grown = asking(session.slot().await.unwrap(), LARGER * 4);
            assert_eq!(counted(&session.infer(grown).await.unwrap()), LARGER * 4, "{transport}");
            assert_eq!(counted(&session.infer(held).await.unwrap()), SMALL, "{transport}");
            session.close().await.unwrap();
        });
    }
}

#[test]
fn tasks_are_told_the_bytes_where_there_may_be_no_such_room() {
    let server = server("max_elements = 10000\n");
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let client = ferry_client::Client::connect(&server.url).await.unwrap();
        let builder = client.session("range").transport(Transport::Tcp).slots(2);
        let session = builder.timeout(WATCHDOG).open().await.unwrap();
        for _ in 0..2 {
            let slot = asking(session.slot().await.unwrap(), LARGE);
            let error = session.infer(slot).await.unwrap_err();
            let is_told = matches!(error, Error::ReplyTooLarge { bytes, .. } if bytes == LARGE * 8);
            assert!(is_told, "{error:?}");
            let slot = asking(session.slot().await.unwrap(), SMALL);
            assert_eq!(counted(&session.infer(slot).await.unwrap()), SMALL);
        }
    });
}

#[test]
fn requests_in_flight_over_a_link_that_is_taken_up_again_have_their_answers_too() {
    let server = server("");
    let client = Client::connect(&server.url).unwrap();
    let mut session = open(&client, Transport::Tcp, 4);
    let sent = [LARGE, SMALL, 6].map(|count| submit(&mut session, count));
    session.resume().unwrap();
    let mut ended = 0;
    while let Some(reply) = session.next_reply() {
        ended += 1;
        match reply {
            Ok(reply) => assert!(sent.contains(&reply.request())),
            Err(error) => assert!(matches!(error, Error::LinkLost(_)), "{error:?}"),
        }
    }
    assert_eq!(ended, sent.len());
    assert_eq!(counted(&infer(&mut session, SMALL).unwrap()), SMALL);
}

/// The number of numbers of which an input file asks.
fn asked_by_file(server: &Server, count: u64) -> String {
    let path = server.path(&format!("n-{count}.npy"));
    std::fs::write(&path, npy("<i8", "()", &count.to_le_bytes())).unwrap();
    format!("n={}", path.display())
}

#[test]
fn the_command_line_gets_replies_that_had_no_room_and_says_so_once() {
    for transport in everywhere().map(Transport::name) {
        let server = server("");
        let input = asked_by_file(&server, LARGE);
        let words = ["infer", "--json", "--model", "range", "--transport", transport];
        let output = server.ferry(&[&words[..], &["--input", &input]].concat());
        let said = text(&output.stderr);
        assert!(output.status.success(), "{transport}: {said}");
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["outputs"][0]["shape"], json!([LARGE]), "{transport}");
        assert_eq!(answer["inputs"][0]["shape"], json!([]), "{transport}");
        // The server does it for `local`, and has a log of its own.
        let times = usize::from(transport != "local");
        assert_eq!(said.matches("opened again with more").count(), times, "{transport}: {said}");
    }
}

#[test]
fn the_command_line_names_the_bytes_where_there_may_be_no_such_room() {
    let server = server("max_elements = 10000\n");
    let input = asked_by_file(&server, LARGE);
    for transport in ["local", "shm", "tcp"] {
        let words = ["infer", "--model", "range", "--transport", transport, "--input", &input];
        let refused = server.ferry(&words);
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(5), "{transport}: {said}");
        assert!(said.contains(&(LARGE * 8).to_string()), "{transport}: {said}");
    }
}

fn drive(count: u64) -> v1::DriveRequest {
    v1::DriveRequest {
        model: "range".into(),
        clients: 2,
        requests: 20,
        warmup: 3,
        window: 4,
        payload: count.to_le_bytes().to_vec().into(),
        ..Default::default()
    }
}

#[test]
fn a_drive_whose_replies_have_no_room_goes_on_with_room_and_gives_a_row_for_each_request() {
    let server = server("");
    let client = Client::connect(&server.url).unwrap();
    let mut local = LocalClient::new(client.control().channel());
    let mut given = Vec::new();
    client.run(async {
        let mut batches = local.drive(drive(LARGE)).await.unwrap().into_inner();
        while let Some(batch) = batches.message().await.unwrap() {
            assert_eq!(batch.lost, 0);
            let session = batch.session.as_ref().unwrap().session_id;
            let rows = ferry_proto::rows(&batch).unwrap();
            given.extend(rows.into_iter().map(|row| (session, row.request, row.status)));
        }
    });
    assert_eq!(given.len(), 40, "{given:?}");
    assert!(given.iter().all(|&(_, request, status)| request > 3 && status == Status::Ok));
    given.dedup();
    assert_eq!(given.len(), 40, "each once");
}

#[test]
fn a_drive_whose_replies_may_have_no_such_room_names_the_bytes() {
    let server = server("max_elements = 10000\n");
    let client = Client::connect(&server.url).unwrap();
    let mut local = LocalClient::new(client.control().channel());
    let told = client.run(async {
        let mut batches = local.drive(drive(LARGE)).await.unwrap().into_inner();
        loop {
            match batches.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("nothing was refused"),
                Err(status) => return status,
            }
        }
    });
    for part in [(LARGE * 8).to_string().as_str(), "max_elements"] {
        assert!(told.message().contains(part), "{part}: {told}");
    }
    assert_eq!(client.run(local.drive(drive(SMALL))).map(drop).map_err(|it| it.code()), Ok(()));
}
