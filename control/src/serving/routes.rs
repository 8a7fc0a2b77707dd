//! From a request that arrived to the model of its session, and the accounts that this takes.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use ferry_core::{
    BoundSignature, Generation, MemoryChoice, RequestRecord, SessionId, StageTimes, Status,
    payload_bytes,
};
use ferry_engine::Work;
use ferry_memory::{Arrival, Departure, PeerId, ReplyTo};
use ferry_transport::UnixClock;

use crate::host::rate::Bucket;
use crate::models::{Counts, Served, Timed};
use crate::store::Recorder;
use crate::tenants::Tenant;

/// What one session has been served.
#[derive(Debug, Default)]
pub struct Meter {
    requests: AtomicU64,
    in_flight: AtomicU64,
    /// Rows that its client said it had to drop.
    dropped: AtomicU64,
}

impl Meter {
    /// Requests that were let in.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Requests that are being served.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Notes rows that the client had to drop; how many of them can be: it has no more rows than
    /// requests.
    pub fn drop_rows(&self, rows: u64) -> u64 {
        let requests = self.requests();
        let more = |before: u64| Some(before.saturating_add(rows).min(requests));
        let before = self.dropped.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        let before = before.unwrap_or_default();
        before.saturating_add(rows).min(requests).saturating_sub(before)
    }
}

/// How the server records the requests of a session whose client does not.
#[derive(Clone, Debug)]
pub struct Recording {
    /// Where to.
    pub recorder: Recorder,
    /// The run that they belong to; 0 is the server's own.
    pub run: i64,
    /// Gives records their wall-clock start.
    pub clock: UnixClock,
}

/// Where the requests of one lease go.
#[derive(Debug)]
pub struct Route {
    /// The model. Its session keeps it; a lane that hears nothing must not.
    pub served: Weak<Served>,
    /// The shapes of the session.
    pub binding: Arc<BoundSignature>,
    /// What the session wants host memory to be to a device.
    pub memory: MemoryChoice,
    /// The lease.
    pub generation: Generation,
    /// Whose quota of requests in flight it uses.
    pub tenant: Arc<Tenant>,
    /// Counts its requests.
    pub meter: Arc<Meter>,
    /// Set where the server records.
    pub recording: Option<Recording>,
    /// The largest reply that the model was told of, in bytes: of a smaller one it learns nothing.
    pub largest: AtomicU64,
    /// What the model was asked. Outlives it, as far as this session's last requests need.
    pub counts: Arc<Counts>,
    /// How long that took. Where a lane has the session, its thread alone writes here.
    pub timed: Arc<Timed>,
    /// How many items of a batch a request has.
    pub items: u64,
    /// How often the tenant may ask the model; `None`: as often as it likes.
    pub bucket: Option<Arc<Bucket>>,
    /// How long after its arrival a request's answer is of use; `None`: for ever.
    pub timeout: Option<Duration>,
}

impl Route {
    /// Lets a request in: counts it.
    ///
    /// # Errors
    /// The reply that says that a rate or a quota is used up.
    #[expect(clippy::result_large_err, reason = "the other variant is larger still")]
    pub fn begin(&self, arrival: Arrival) -> Result<Arrival, Departure> {
        if let Err(text) = self.keep_to_rates(arrival.visible) {
            return Err(arrival.fail(Status::RateLimited, &text, StageTimes::NONE));
        }
        if let Err(limit) = self.tenant.begin() {
            let tenant = self.tenant.name();
            let text = format!(
                "tenant {tenant}: quota in-flight is {limit}; wait for replies, or ask the \
                 operator to raise quota-in-flight"
            );
            return Err(arrival.fail(Status::Overloaded, &text, StageTimes::NONE));
        }
        self.meter.requests.fetch_add(1, Ordering::Relaxed);
        self.meter.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(arrival)
    }

    /// That neither the model's rate nor the tenant's is used up.
    fn keep_to_rates(&self, now: Instant) -> Result<(), String> {
        let of_model = self.bucket.as_deref().map(|bucket| (bucket, "this model"));
        let of_tenant = self.tenant.bucket().map(|bucket| (bucket, "all models together"));
        for (bucket, what) in of_model.into_iter().chain(of_tenant) {
            bucket.take(now).map_err(|wait| over_rate(&self.tenant, bucket, what, wait))?;
        }
        Ok(())
    }

    /// Serves a request, or sees to it that it is served; see [`ferry_engine::Pool::dispatch`]. It
    /// has until `deadline`, if there is one, and no longer than all requests of this route.
    pub fn dispatch(
        &self,
        arrival: Arrival,
        reply_to: Arc<dyn ReplyTo>,
        deadline: Option<Instant>,
    ) -> Option<Departure> {
        let Some(served) = self.served.upgrade() else {
            let text = "the session has ended: open another";
            return Some(arrival.fail(Status::SessionEnded, text, StageTimes::NONE));
        };
        let (binding, memory) = (Arc::clone(&self.binding), self.memory);
        let own = self.timeout.and_then(|timeout| arrival.seen.checked_add(timeout));
        let deadline = deadline.into_iter().chain(own).min();
        served.pool.dispatch(Work { arrival, binding, memory, reply_to, deadline })
    }

    /// The link of a session to `peer` broke: what waits of it need not run.
    pub fn client_lost(&self, session: SessionId, peer: PeerId) {
        if let Some(served) = self.served.upgrade() {
            served.pool.session_over(session, Some(peer));
        }
    }

    /// A caller went away: what it waits for need not run.
    pub fn caller_gone(&self, session: SessionId, peer: PeerId) {
        if let Some(served) = self.served.upgrade() {
            served.pool.callers_gone(session, peer);
        }
    }

    /// Notes how large the outputs were, where they were not as the session agreed.
    fn learn(&self, departure: &Departure) {
        let served = matches!(departure.status, Status::Ok | Status::ReplyTooLarge);
        let Some(outputs) = departure.outputs.as_deref().filter(|_| served) else { return };
        let Some(parts) = self.binding.parts(outputs) else { return };
        let bytes = payload_bytes(&parts);
        if self.largest.fetch_max(bytes, Ordering::Relaxed) < bytes
            && let Some(served) = self.served.upgrade()
        {
            served.rooms.learn(&self.binding, bytes);
        }
    }

    /// A request that was let in is served.
    pub fn end(&self) {
        self.tenant.end();
        self.meter.in_flight.fetch_sub(1, Ordering::Release);
    }

    /// A request's accounts are closed: counts it, and records it where the server does.
    pub fn record(&self, departure: &Departure) {
        self.counts.count(self.items, departure);
        self.timed.note(departure);
        self.learn(departure);
        let Some(recording) = &self.recording else { return };
        recording.recorder.record(RequestRecord {
            run: recording.run,
            session: departure.session,
            request: departure.request,
            started_unix_ns: recording.clock.unix_ns(departure.seen),
            kind: departure.what.kind.name(),
            batch: departure.what.batch,
            priority: departure.what.priority,
            bytes_in: departure.request_bytes as u64,
            bytes_out: departure.payload_bytes as u64,
            status: departure.status,
            trace: departure.what.trace,
            times: departure.times,
        });
    }
}

/// That a rate is used up, and when to try again.
pub(super) fn over_rate(tenant: &Tenant, bucket: &Bucket, what: &str, wait: Duration) -> String {
    let (tenant, rate) = (tenant.name(), bucket.rate());
    format!("tenant {tenant} may ask {what} for {rate}: try again in {wait:?}")
}

/// How a lane's handler learns of sessions: changes are put here before the link is told, and the
/// handler takes them before it looks a session up. While nothing changes, that is one load.
#[derive(Debug, Default)]
pub struct Routes {
    changed: AtomicBool,
    state: Mutex<Changes>,
}

#[derive(Debug, Default)]
struct Changes {
    /// At most one for each session: a later one replaces it.
    pending: Vec<(SessionId, Option<Arc<Route>>)>,
    /// Sessions that the handler has: only these are told to be forgotten, so that sessions which
    /// come and go without a request leave nothing here.
    known: HashSet<SessionId>,
}

impl Routes {
    fn state(&self) -> MutexGuard<'_, Changes> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets or replaces the route of a session.
    pub fn put(&self, session: SessionId, route: Arc<Route>) {
        let mut state = self.state();
        state.pending.retain(|(known, _)| *known != session);
        state.pending.push((session, Some(route)));
        self.changed.store(true, Ordering::Release);
    }

    /// Forgets a session.
    pub fn remove(&self, session: SessionId) {
        let mut state = self.state();
        state.pending.retain(|(known, _)| *known != session);
        if state.known.contains(&session) {
            state.pending.push((session, None));
            self.changed.store(true, Ordering::Release);
        }
    }

    /// Takes what changed, oldest first.
    pub fn take(&self, mut apply: impl FnMut(SessionId, Option<Arc<Route>>)) {
        if !self.changed.load(Ordering::Acquire) {
            return;
        }
        let mut state = self.state();
        self.changed.store(false, Ordering::Relaxed);
        let taken = std::mem::take(&mut state.pending);
        for (session, route) in &taken {
            match route {
                Some(_) => state.known.insert(*session),
                None => state.known.remove(session),
            };
        }
        drop(state);
        for (session, route) in taken {
            apply(session, route);
        }
    }
}
