//! The async session: many tasks, few slots.

use std::time::Duration;

use ferry_client::Client;
use ferry_conformance::transports::outside;

use crate::server::Server;

/// Only a guard: a lost wake-up shows as a test that hangs.
const WATCHDOG: Duration = Duration::from_secs(60);

#[test]
fn many_tasks_share_few_slots_and_each_gets_its_own_answer() {
    let server = Server::start(&[], |_| {});
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let all = async {
        let client = Client::connect(&server.url).await.unwrap();
        for transport in outside() {
            let session = client.session("echo").transport(transport).slots(2);
            let session = session.shape("input", &[64]).shape("output", &[64]);
            let session = session.open().await.unwrap();
            let tasks = (0..16_u8).map(|task| {
                let session = session.clone();
                tokio::spawn(async move {
                    for turn in 0..10 {
                        let mut slot = session.slot().await.unwrap();
                        slot.input_mut(0).unwrap().fill(task ^ turn);
                        let reply = session.infer(slot).await.unwrap();
                        assert_eq!(reply.output(0).unwrap(), [task ^ turn; 64]);
                    }
                })
            });
            for task in tasks.collect::<Vec<_>>() {
                task.await.unwrap();
            }
            // A dropped future forgets its answer; the slot comes back.
            let slot = session.slot().await.unwrap();
            drop(session.infer(slot));
            for _ in 0..3 {
                drop(session.infer(session.slot().await.unwrap()).await.unwrap());
            }
            let counts = session.close().await.unwrap();
            assert_eq!((counts.lost, counts.refused), (0, 0), "{transport}");
        }
    };
    runtime.block_on(async { tokio::time::timeout(WATCHDOG, all).await }).unwrap();
}

#[test]
fn a_session_whose_last_handle_is_dropped_ends_at_the_server_too() {
    let server = Server::start(&[], |_| {});
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = runtime.block_on(async {
        let client = Client::connect(&server.url).await.unwrap();
        let session = client.session("echo").shape("input", &[8]).shape("output", &[8]);
        let session = session.open().await.unwrap();
        drop(session.infer(session.slot().await.unwrap()).await.unwrap());
        assert_eq!(server.json(&["sessions"]).len(), 1);
        client
    });
    let start = std::time::Instant::now();
    while !server.json(&["sessions"]).is_empty() {
        assert!(start.elapsed() < WATCHDOG, "heartbeats keep a session that nobody has");
    }
    drop(client);
}
