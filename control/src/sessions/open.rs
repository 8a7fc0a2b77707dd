//! Opens, resumes and ends sessions.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use ferry_core::{
    Endpoint, Generation, RegionDescriptor, SessionId, Status, Token, Transport, error_text,
};
use ferry_memory::SlotTable;
use ferry_proto::v1;
use ferry_transport::{Admission, UnixClock};

use super::device::placer;
use super::session::Lease;
use super::{Agreed, Offer, Place, Session};
use crate::error::ApiError;
use crate::host::clock::unix_ns;
use crate::models::{Precision, Served};
use crate::serving::routes::{Meter, Recording};
use crate::state::State;
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
    /// The session's name, secret and lease, as its client presents them.
    pub fn reference(&self) -> v1::SessionRef {
        let session = &self.session;
        v1::SessionRef::new(session.id, session.token(), session.generation())
    }

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

/// Opens a session. A transport that the server chose and whose lane then refuses the session, such as
/// rdma while its device is away, is followed by the next best; one that was named is not.
///
/// # Errors
/// [`ApiError`] says what does not fit, and what would.
pub async fn open(
    state: &Arc<State>,
    caller: Caller,
    asked: v1::OpenSessionRequest,
) -> Result<Opened, ApiError> {
    state.takes_new()?;
    if asked.client_records && asked.unrecorded {
        let why = "not with client_records: either the client records the requests, or nobody";
        return Err(ApiError::field("unrecorded", why));
    }
    state.runs.check(&state.store, asked.run_id, &caller.identity).await?;
    let served = state.models.get(&asked.model, asked.version)?;
    let mut transports = state.transports();
    let mut refused = String::new();
    loop {
        let offer = Offer {
            transports: &transports,
            findings: &state.findings,
            request_bytes_max: state.config.request_bytes_max,
            is_inside: caller.is_inside,
        };
        let mut agreed = offer.agree(&asked, &served)?;
        agreed.reason.push_str(&refused);
        let transport = agreed.transport;
        let opened = start(state, &caller, &asked, &served, agreed).await;
        match opened {
            Err(error @ ApiError::Lane { .. }) if asked.transport() == v1::Transport::Auto => {
                // One less each time, and gRPC has no lane that could refuse.
                transports.retain(|it| *it != transport);
                tracing::warn!(%transport, %error, "auto chose a lane that refuses: the next one");
                refused.push_str(&format!(" ({transport} was refused: {error})"));
            }
            other => return other,
        }
    }
}

async fn start(
    state: &Arc<State>,
    caller: &Caller,
    asked: &v1::OpenSessionRequest,
    served: &Arc<Served>,
    agreed: Agreed,
) -> Result<Opened, ApiError> {
    let memory = state.lanes.bytes(agreed.transport, &agreed.layout).map_err(|error| {
        ApiError::field("slots", format!("{}; ask for fewer or smaller ones", error_text(&error)))
    })?;
    let memory_bytes = memory as u64;
    let held = caller.tenant.reserve(u64::from(agreed.layout.slots), memory_bytes)?;
    // Zero is no session.
    let id = SessionId(u64::from_ne_bytes(random()?).max(1));
    let recorder = &state.recorder;
    let recording = (!asked.client_records && !asked.unrecorded).then(|| Recording {
        recorder: recorder.clone(),
        run: asked.run_id,
        clock: UnixClock::read(),
    });
    let session = Arc::new(Session {
        id,
        token: Token::new(random()?),
        place: place(state, &agreed)?,
        _held: held,
        tenant: Arc::clone(&caller.tenant),
        served: Arc::clone(served),
        agreed,
        memory_bytes,
        run: asked.run_id,
        client: asked.client.clone(),
        opened: Instant::now(),
        meter: Arc::new(Meter::default()),
        recording,
        lease: Mutex::new(Lease {
            generation: Generation::FIRST,
            expires: Instant::now() + state.config.lease,
            over: false,
        }),
        turn: tokio::sync::Mutex::new(()),
    });
    let (endpoint, region) = admit(&session).await?;
    if let Err(error) = state.sessions.add(Arc::clone(&session)) {
        take_off(&session, Status::SessionEnded).await;
        return Err(error);
    }
    recorder.event(Event::Opened(Box::new(row(&session))));
    // A drain that began meanwhile has seen the session or is seen here.
    if let Err(error) = state.takes_new() {
        end(state, &session, Status::Draining, "draining").await;
        return Err(error);
    }
    tracing::info!(
        session = %id, model = session.served.label(), transport = %session.agreed.transport,
        tenant = session.tenant.name(), client = session.client, "session opened"
    );
    Ok(Opened { session, endpoint, region })
}

fn place(state: &State, agreed: &Agreed) -> Result<Place, ApiError> {
    if agreed.transport == Transport::Grpc {
        let table = SlotTable::private(agreed.layout);
        return Ok(Place::Inline(Mutex::new(table.map_err(|e| ApiError::Busy(error_text(&e)))?)));
    }
    let lane = state.lanes.best(agreed.transport).ok_or_else(|| ApiError::Transport {
        transport: agreed.transport,
        why: "its lane has just died".into(),
        fix: "see the server's log; auto chooses another".into(),
    })?;
    Ok(Place::Lane(Arc::clone(lane)))
}

pub(super) async fn admit(session: &Session) -> Result<(Endpoint, RegionDescriptor), ApiError> {
    let Place::Lane(lane) = &session.place else {
        return Ok((Endpoint::Grpc, RegionDescriptor::Framed));
    };
    let admission = Admission {
        session: session.id,
        generation: session.generation(),
        token: session.token,
        layout: session.agreed.layout,
        wait: session.agreed.wait,
        placer: placer(session),
    };
    let region = lane.admit(admission, session.route()).await?;
    Ok((lane.endpoint.clone(), region))
}

pub(super) async fn take_off(session: &Session, status: Status) {
    match &session.place {
        Place::Lane(lane) => lane.evict(session.id, status).await,
        Place::Inline(_) => {
            if let Some(table) = session.inline_slots() {
                table.retire();
            }
        }
    }
}

/// Ends a session: its client is told `status`, its memory goes. `false` if it was over already.
pub async fn end(
    state: &State,
    session: &Arc<Session>,
    status: Status,
    reason: &'static str,
) -> bool {
    let _turn = session.turn.lock().await;
    if std::mem::replace(&mut session.lease().over, true) {
        return false;
    }
    take_off(session, status).await;
    forget(state, session, reason);
    true
}

pub(super) fn forget(state: &State, session: &Session, reason: &'static str) {
    state.sessions.remove(session.id);
    state.recorder.event(Event::Closed { id: session.id, unix_ns: unix_ns(), reason });
    tracing::info!(
        session = %session.id, reason, requests = session.meter.requests(), "session ended"
    );
}

fn row(session: &Session) -> SessionRow {
    SessionRow {
        id: session.id,
        run: session.run,
        tenant: session.tenant.name().to_owned(),
        model: session.served.name.clone(),
        version: session.served.version.to_string(),
        engine: session.served.engine.to_owned(),
        device: session.served.device_name(),
        precision: session.served.precision.map(Precision::name),
        transport: session.agreed.transport,
        placement: session.agreed.placement,
        memory: session.agreed.memory,
        connection: Connection::Direct,
        wait: session.agreed.wait,
        slots: session.agreed.layout.slots,
        opened_unix_ns: unix_ns(),
    }
}
