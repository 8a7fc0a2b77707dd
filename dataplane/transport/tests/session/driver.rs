//! The driver against a link whose every event is scripted.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::*;
use ferry_core::{
    Body, Frame, Generation, HostMemory, LinkKind, OutputShapes, Reply, SessionId, SlotIndex,
    Stage, StageTimes, Staged, Status, Tail, Why,
};
use ferry_memory::{Slot, SlotTable};
use ferry_transport::link::SERVER;
use ferry_transport::{
    Capabilities, Driver, DriverState, Ending, Event, Events, Link, LinkError, Rejected,
    SubmitRefusal, Transfer, Wake, Waker,
};

/// What a server on a GPU says of a request.
const STAGED: Staged = Staged { memory: HostMemory::Mapped, why: Why::Idle };

/// What the test and the link share.
#[derive(Default)]
struct Script {
    submitted: VecDeque<Transfer>,
    events: Vec<Event>,
    refuses: bool,
    parks: u32,
}

#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<Script>>);

struct NoSleep;

impl Wake for NoSleep {
    fn wake(&self) {}
}

impl Link for Scripted {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            kind: LinkKind::Local,
            one_sided: false,
            reports_completion: false,
            carries_frames: true,
            threads: 2,
        }
    }

    fn submit(&mut self, transfer: Transfer) -> Result<(), Rejected> {
        let mut script = self.0.lock().unwrap();
        if script.refuses {
            return Err(Rejected { transfer: Box::new(transfer), why: LinkError::Full });
        }
        script.submitted.push_back(transfer);
        Ok(())
    }

    fn poll(&mut self, events: &mut Events) {
        events.append(&mut self.0.lock().unwrap().events);
    }

    fn park(&mut self, at_most: Duration) {
        self.0.lock().unwrap().parks += 1;
        std::thread::sleep(at_most.min(Duration::from_millis(1)));
    }

    fn waker(&self) -> Waker {
        Arc::new(NoSleep)
    }
}

impl Scripted {
    /// The oldest request's slot and its honest reply.
    fn answer(&self) -> (Frame, Slot) {
        let Transfer { frame, slot, .. } = self.0.lock().unwrap().submitted.pop_front().unwrap();
        let mut times = StageTimes::NONE;
        times.set(Stage::Server, 11);
        times.set_staged(Some(STAGED));
        // Stages that a server has no business to report.
        times.set(Stage::Total, 1);
        times.set(Stage::Fill, 1);
        let reply = Reply { status: Status::Ok, times, reply_ns_previous: Some(frame.request) };
        (Frame { payload_bytes: 3, body: Body::Reply(reply), ..frame }, slot)
    }

    fn tell(&self, event: Event) {
        self.0.lock().unwrap().events.push(event);
    }

    fn arrive(&self, frame: Frame, slot: Slot) {
        self.arrive_with(frame, slot, Tail::NONE);
    }

    fn arrive_with(&self, frame: Frame, slot: Slot, tail: Tail) {
        let (peer, seen) = (SERVER, Instant::now());
        self.tell(Event::Arrived { peer, frame, slot, tail, seen, visible: seen });
    }

    fn arrive_answer(&self) {
        let (frame, slot) = self.answer();
        self.arrive(frame, slot);
    }
}

fn scripted() -> (Scripted, Client) {
    let admission = admission(3, 4);
    let table = SlotTable::private(admission.layout).unwrap();
    let (link, kept) = (Scripted::default(), Arc::new(Kept::default()));
    let boxed = Box::new(link.clone());
    let driver = Driver::new(boxed, options(&admission), Arc::clone(&kept) as _);
    (link, Client { driver, table, kept })
}

#[test]
fn each_stage_goes_to_its_request() {
    let (link, mut client) = scripted();
    for request in 1..=3 {
        client.send(1, 8);
        link.tell(Event::Sent { peer: SERVER, request, elapsed_ns: 100 + request });
        link.arrive_answer();
        let times = client.next().times;
        assert_eq!(times.of(Stage::Send), Some(100 + request));
        assert_eq!(times.of(Stage::Server), Some(11));
        assert_eq!(times.staged(), Some(STAGED), "what the GPU was given");
        assert_eq!(times.of(Stage::Fill), Some(5), "the caller's, not the server's");
        assert_eq!(times.of(Stage::Reply), None);
    }
    assert_eq!(client.kept.all().len(), 2, "the last is held back for its reply stage");
    client.driver.flush();
    client.driver.flush();
    let reply_ns: Vec<_> = client.kept.all().iter().map(|it| it.times.of(Stage::Reply)).collect();
    // A reply says how long the one before it took.
    assert_eq!(reply_ns, [Some(2), Some(3), None]);
    let record = client.kept.all()[0];
    assert_eq!((record.run, record.session), (7, SessionId(3)));
    assert_eq!((record.bytes_in, record.bytes_out, record.status), (8, 3, Status::Ok));
    let now = ferry_transport::UnixClock::read().unix_ns(Instant::now());
    assert!(now - record.started_unix_ns < 60_000_000_000, "started within this minute");
}

#[test]
fn shapes_of_outputs_come_with_their_reply() {
    let (link, mut client) = scripted();
    let shapes = OutputShapes::of([&[2, 300][..], &[]]).unwrap();
    for outputs in [Some(Box::new(shapes)), None] {
        client.send(1, 8);
        let (frame, slot) = link.answer();
        link.arrive_with(frame, slot, Tail::with_outputs(outputs.clone()));
        assert_eq!(client.next().outputs, outputs);
    }
}

#[test]
fn a_link_that_is_ended_from_this_side_completes_what_is_in_flight() {
    let (link, mut client) = scripted();
    let sent = [client.send(1, 8), client.send(2, 8)];
    link.arrive_answer();
    client.driver.poll();
    client.driver.end(LinkError::Full);
    client.driver.end(LinkError::Closed);
    assert_eq!(*client.driver.state(), DriverState::Lost(LinkError::Full), "the first reason");
    for (request, ending) in sent.into_iter().zip([Ending::Replied, Ending::LinkLost]) {
        let done = client.next();
        assert_eq!((done.request, done.ending), (request, ending));
    }
    assert!(client.driver.take().is_none(), "each once");
    assert_eq!(client.driver.in_flight(), 0);
    assert!(client.table.acquire().is_none(), "a slot of the ended lease was given out");
    drop(client.driver);
    let statuses: Vec<_> = client.kept.all().iter().map(|it| it.status).collect();
    assert_eq!(statuses, [Status::Ok, Status::LinkLost]);
}

/// Lets a request be answered by a reply that `forge` spoilt.
fn forged(forge: impl Fn(&mut Frame)) {
    let (link, mut client) = scripted();
    client.send(1, 8);
    client.send(2, 8);
    let (mut frame, slot) = link.answer();
    forge(&mut frame);
    link.arrive(frame, slot);
    for request in [1, 2] {
        let done = client.next();
        assert_eq!((done.request, done.ending), (request, Ending::LinkLost), "{frame:?}");
    }
    let state = client.driver.state();
    assert!(matches!(state, DriverState::Lost(LinkError::Protocol(_))), "{state:?}: {frame:?}");
    assert!(client.table.acquire().is_none(), "a slot of the lost lease was given out");
    assert_eq!(client.driver.in_flight(), 0);
    let statuses: Vec<_> = client.kept.all().iter().map(|it| it.status).collect();
    assert_eq!(statuses, [Status::LinkLost; 2]);
}

#[test]
fn a_reply_that_does_not_fit_ends_the_link() {
    forged(|frame| frame.session = SessionId(4));
    forged(|frame| frame.generation = Generation(2));
    forged(|frame| frame.generation = Generation(0));
    forged(|frame| frame.request = 2);
    forged(|frame| frame.request = 99);
    forged(|frame| frame.slot = SlotIndex(1));
    forged(|frame| frame.slot = SlotIndex(3));
    forged(|frame| frame.slot = SlotIndex(u32::MAX));
    forged(|frame| frame.payload_bytes = 257);
    forged(|frame| frame.payload_bytes = u64::MAX);
    forged(|frame| frame.body = Body::Welcome);
    forged(|frame| frame.body = Body::Request(TENSOR));
}

#[test]
fn a_second_reply_ends_the_link() {
    let (link, mut client) = scripted();
    client.send(1, 8);
    let (frame, slot) = link.answer();
    link.arrive(frame, slot);
    drop(client.next());
    let again = client.table.claim(frame.slot).unwrap();
    link.arrive(frame, again);
    client.driver.poll();
    assert!(matches!(client.driver.state(), DriverState::Lost(LinkError::Protocol(_))));
}

#[test]
fn what_is_in_flight_ends_with_the_link() {
    let (link, mut client) = scripted();
    client.send(1, 8);
    client.send(2, 8);
    client.send(3, 8);
    link.arrive_answer();
    // One slot comes back, the other one the link could not save.
    let back = link.0.lock().unwrap().submitted.pop_front().unwrap().slot;
    let why = LinkError::Bye(Status::Draining);
    let slots = vec![back];
    link.tell(Event::Gone { peer: SERVER, session: None, why: why.clone(), slots });
    let done: Vec<_> = (0..3).map(|_| client.next()).collect();
    assert!(done.iter().map(|it| it.request).eq(1..=3));
    assert_eq!(done[0].ending, Ending::Replied);
    assert_eq!((done[1].ending, done[1].slot.is_some()), (Ending::LinkLost, true));
    assert_eq!((done[2].ending, done[2].slot.is_some()), (Ending::LinkLost, false));
    assert_eq!(client.driver.state(), &DriverState::Lost(why.clone()));
    assert!(!client.driver.wait(None), "nothing can come any more");
    let other = SlotTable::private(*client.table.layout()).unwrap();
    let slot = other.acquire().unwrap();
    let refused = client.driver.submit(slot, 1, TENSOR, None).unwrap_err();
    assert_eq!(refused.why, SubmitRefusal::Lost(why));
    let statuses: Vec<_> = client.kept.all().iter().map(|it| it.status).collect();
    assert_eq!(statuses, [Status::Ok, Status::LinkLost, Status::LinkLost]);
}

#[test]
fn a_deadline_ends_the_wait_but_not_the_flight() {
    let (link, mut client) = scripted();
    let number = client.send(1, 8);
    assert!(!client.driver.set_deadline(number + 1, Instant::now()), "not in flight");
    assert!(client.driver.set_deadline(number, Instant::now() + Duration::from_millis(5)));
    let done = client.next();
    assert_eq!((done.request, done.ending), (number, Ending::DeadlinePassed));
    assert!(done.slot.is_none());
    assert_eq!((client.driver.in_flight(), client.table.free_slots()), (1, 3));
    assert!(!client.driver.wait(Some(Instant::now() + Duration::from_millis(5))));
    link.arrive_answer();
    assert!(!client.driver.wait(Some(Instant::now() + WATCHDOG)), "it was completed before");
    assert_eq!((client.driver.in_flight(), client.table.free_slots()), (0, 4));
    assert!(client.driver.take().is_none());
    client.driver.flush();
    assert_eq!(client.kept.all().len(), 1, "recorded once, with the reply that came late");
    assert_eq!(client.kept.all()[0].status, Status::Ok);
}

#[test]
fn what_cannot_be_sent_is_given_back() {
    let (link, mut client) = scripted();
    let refusal = |client: &mut Client, bytes| {
        let slot = client.table.acquire().unwrap();
        let index = slot.index();
        let error = client.driver.submit(slot, bytes, TENSOR, None).unwrap_err();
        assert_eq!(error.slot.index(), index);
        error.why
    };
    let too_long = SubmitRefusal::TooLong { bytes: 257, bytes_max: 256 };
    assert_eq!(refusal(&mut client, 257), too_long);
    link.0.lock().unwrap().refuses = true;
    assert_eq!(refusal(&mut client, 256), SubmitRefusal::Link(LinkError::Full));
    link.0.lock().unwrap().refuses = false;
    assert_eq!(client.send(1, 256), 1, "what was refused has no number");
    let other = SlotTable::private(*client.table.layout()).unwrap();
    let foreign = client.driver.submit(other.acquire().unwrap(), 1, TENSOR, None).unwrap_err();
    assert_eq!(foreign.why, SubmitRefusal::ForeignSlot(SlotIndex(0)));
    assert_eq!(client.driver.in_flight(), 1);
    drop(client.driver);
    assert_eq!(client.kept.all()[0].status, Status::LinkLost, "dropped while in flight");
}

#[test]
fn completions_that_nobody_takes_stop_the_sending() {
    let (link, mut client) = scripted();
    let now = Instant::now();
    let refused = (0..200).find_map(|_| {
        let slot = client.table.acquire().unwrap();
        match client.driver.submit(slot, 1, TENSOR, None) {
            Ok(number) => {
                // Its deadline leaves one completion, and the late reply frees the slot.
                assert!(client.driver.set_deadline(number, now));
                client.driver.poll();
                link.arrive_answer();
                client.driver.poll();
                None
            }
            Err(error) => Some(error.why),
        }
    });
    assert_eq!(refused, Some(SubmitRefusal::NotTaken(64)));
    while client.driver.take().is_some() {}
    client.send(1, 1);
}
