//! Opens and ends sessions.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use ferry_core::{
    Endpoint, Generation, LinkKind, RecordedBy, RegionDescriptor, SessionId, SessionSpec, Slots,
    Status, Token, error_text,
};
use ferry_memory::SlotTable;
use ferry_transport::{Admission, UnixClock};

use super::agree::Offer;
use super::session::Lease;
use super::{Agreed, Parts, Place, Session, Sessions};
use crate::error::ApiError;
use crate::host::clock::unix_ns;
use crate::models::{Precision, Used};
use crate::serving::lanes::Lanes;
use crate::serving::routes::{Meter, Recording};
use crate::store::{Connection, Event, SessionRow};
use crate::tenants::{Identity, Tenant};

/// Who opens a session.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Whose quota it is.
    pub tenant: Arc<Tenant>,
    /// Whose runs it may name.
    pub identity: Identity,
    /// The server itself: it may use `local`.
    pub is_inside: bool,
}

/// A session with what its client has to know.
#[derive(Debug)]
pub struct Opened {
    /// The session.
    pub session: Arc<Session>,
    /// Where its link is; `local` has none on the wire.
    pub endpoint: Endpoint,
    /// How its memory is reached.
    pub region: RegionDescriptor,
}

impl Opened {
    /// The session's secret.
    pub fn token(&self) -> &Token {
        self.session.token()
    }
}

fn random<const N: usize>() -> Result<[u8; N], ApiError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| ApiError::Internal(format!("no randomness: {error}")))?;
    Ok(bytes)
}

impl Sessions {
    /// Opens a session. A transport that the server chose and whose lane then refuses the session,
    /// such as rdma while its device is away, is followed by the next best; one that was named is
    /// not.
    ///
    /// # Errors
    /// [`ApiError`] says what does not fit, and what would.
    pub async fn open(&self, caller: Caller, spec: SessionSpec) -> Result<Opened, ApiError> {
        let Parts { runs, store, residents, gate, carriers, limits, .. } = &self.parts;
        gate.takes_new()?;
        runs.check(store, spec.run, &caller.identity).await?;
        let served = residents.take(&caller.tenant, &spec.model, spec.version, None).await?;
        let (mut refused, mut reasons) = (Vec::new(), String::new());
        loop {
            let offer = Offer {
                carriers,
                refused: &refused,
                request_bytes_max: limits.request_bytes_max,
                is_inside: caller.is_inside,
            };
            let mut agreed = offer.agree(&spec, &served)?;
            agreed.reason.push_str(&reasons);
            let transport = agreed.transport;
            match self.start(&caller, &spec, &served, agreed).await {
                Err(error @ ApiError::Lane { .. }) if spec.transport.is_none() => {
                    // One less each time, and gRPC has no lane that could refuse.
                    refused.push(transport);
                    tracing::warn!(%transport, %error, "auto chose a lane that refuses: the next");
                    reasons.push_str(&format!(" ({transport} was refused: {error})"));
                }
                other => return other,
            }
        }
    }

    async fn start(
        &self,
        caller: &Caller,
        spec: &SessionSpec,
        served: &Used,
        agreed: Agreed,
    ) -> Result<Opened, ApiError> {
        let session = self.make(caller, spec, served, agreed)?;
        let (endpoint, region) = admit(&session).await?;
        if let Err(error) = self.add(Arc::clone(&session)) {
            take_off(&session, Status::SessionEnded).await;
            return Err(error);
        }
        self.parts.recorder.event(Event::Opened(Box::new(row(&session))));
        // A drain that began meanwhile has seen the session or is seen here.
        if let Err(error) = self.parts.gate.takes_new() {
            self.end(&session, Status::Draining, "draining").await;
            return Err(error);
        }
        tracing::info!(
            session = %session.id, model = session.served().label(),
            transport = %session.agreed.transport, tenant = session.tenant.name(),
            client = session.client, "session opened"
        );
        Ok(Opened { session, endpoint, region })
    }

    /// A session that no lane knows yet.
    fn make(
        &self,
        caller: &Caller,
        spec: &SessionSpec,
        served: &Used,
        agreed: Agreed,
    ) -> Result<Arc<Session>, ApiError> {
        let Parts { lanes, recorder, limits, .. } = &self.parts;
        let memory = agreed.carrier.bytes(&agreed.layout).map_err(|error| {
            let why = format!("{}; ask for fewer or smaller ones", error_text(&error));
            ApiError::field("slots", why)
        })?;
        let memory_bytes = memory as u64;
        let held = caller.tenant.reserve(u64::from(agreed.layout.slots), memory_bytes)?;
        let recording = (spec.recorded_by == RecordedBy::Server).then(|| Recording {
            recorder: recorder.clone(),
            run: spec.run,
            clock: UnixClock::read(),
        });
        Ok(Arc::new(Session {
            // Zero is no session.
            id: SessionId(u64::from_ne_bytes(random()?).max(1)),
            token: Token::new(random()?),
            place: place(lanes, &agreed)?,
            _held: held,
            tenant: Arc::clone(&caller.tenant),
            model: Mutex::new(served.by_session()),
            agreed,
            memory_bytes,
            run: spec.run,
            client: spec.client.clone(),
            timeout: spec.timeout,
            opened: Instant::now(),
            meter: Arc::new(Meter::default()),
            recording,
            lease: Mutex::new(Lease {
                generation: Generation::FIRST,
                expires: Instant::now() + limits.lease,
                over: false,
            }),
            turn: tokio::sync::Mutex::new(()),
        }))
    }

    /// Ends a session: its client is told `status`, its memory goes. `false` if it was over
    /// already.
    pub async fn end(&self, session: &Arc<Session>, status: Status, reason: &'static str) -> bool {
        let _turn = session.turn.lock().await;
        if std::mem::replace(&mut session.lease().over, true) {
            return false;
        }
        take_off(session, status).await;
        self.forget(session, reason);
        true
    }

    pub(super) fn forget(&self, session: &Session, reason: &'static str) {
        self.remove(session.id);
        self.parts.recorder.event(Event::Closed { id: session.id, unix_ns: unix_ns(), reason });
        tracing::info!(
            session = %session.id, reason, requests = session.meter.requests(), "session ended"
        );
    }
}

fn place(lanes: &Lanes, agreed: &Agreed) -> Result<Place, ApiError> {
    if agreed.transport.facts().slots == Slots::Message {
        let table = SlotTable::private(agreed.layout);
        return Ok(Place::Inline(Mutex::new(table.map_err(|e| ApiError::Busy(error_text(&e)))?)));
    }
    let lane = lanes.best(agreed.transport.link()).ok_or_else(|| ApiError::Transport {
        transport: agreed.transport,
        why: "its lane has just died".into(),
        fix: "see the server's log; auto chooses another".into(),
    })?;
    Ok(Place::Lane(Arc::clone(lane)))
}

pub(super) async fn admit(session: &Session) -> Result<(Endpoint, RegionDescriptor), ApiError> {
    let Place::Lane(lane) = &session.place else {
        return Ok((Endpoint::bare(LinkKind::Grpc), RegionDescriptor::Framed));
    };
    let admission = Admission {
        session: session.id,
        generation: session.generation(),
        token: session.token,
        layout: session.agreed.layout,
        wait: session.agreed.wait,
        placer: session.placer(),
    };
    let region = lane.admit(admission, session.route()).await?;
    Ok((lane.endpoint.clone(), region))
}

pub(super) async fn take_off(session: &Session, status: Status) {
    // First, so that the lane still answers for what waits.
    session.served().pool.session_over(session.id, None);
    match &session.place {
        Place::Lane(lane) => lane.evict(session.id, status).await,
        Place::Inline(_) => {
            if let Some(table) = session.inline_slots() {
                table.retire();
            }
        }
    }
    // What came meanwhile.
    session.served().pool.session_over(session.id, None);
}

fn row(session: &Session) -> SessionRow {
    let served = session.served();
    SessionRow {
        id: session.id,
        run: session.run,
        tenant: session.tenant.name().to_owned(),
        model: served.name.clone(),
        version: served.version.to_string(),
        engine: served.engine.to_owned(),
        device: served.device_name(),
        precision: served.precision.map(Precision::name),
        transport: session.agreed.transport,
        placement: session.agreed.placement,
        memory: session.agreed.memory,
        connection: Connection::Direct,
        wait: session.agreed.wait,
        slots: session.agreed.layout.slots,
        opened_unix_ns: unix_ns(),
    }
}
