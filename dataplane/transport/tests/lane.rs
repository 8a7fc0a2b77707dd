//! Driver and lane over the local link.

mod common;

use common::*;
use ferry_core::{Stage, Status};

#[test]
fn requests_go_there_and_back_with_their_times() {
    let (lane, door) = local_lane(16, PlusOne);
    let admission = admission(1, 4);
    lane.admit(admission.clone()).unwrap();
    let mut client = connect(&door, &admission);
    for round in 0..100_u8 {
        let numbers: Vec<u64> = (0..4).map(|i| client.send(round, 10 + i)).collect();
        for (i, number) in numbers.into_iter().enumerate() {
            let done = client.next();
            assert_eq!(done.request, number, "order is kept");
            assert_eq!(reply_of(&done), vec![round + 1; 10 + i]);
            for stage in [Stage::Fill, Stage::Send, Stage::Receive, Stage::Server, Stage::Total] {
                assert!(done.times.of(stage).is_some(), "{stage:?} of {done:?}");
            }
            assert!(done.times.of(Stage::Total) >= done.times.of(Stage::Server));
        }
    }
    let slot = client.table.acquire().unwrap();
    client.driver.submit(slot, 0, PING, None).unwrap();
    let pong = client.next();
    assert_eq!((pong.status, pong.payload_bytes), (Status::Ok, 0));
    client.driver.flush();
    let records = client.kept.all();
    assert_eq!(records.len(), 401);
    assert!(records.iter().map(|it| it.request).eq(1..=401), "one record each, in order");
    assert!(records.iter().any(|it| it.times.of(Stage::Reply).is_some()));
    assert_eq!(records[400].times.of(Stage::Reply), None, "no reply came after the last");
    lane.stop().unwrap();
    let stats = lane.stats();
    assert_eq!((stats.arrivals, stats.replies, stats.pings), (401, 401, 1));
    assert_eq!(stats.in_flight, 0);
}
