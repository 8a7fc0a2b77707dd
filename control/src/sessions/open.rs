//! Opens, resumes and ends sessions.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ferry_core::{
    Attachment, Endpoint, Generation, RegionDescriptor, SessionId, Status, Token, Transport,
};
use ferry_memory::SlotTable;
use ferry_proto::v1;
use ferry_transport::{Admission, UnixClock};

use super::device::placer;
use super::session::Lease;
use super::{Offer, Place, Session, Tenant};
use crate::clock::unix_ns;
use crate::error::{ApiError, chain};
use crate::routes::{Meter, Recording};
use crate::state::State;
use crate::store::{Connection, Event, SessionRow};

/// Who opens a session.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Whose quota it is.
    pub tenant: Arc<Tenant>,
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

/// Opens a session.
///
/// # Errors
/// [`ApiError`] says what does not fit, and what would.
pub async fn open(
    state: &Arc<State>,
    caller: Caller,
    asked: v1::OpenSessionRequest,
) -> Result<Opened, ApiError> {
    state.takes_new()?;
    state.runs.check(&state.store, asked.run_id).await?;
    let served = state.models.get(&asked.model, asked.version)?;
    let transports = state.transports();
    let offer = Offer {
        transports: &transports,
        findings: &state.findings,
        request_bytes_max: state.config.request_bytes_max,
        is_inside: caller.is_inside,
    };
    let agreed = offer.agree(&asked, &served)?;
    let memory = state.lanes.bytes(agreed.transport, &agreed.layout).map_err(|error| {
        ApiError::field("slots", format!("{}; ask for fewer or smaller ones", chain(&error)))
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
        tenant: caller.tenant,
        served,
        agreed,
        memory_bytes,
        run: asked.run_id,
        client: asked.client,
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

fn place(state: &State, agreed: &super::Agreed) -> Result<Place, ApiError> {
    if agreed.transport == Transport::Grpc {
        let table = SlotTable::private(agreed.layout);
        return Ok(Place::Inline(Mutex::new(table.map_err(|e| ApiError::Busy(chain(&e)))?)));
    }
    let lane = state.lanes.best(agreed.transport).ok_or_else(|| ApiError::Transport {
        transport: agreed.transport,
        why: "its lane has just died".into(),
        fix: "see the server's log; auto chooses another".into(),
    })?;
    Ok(Place::Lane(Arc::clone(lane)))
}

async fn admit(session: &Session) -> Result<(Endpoint, RegionDescriptor), ApiError> {
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

/// Tells a session's link of its client's end. May be called again, with another address, until
/// the client has joined.
///
/// # Errors
/// [`ApiError`] if the proof does not fit, the session's link takes no attachments, the client has
/// joined already, or the link cannot reach the client's end.
pub async fn attach(
    state: &Arc<State>,
    id: SessionId,
    token: &Token,
    generation: Generation,
    attachment: Attachment,
) -> Result<RegionDescriptor, ApiError> {
    let session = state.sessions.prove(id, token, generation)?;
    let _turn = session.turn.lock().await;
    {
        let lease = session.lease();
        if lease.over || lease.generation != generation {
            return Err(ApiError::Credentials);
        }
    }
    match &session.place {
        Place::Lane(lane) if lane.transport == Transport::Rdma => lane.attach(id, attachment).await,
        _ => {
            let transport = session.agreed.transport;
            let why = format!(
                "it is on {transport}, whose clients connect by themselves; only sessions on rdma \
                 and gdr are attached"
            );
            Err(ApiError::field("session", why))
        }
    }
}

async fn take_off(session: &Session, status: Status) {
    match &session.place {
        Place::Lane(lane) => lane.evict(session.id, status).await,
        Place::Inline(_) => {
            if let Some(table) = session.inline_slots() {
                table.retire();
            }
        }
    }
}

/// Takes a session up again: the old lease is fenced before the new one begins.
///
/// # Errors
/// [`ApiError::Credentials`] if the proof does not fit; then nothing has changed. If the lane
/// does not take the new lease, the session is over.
pub async fn resume(
    state: &Arc<State>,
    id: SessionId,
    token: &Token,
    generation: Generation,
) -> Result<Opened, ApiError> {
    state.takes_new()?;
    let session = state.sessions.prove(id, token, generation)?;
    let turn = session.turn.lock().await;
    {
        // Whoever resumed or ended it meanwhile was first.
        let mut lease = session.lease();
        if lease.over || lease.generation != generation {
            return Err(ApiError::Credentials);
        }
        let next = generation.next().ok_or(ApiError::Credentials)?;
        (lease.generation, lease.expires) = (next, Instant::now() + state.config.lease);
    }
    take_off(&session, Status::SessionEnded).await;
    if let Place::Inline(slots) = &session.place {
        let table = SlotTable::private(session.agreed.layout);
        let table = table.map_err(|error| ApiError::Busy(chain(&error)))?;
        *slots.lock().unwrap_or_else(PoisonError::into_inner) = table;
    }
    match admit(&session).await {
        Ok((endpoint, region)) => {
            tracing::info!(session = %id, generation = generation.0 + 1, "session resumed");
            drop(turn);
            Ok(Opened { session, endpoint, region })
        }
        Err(error) => {
            session.lease().over = true;
            forget(state, &session, "not_admitted");
            Err(error)
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

fn forget(state: &State, session: &Session, reason: &'static str) {
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
        transport: session.agreed.transport,
        placement: session.agreed.placement,
        memory: session.agreed.memory,
        connection: Connection::Direct,
        wait: session.agreed.wait,
        slots: session.agreed.layout.slots,
        opened_unix_ns: unix_ns(),
    }
}
