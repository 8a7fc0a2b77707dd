//! Driver and lane over the local link.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::common::*;
use ferry_core::{Generation, SessionId, Stage, StageTimes, Status, Token};
use ferry_memory::{Arrival, Departure, PeerId, ReplyTo};
use ferry_transport::lane::{self, Handler, LaneError, LaneHandle, LaneOptions};
use ferry_transport::{AdmitError, DriverState, Ending, LinkError, Refusal};

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

/// Keeps every arrival until told to let one go.
#[derive(Clone, Default)]
struct Holder(Arc<Mutex<VecDeque<Arrival>>>);

impl Handler for Holder {
    fn handle(&mut self, arrival: Arrival) -> Option<Departure> {
        self.0.lock().unwrap().push_back(arrival);
        None
    }
}

impl Holder {
    fn held(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn answer_one(&self, lane: &LaneHandle) {
        let arrival = self.0.lock().unwrap().pop_front().expect("one is held");
        lane.outbox().depart(plus_one(arrival));
    }
}

#[test]
fn more_than_the_outbox_holds_is_turned_away() {
    let holder = Holder::default();
    let (lane, door) = local_lane(2, holder.clone());
    let admission = admission(1, 4);
    lane.admit(admission.clone()).unwrap();
    let mut client = connect(&door, &admission);
    for value in 1..=3 {
        client.send(value, 4);
    }
    let refused = client.next();
    assert_eq!((refused.request, refused.status), (3, Status::Overloaded));
    let mut text = vec![0; refused.payload_bytes];
    refused.slot.as_ref().unwrap().reply().copy_out(0, &mut text).unwrap();
    assert!(String::from_utf8(text).unwrap().contains("try again"), "says what to do");
    assert_eq!((holder.held(), lane.stats().in_flight), (2, 2));
    holder.answer_one(&lane);
    holder.answer_one(&lane);
    for value in 1..=2 {
        assert_eq!(reply_of(&client.next()), [value + 1; 4]);
    }
    lane.stop().unwrap();
    assert_eq!((lane.stats().turned_away, lane.outbox().dropped()), (1, 0));
}

#[test]
fn a_full_or_closed_outbox_drops_and_frees_the_slot() {
    let holder = Holder::default();
    let (lane, door) = local_lane(4, holder.clone());
    let admission = admission(1, 4);
    lane.admit(admission.clone()).unwrap();
    let mut client = connect(&door, &admission);
    client.send(1, 4);
    until("the request is held", || holder.held() == 1);
    lane.stop().unwrap();
    assert_eq!(client.next().ending, Ending::LinkLost);
    holder.answer_one(&lane);
    assert_eq!(lane.outbox().dropped(), 1);
    assert_eq!(client.table.free_slots(), 4, "the slot came back to its table");
}

#[test]
fn what_comes_too_late_for_its_lease_is_dropped_and_counted() {
    let holder = Holder::default();
    let (lane, door) = local_lane(16, holder.clone());
    let mut admission = admission(1, 4);
    lane.admit(admission.clone()).unwrap();
    let mut old = connect(&door, &admission);
    old.send(1, 4);
    until("the request is held", || holder.held() == 1);
    lane.evict(admission.session, Status::SessionEnded).unwrap();
    let lost = old.next();
    assert_eq!((lost.ending, lost.slot.is_some()), (Ending::LinkLost, false));
    let why = LinkError::Bye(Status::SessionEnded);
    assert_eq!(old.driver.state(), &DriverState::Lost(why));
    admission.generation = Generation(2);
    lane.admit(admission.clone()).unwrap();
    let mut new = connect(&door, &admission);
    new.send(7, 4);
    until("both are held", || holder.held() == 2);
    holder.answer_one(&lane);
    holder.answer_one(&lane);
    assert_eq!(reply_of(&new.next()), [8; 4]);
    assert!(new.driver.take().is_none());
    lane.stop().unwrap();
    let stats = lane.stats();
    assert_eq!((stats.stale, stats.replies, stats.in_flight), (1, 1, 0));
}

#[test]
fn draining_under_load_finishes_what_is_in_flight() {
    let holder = Holder::default();
    let (lane, door) = local_lane(64, holder.clone());
    let sessions: Vec<_> = (1..=3).map(|session| admission(session, 8)).collect();
    let mut clients: Vec<_> = sessions
        .iter()
        .map(|admission| {
            lane.admit(admission.clone()).unwrap();
            connect(&door, admission)
        })
        .collect();
    for client in &mut clients {
        for value in 0..4 {
            client.send(value, 16);
        }
    }
    until("all are held", || holder.held() == 12);
    lane.drain().unwrap();
    for client in &mut clients {
        client.send(9, 16);
        let refused = client.next();
        assert_eq!((refused.request, refused.status), (5, Status::Draining));
    }
    let slot = clients[0].table.acquire().unwrap();
    clients[0].driver.submit(slot, 0, PING, None).unwrap();
    assert_eq!(clients[0].next().status, Status::Ok, "a draining lane still answers pings");
    (0..12).for_each(|_| holder.answer_one(&lane));
    for client in &mut clients {
        for value in 0..4 {
            assert_eq!(reply_of(&client.next()), [value + 1; 16]);
        }
    }
    until("it is drained", || lane.stats().in_flight == 0);
    lane.stop().unwrap();
    let mut last = clients.remove(0);
    last.driver.poll();
    let why = LinkError::Bye(Status::Draining);
    assert_eq!(last.driver.state(), &DriverState::Lost(why), "told why");
    assert!(matches!(lane.drain(), Err(LaneError::Stopped)));
}

/// Keeps requests of 12 bytes for ever, and panics at 13.
#[derive(Default)]
struct Panics(Vec<Arrival>);

impl Handler for Panics {
    fn handle(&mut self, arrival: Arrival) -> Option<Departure> {
        assert!(arrival.payload_bytes != 13, "thirteen");
        if arrival.payload_bytes == 12 {
            self.0.push(arrival);
            return None;
        }
        Some(plus_one(arrival))
    }
}

#[test]
fn a_panic_ends_the_lane_and_is_told() {
    let (lane, door) = local_lane(16, Panics::default());
    let admission = admission(1, 4);
    lane.admit(admission.clone()).unwrap();
    let mut client = connect(&door, &admission);
    client.send(1, 5);
    assert_eq!(reply_of(&client.next()), [2; 5]);
    client.send(1, 12);
    client.send(1, 13);
    for _ in 0..2 {
        assert_eq!(client.next().ending, Ending::LinkLost, "nobody waits for a dead lane");
    }
    until("the end is known", || lane.ended().is_some());
    let Some(LaneError::Dead { cause }) = lane.ended() else { panic!("{:?}", lane.ended()) };
    assert_eq!(cause, "thirteen");
    let refused = lane.admit(crate::common::admission(2, 1)).unwrap_err();
    assert!(refused.to_string().contains("thirteen"), "{refused}");
    assert!(lane.stop().is_err_and(|error| error.to_string().contains("thirteen")));
    let closed = door.connect(admission.session, admission.generation, &admission.token);
    assert!(closed.is_err(), "the door is closed");
}

#[test]
fn two_lanes_have_nothing_in_common() {
    let (first, first_door) = local_lane(16, Panics::default());
    let (second, second_door) = local_lane(16, PlusOne);
    let admission = admission(1, 4);
    first.admit(admission.clone()).unwrap();
    second.admit(admission.clone()).unwrap();
    let mut on_first = connect(&first_door, &admission);
    let mut on_second = connect(&second_door, &admission);
    std::thread::scope(|scope| {
        for client in [&mut on_first, &mut on_second] {
            scope.spawn(move || {
                for round in 0..500_u32 {
                    let value = u8::try_from(round % 200).unwrap();
                    client.send(value, 20);
                    assert_eq!(reply_of(&client.next()), [value + 1; 20]);
                }
            });
        }
    });
    on_first.send(1, 13);
    assert_eq!(on_first.next().ending, Ending::LinkLost);
    on_second.send(1, 13);
    assert_eq!(reply_of(&on_second.next()), [2; 13], "the other lane lives");
    second.stop().unwrap();
    assert_eq!(second.stats().arrivals, 501);
}

#[test]
fn a_link_that_cannot_be_made_is_told_to_the_spawner() {
    let failed = lane::spawn(LaneOptions::default(), |_| Err(LinkError::os("bind", "in use")));
    let expected = LaneError::Link(LinkError::os("bind", "in use"));
    assert_eq!(failed.err(), Some(expected));
    let panicked = lane::spawn(LaneOptions::default(), |_| panic!("no link today"));
    let expected = LaneError::Dead { cause: "no link today".into() };
    assert_eq!(panicked.err(), Some(expected));
}

#[test]
fn what_a_handler_hears_of_sessions() {
    #[derive(Clone, Default)]
    struct Diary(Arc<Mutex<Vec<String>>>);
    impl Handler for Diary {
        fn handle(&mut self, arrival: Arrival) -> Option<Departure> {
            // Longer than the half: the lane must not send what is not there.
            Some(arrival.depart(257, StageTimes::NONE))
        }
        fn joined(&mut self, _peer: PeerId, session: SessionId) {
            self.0.lock().unwrap().push(format!("joined {session}"));
        }
        fn gone(&mut self, _peer: PeerId, session: Option<SessionId>, why: &LinkError) {
            self.0.lock().unwrap().push(format!("gone {}: {why}", session.unwrap()));
        }
        fn refused(&mut self, refusal: &Refusal) {
            self.0.lock().unwrap().push(refusal.to_string());
        }
    }
    let diary = Diary::default();
    let (lane, door) = local_lane(16, diary.clone());
    let admission = admission(1, 4);
    lane.admit(admission.clone()).unwrap();
    assert!(matches!(lane.admit(admission.clone()), Err(AdmitError::Twice(_))));
    let forged = Token::new([9; 32]);
    assert!(door.connect(admission.session, admission.generation, &forged).is_err());
    let mut client = connect(&door, &admission);
    client.send(1, 1);
    let done = client.next();
    assert_eq!((done.status, done.payload_bytes), (Status::EngineFailed, 0));
    drop(client);
    until("all was heard", || diary.0.lock().unwrap().len() == 3);
    let heard = diary.0.lock().unwrap().join("\n");
    assert!(heard.contains("refused: unknown, or the token does not fit"), "{heard}");
    assert!(heard.contains("joined 0000000000000001"), "{heard}");
    assert!(heard.contains("gone 0000000000000001: the peer closed the link"), "{heard}");
    lane.stop().unwrap();
    assert_eq!((lane.stats().refusals, lane.stats().joins, lane.stats().gone), (1, 1, 1));
}
