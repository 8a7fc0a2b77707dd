//! Replies that their clients do not read: what a lane says of them.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Instant;

use ferry_core::{Generation, SlotLayout, StageTimes, Status};
use ferry_memory::{Arrival, Departure};
use ferry_transport::lane::{self, Handler, LaneHandle, LaneOptions};
use ferry_transport::{Admission, Driver, TcpClient, TcpListenerLink, TcpOptions};

use crate::common::*;

/// More than the kernel keeps between the two ends.
const REPLY_BYTES: usize = 32 << 20;

/// Answers with the whole reply half, whatever it holds.
struct Long;

impl Handler for Long {
    fn handle(&mut self, arrival: Arrival) -> Option<Departure> {
        Some(arrival.depart(REPLY_BYTES, StageTimes::NONE))
    }
}

fn tcp_lane() -> LaneHandle {
    let made = lane::spawn(LaneOptions::default(), |_| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = TcpListenerLink::new(listener, TcpOptions::default())?;
        Ok((Box::new(link), Box::new(Long)))
    });
    made.unwrap()
}

fn long(session: u64) -> Admission {
    let layout = SlotLayout { slots: 2, request_bytes: 64, reply_bytes: REPLY_BYTES as u64 };
    Admission { layout, ..admission(session, 2) }
}

/// A client that has asked and does not read.
fn asked(lane: &LaneHandle, admission: &Admission) -> Client {
    lane.admit(admission.clone()).unwrap();
    let Admission { session, generation, token, layout, .. } = *admission;
    let late = Instant::now() + WATCHDOG;
    let connected = TcpClient::connect(lane.endpoint(), session, generation, token, layout, late);
    let (link, table) = connected.unwrap();
    let kept = Arc::new(Kept::default());
    let driver = Driver::new(Box::new(link), options(admission), Arc::clone(&kept) as _);
    let mut client = Client { driver, table, kept };
    client.send(1, 4);
    until("its reply is leaving", || lane.stats().leaving == 1 && lane.stats().in_flight == 0);
    client
}

#[test]
fn what_is_leaving_is_counted_until_it_is_read_cut_off_or_nobodys() {
    let lane = tcp_lane();
    let gone = |what: &str| until(what, || lane.stats().leaving == 0);

    let mut reads = asked(&lane, &long(1));
    let done = reads.next();
    assert_eq!((done.status, done.payload_bytes), (Status::Ok, REPLY_BYTES));
    gone("it was read");

    let evicted = asked(&lane, &long(2));
    lane.evict(long(2).session, Status::SessionEnded).unwrap();
    assert_eq!(lane.stats().leaving, 0, "cut off");

    drop(asked(&lane, &long(3)));
    gone("its client went");

    let resumed = asked(&lane, &long(4));
    let next = Admission { generation: Generation(2), ..long(4) };
    lane.admit(next).unwrap();
    assert_eq!(lane.stats().leaving, 0, "of a lease that is over");

    assert_eq!(lane.stats().replies, 4);
    drop((evicted, resumed));
    lane.stop().unwrap();
}
