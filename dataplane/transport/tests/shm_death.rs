//! What is left of a client that was killed: nothing.
//!
//! One test alone in its binary, because it counts the descriptors and mappings of the process.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failure is a failed test")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ferry_core::RegionDescriptor;
use ferry_core::{
    Body, Endpoint, Frame, Generation, LinkKind, Reply, Request, RequestKind, SessionId, SlotIndex,
    SlotLayout, StageTimes, Status, Token, WaitPolicy,
};
use ferry_transport::link::SERVER;
use ferry_transport::{
    Admission, Event, Events, Link, LinkError, Listener, ShmClient, ShmListener, Transfer,
};

const WATCHDOG: Duration = Duration::from_secs(60);
const LAYOUT: SlotLayout = SlotLayout { slots: 4, request_bytes: 100_000, reply_bytes: 1_000 };
const TOKEN: Token = Token::new([5; Token::BYTES]);
/// Lives to the end beside the ones that are killed.
const SURVIVOR: SessionId = SessionId(1);

fn admission(session: SessionId) -> Admission {
    let (generation, wait) = (Generation::FIRST, WaitPolicy::Adaptive);
    Admission { session, generation, token: TOKEN, layout: LAYOUT, wait, placer: None }
}

fn connect(socket: &str, session: SessionId, bytes: u64) -> (ShmClient, Vec<ferry_memory::Slot>) {
    let endpoint = Endpoint::new(LinkKind::Shm, socket);
    let descriptor = RegionDescriptor::Memfd { bytes, layout: LAYOUT };
    let deadline = Instant::now() + WATCHDOG;
    let (client, table) = ShmClient::connect(
        &endpoint,
        session,
        Generation::FIRST,
        TOKEN,
        &descriptor,
        None,
        deadline,
    )
    .unwrap();
    (client, std::iter::from_fn(|| table.acquire()).collect())
}

fn submit(client: &mut ShmClient, session: SessionId, request: u64, mut slot: ferry_memory::Slot) {
    let frame = Frame {
        session,
        generation: Generation::FIRST,
        slot: SlotIndex(slot.index().0),
        request,
        payload_bytes: LAYOUT.request_bytes,
        body: Body::Request(Request::of(RequestKind::Tensor)),
    };
    slot.request_mut().copy_in(0, &request.to_le_bytes()).unwrap();
    client.submit(Transfer::new(SERVER, frame, slot)).map_err(|it| it.why).unwrap();
}

/// Sends requests until the reply to the last of `count` came; for ever if that is `None`.
fn chatter(
    client: &mut ShmClient,
    session: SessionId,
    slots: Vec<ferry_memory::Slot>,
    count: Option<u64>,
) {
    let mut next = 0;
    for slot in slots {
        submit(client, session, next, slot);
        next += 1;
    }
    let (mut events, mut replies) = (Events::new(), 0);
    loop {
        client.poll(&mut events);
        if events.is_empty() {
            client.park(Duration::from_secs(1));
        }
        for event in events.drain(..) {
            match event {
                Event::Arrived { slot, .. } => {
                    replies += 1;
                    if Some(replies) == count {
                        return;
                    }
                    submit(client, session, next, slot);
                    next += 1;
                }
                Event::Sent { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
#[ignore = "not a test: the process that a_killed_client_leaves_nothing starts and kills"]
fn victim() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let told: Vec<&str> = line.split_whitespace().collect();
    let session = SessionId(told[1].parse().unwrap());
    let (mut client, slots) = connect(told[0], session, told[2].parse().unwrap());
    chatter(&mut client, session, slots, None);
}

fn start_victim(socket: &str, session: SessionId, bytes: u64) -> Child {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["victim", "--exact", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = victim.stdin.take().unwrap();
    writeln!(stdin, "{socket} {} {bytes}", session.0).unwrap();
    victim
}

/// Open descriptors, mapped memfds, and files where shared memory could have a name.
fn left() -> (usize, usize, Vec<String>) {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let maps = BufReader::new(std::fs::File::open("/proc/self/maps").unwrap());
    let mapped = maps.lines().filter(|line| line.as_ref().unwrap().contains("memfd:ferry"));
    let names = ["/dev/shm", "/tmp"].into_iter().flat_map(|folder| {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path().display().to_string())
    });
    let named = names.filter(|name| name.contains("ferry-death")).collect();
    (descriptors, mapped.count(), named)
}

struct Lane {
    listener: ShmListener,
    events: Events,
    /// The first requests of a victim are held, as by an engine that is at work.
    held: Vec<ferry_memory::Slot>,
}

impl Lane {
    /// Serves everybody until `session` is gone; says why.
    fn serve_until_gone(
        &mut self,
        session: SessionId,
        kill_after: u32,
        victim: Option<&mut Child>,
    ) -> LinkError {
        let (start, mut served, mut victim) = (Instant::now(), 0, victim);
        loop {
            assert!(start.elapsed() < WATCHDOG, "session {session} never went");
            self.listener.poll(&mut self.events);
            if self.events.is_empty() {
                self.listener.park(Duration::from_millis(100));
            }
            for event in std::mem::take(&mut self.events) {
                match event {
                    Event::Gone { session: gone, why, .. } if gone == Some(session) => return why,
                    Event::Arrived { peer, frame, slot, .. } => {
                        served += u32::from(frame.session == session);
                        if served >= kill_after
                            && let Some(victim) = victim.take()
                        {
                            victim.kill().unwrap();
                        }
                        let hold = frame.session != SURVIVOR && frame.request == 0;
                        if hold {
                            self.held.push(slot);
                        } else {
                            self.reply(peer, frame, slot);
                        }
                    }
                    Event::Joined { .. } | Event::Sent { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    fn reply(&mut self, peer: ferry_memory::PeerId, frame: Frame, slot: ferry_memory::Slot) {
        let times = StageTimes::NONE;
        let body = Body::Reply(Reply { status: Status::Ok, times, reply_ns_previous: None });
        let frame = Frame { payload_bytes: 8, body, ..frame };
        // A victim that was killed a moment ago takes no reply; that is for `Gone` to say.
        drop(self.listener.submit(Transfer::new(peer, frame, slot)));
    }

    fn admit(&mut self, session: SessionId) -> u64 {
        match self.listener.admit(admission(session)).unwrap() {
            RegionDescriptor::Memfd { bytes, .. } => bytes,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_killed_client_leaves_nothing() {
    let socket = format!("ferry-death-{}", std::process::id());
    let listener = ShmListener::bind(&socket).unwrap();
    let mut lane = Lane { listener, events: Events::new(), held: Vec::new() };
    let before = left();
    for (number, kill_after) in (10..).zip([1, 2, 3, 50, 1000, 5000]) {
        let session = SessionId(number);
        let bytes = lane.admit(session);
        let mut victim = start_victim(&socket, session, bytes);
        let why = lane.serve_until_gone(session, kill_after, Some(&mut victim));
        assert_eq!(why, LinkError::Closed);
        victim.wait().unwrap();
        drop(victim);
        let (descriptors, mapped, _) = left();
        assert_eq!(descriptors, before.0, "victim {number}");
        assert_eq!(mapped, lane.held.len(), "an engine's slot keeps the memory of victim {number}");
        // What a slow engine does now hurts nobody.
        lane.held[0].reply_mut().copy_in(0, b"late").unwrap();
        lane.held.clear();
        assert_eq!(left(), before, "victim {number}");
    }
    // The lane serves on.
    let bytes = lane.admit(SURVIVOR);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut client, slots) = connect(&socket, SURVIVOR, bytes);
            chatter(&mut client, SURVIVOR, slots, Some(1000));
        });
        let why = lane.serve_until_gone(SURVIVOR, 0, None);
        assert_eq!(why, LinkError::Bye(Status::SessionEnded));
    });
    assert_eq!(left(), before);
}
