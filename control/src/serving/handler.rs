//! What a lane does with the requests of its sessions.

use std::collections::HashMap;
use std::sync::Arc;

use ferry_core::{SessionId, StageTimes, Status};
use ferry_memory::{Arrival, Departure, PeerId, ReplyTo};
use ferry_transport::{Handler, LinkError, Refusal};

use crate::serving::refusals::Refusals;
use crate::serving::routes::{Route, Routes};

/// The handler of one lane. Its table of sessions is its own: no lock is taken for a request.
#[derive(Debug)]
pub(crate) struct LaneHandler {
    link: &'static str,
    routes: Arc<Routes>,
    refusals: Arc<Refusals>,
    outbox: Arc<dyn ReplyTo>,
    table: HashMap<SessionId, Entry>,
}

#[derive(Debug)]
struct Entry {
    route: Arc<Route>,
    back: Arc<Back>,
}

/// The way back of one lease's replies that come from other threads: gives back what they used,
/// then hands on to the lane.
#[derive(Debug)]
struct Back {
    route: Arc<Route>,
    outbox: Arc<dyn ReplyTo>,
}

impl ReplyTo for Back {
    fn depart(&self, departure: Departure) {
        self.route.end();
        self.outbox.depart(departure);
    }
}

impl LaneHandler {
    /// A handler that serves the sessions of `routes`. `link` is the lane's link by name.
    pub(crate) fn new(
        link: &'static str,
        routes: Arc<Routes>,
        refusals: Arc<Refusals>,
        outbox: Arc<dyn ReplyTo>,
    ) -> LaneHandler {
        LaneHandler { link, routes, refusals, outbox, table: HashMap::new() }
    }

    fn learn(&mut self) {
        let (table, outbox) = (&mut self.table, &self.outbox);
        self.routes.take(|session, route| match route {
            None => drop(table.remove(&session)),
            Some(route) => {
                let (to, outbox) = (Arc::clone(&route), Arc::clone(outbox));
                let back = Arc::new(Back { route: to, outbox });
                table.insert(session, Entry { route, back });
            }
        });
    }
}

impl Handler for LaneHandler {
    fn handle(&mut self, arrival: Arrival) -> Option<Departure> {
        self.learn();
        let found = self.table.get(&arrival.session);
        let Some(entry) = found.filter(|it| it.route.generation == arrival.generation) else {
            let text = "the session has ended: resume it or open another";
            return Some(arrival.fail(Status::SessionEnded, text, StageTimes::NONE));
        };
        let arrival = match entry.route.begin(arrival) {
            Ok(let_in) => let_in,
            Err(departure) => return Some(departure),
        };
        let back = Arc::clone(&entry.back) as Arc<dyn ReplyTo>;
        let departure = entry.route.dispatch(arrival, back, None)?;
        entry.route.end();
        Some(departure)
    }

    fn departs(&mut self, departure: &Departure) {
        if let Some(entry) = self.table.get(&departure.session) {
            entry.route.record(departure);
        }
    }

    fn joined(&mut self, _peer: PeerId, session: SessionId) {
        tracing::debug!(link = self.link, %session, "client joined");
    }

    fn gone(&mut self, peer: PeerId, session: Option<SessionId>, why: &LinkError) {
        let Some(session) = session else { return };
        tracing::debug!(link = self.link, %session, %why, "client gone");
        if let Some(entry) = self.table.get(&session) {
            entry.route.client_lost(session, peer);
        }
    }

    fn refused(&mut self, refusal: &Refusal) {
        self.learn();
        let (what, session) = kind_of(refusal);
        let whose = refusal.proved().and_then(|session| self.table.get(&session));
        let tenant = whose.map(|entry| entry.route.tenant.name());
        self.refusals.note(self.link, what, session, tenant, refusal);
    }
}

/// A refusal's name in SQL, and the session where one can be told.
fn kind_of(refusal: &Refusal) -> (&'static str, Option<SessionId>) {
    match refusal {
        Refusal::Frame(_) => ("bad_frame", None),
        Refusal::Credentials(session) => ("forged_token", Some(*session)),
        Refusal::Stranger { session, .. } => ("no_proof", Some(*session)),
        Refusal::Session { own, .. } => ("foreign_session", Some(*own)),
        Refusal::Generation { session, .. } => ("stale_generation", Some(*session)),
        Refusal::Slot { session, .. } => ("bad_slot", Some(*session)),
        Refusal::Length { session, .. } => ("bad_length", Some(*session)),
        Refusal::Kind(session) => ("unexpected_frame", Some(*session)),
        Refusal::Breach { session, .. } => ("breach", Some(*session)),
    }
}
