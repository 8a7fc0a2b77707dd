//! The loop of a lane.

mod reply;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{
    Body, Frame, Generation, RegionDescriptor, RequestKind, SessionId, StageTimes, Status,
    WaitPolicy,
};
use ferry_memory::{Arrival, PeerId};

use super::handle::{Command, Shared};
use super::ids::IdMap;
use super::{Handler, LaneOptions};
use crate::admitted::Admission;
use crate::link::{AdmitError, EVENTS_PER_POLL_MAX, Event, Events, Listener};
use crate::wait::{Waiter, where_it_pays};

/// Longest sleep in one go. Only a guard: link, outbox and commands end the sleep.
const PARK_MAX: Duration = Duration::from_secs(1);

/// What the lane keeps of a session.
#[derive(Debug)]
struct Session {
    generation: Generation,
    wait: WaitPolicy,
    peer: Option<PeerId>,
    /// The last reply submitted, and how long the link took over it once that is known.
    last_reply: Option<(u64, Option<u64>)>,
    /// Replies that the link has and has not handed on.
    leaving: u64,
}

/// The state of the lane's thread.
pub(super) struct Lane {
    shared: Arc<Shared>,
    link: Box<dyn Listener>,
    handler: Box<dyn Handler>,
    sessions: IdMap<SessionId, Session>,
    by_peer: IdMap<PeerId, SessionId>,
    events: Events,
    waiter: Waiter,
    /// When the lane slept last, and until when.
    slept: Option<(Instant, Instant)>,
    most_eager: WaitPolicy,
    in_flight: u64,
    in_flight_max: u64,
    /// Of all sessions.
    leaving: u64,
    draining: bool,
    stopping: bool,
}

impl Lane {
    pub(super) fn new(
        options: &LaneOptions,
        shared: Arc<Shared>,
        link: Box<dyn Listener>,
        handler: Box<dyn Handler>,
    ) -> Lane {
        Lane {
            in_flight_max: shared.outbox().capacity() as u64,
            shared,
            link,
            handler,
            sessions: IdMap::default(),
            by_peer: IdMap::default(),
            events: Vec::with_capacity(EVENTS_PER_POLL_MAX),
            waiter: Waiter::new(WaitPolicy::Block),
            slept: None,
            most_eager: options.most_eager,
            in_flight: 0,
            leaving: 0,
            draining: false,
            stopping: false,
        }
    }

    /// Serves until it is told to stop.
    pub(super) fn run(&mut self) {
        while !self.stopping {
            if self.turn() {
                self.waiter.busy();
            } else if self.waiter.keeps_polling() {
                std::hint::spin_loop();
            } else {
                self.sleep();
            }
        }
        for &session in self.sessions.keys() {
            self.link.evict(session, Status::Draining);
        }
    }

    /// One turn of the loop; whether there was anything to do.
    fn turn(&mut self) -> bool {
        self.shared.counters.polls.bump();
        let mut events = std::mem::take(&mut self.events);
        self.link.poll(&mut events);
        let mut busy = !events.is_empty();
        for event in events.drain(..) {
            self.on_event(event);
        }
        self.events = events;
        busy |= self.empty_outbox();
        busy | self.obey()
    }

    fn sleep(&mut self) {
        let outbox = self.shared.outbox();
        outbox.before_sleep();
        if outbox.is_empty() && self.shared.commands.is_empty() {
            self.shared.counters.parks.bump();
            let from = Instant::now();
            self.link.park(PARK_MAX);
            let until = Instant::now();
            self.waiter.slept(until.duration_since(from));
            self.slept = Some((from, until));
        }
        outbox.after_sleep();
    }

    fn on_event(&mut self, event: Event) {
        let counters = &self.shared.counters;
        match event {
            Event::Arrived { peer, frame, slot, tail: _, seen, visible } => {
                counters.arrivals.bump();
                // Links let only requests through to here.
                let Body::Request(what) = frame.body else { return };
                let payload_bytes = usize::try_from(frame.payload_bytes).unwrap_or(usize::MAX);
                let Frame { session, generation, request, .. } = frame;
                self.arrive(Arrival {
                    peer,
                    session,
                    generation,
                    request,
                    what,
                    payload_bytes,
                    slot,
                    seen,
                    visible,
                });
            }
            Event::Sent { peer, request, elapsed_ns } => self.sent(peer, request, elapsed_ns),
            Event::Joined { peer, session } => {
                counters.joins.bump();
                if let Some(known) = self.sessions.get_mut(&session) {
                    known.peer = Some(peer);
                    self.by_peer.insert(peer, session);
                }
                self.handler.joined(peer, session);
            }
            Event::Refused(refusal) => {
                counters.refusals.bump();
                self.handler.refused(&refusal);
            }
            Event::Gone { peer, session, why, slots: _ } => {
                counters.gone.bump();
                if let Some(session) = self.by_peer.remove(&peer)
                    && let Some(known) = self.sessions.get_mut(&session)
                {
                    known.peer = None;
                    let lost = std::mem::take(&mut known.leaving);
                    self.left(lost);
                }
                self.handler.gone(peer, session, &why);
            }
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        let counters = &self.shared.counters;
        let times = StageTimes::NONE;
        let departure = if arrival.what.kind == RequestKind::Ping {
            counters.pings.bump();
            Some(arrival.depart(0, times))
        } else if self.draining {
            counters.turned_away.bump();
            Some(arrival.fail(Status::Draining, "the server is draining; use another", times))
        } else if self.in_flight >= self.in_flight_max {
            counters.turned_away.bump();
            let text = "the lane has too many requests in flight; try again later";
            Some(arrival.fail(Status::Overloaded, text, times))
        } else {
            self.in_flight += 1;
            counters.in_flight.set(self.in_flight);
            if let Some(departure) = self.handler.handle(arrival) {
                self.depart(departure);
            }
            return;
        };
        if let Some(departure) = departure {
            self.reply(departure);
        }
    }

    /// Does what other threads asked for.
    fn obey(&mut self) -> bool {
        if self.shared.commands.is_empty() {
            return false;
        }
        while let Some(command) = self.shared.commands.pop() {
            match command {
                Command::Admit(admission, answer) => answer(self.admit(admission)),
                Command::Attach(session, attachment, answer) => {
                    answer(self.link.attach(session, &attachment));
                }
                Command::Evict(session, status, answer) => {
                    self.evict(session, status);
                    answer(());
                }
                Command::Drain(answer) => {
                    self.draining = true;
                    answer(());
                }
                Command::Stop => self.stopping = true,
            }
        }
        true
    }

    fn admit(&mut self, admission: Admission) -> Result<RegionDescriptor, AdmitError> {
        let Admission { session, generation, wait, .. } = admission;
        let descriptor = self.link.admit(admission)?;
        let fresh = Session { generation, wait, peer: None, last_reply: None, leaving: 0 };
        if let Some(old) = self.sessions.insert(session, fresh) {
            self.left(old.leaving);
        }
        self.choose_policy();
        Ok(descriptor)
    }

    fn evict(&mut self, session: SessionId, status: Status) {
        self.link.evict(session, status);
        if let Some(Session { peer, leaving, .. }) = self.sessions.remove(&session) {
            peer.and_then(|peer| self.by_peer.remove(&peer));
            self.left(leaving);
        }
        self.choose_policy();
    }

    /// Waits as the most eager session wishes, within the lane's bound; sleeps without sessions.
    fn choose_policy(&mut self) {
        let rank = |policy: WaitPolicy| WaitPolicy::ALL.iter().position(|&it| it == policy);
        let wished = self.sessions.values().map(|session| session.wait).min_by_key(|&it| rank(it));
        let wished = wished.unwrap_or(WaitPolicy::Block);
        let bound = self.most_eager;
        let policy = if rank(wished) < rank(bound) { bound } else { wished };
        self.waiter.set_policy(where_it_pays(policy, self.link.capabilities().threads));
    }
}
