//! `ferry.v1.Local`: the link `local`, driven inside the server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferry_core::{Request as What, Status, WaitPolicy};
use ferry_memory::SlotTable;
use ferry_proto::{server_times_to_wire, stages_to_wire, v1};
use ferry_transport::{Driver, DriverOptions, DriverState, Ending, RecordSink, UnixClock};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response};

use super::{drive, inline, tenant};
use crate::error::{ApiError, chain};
use crate::sessions::{Caller, Opened, Place, Tenant, end, open};
use crate::state::State;

/// How long a request may take.
const REPLY_WITHIN: Duration = Duration::from_secs(60);

/// The service.
#[derive(Clone, Debug)]
pub struct LocalService(pub Arc<State>);

type Reply<T> = Result<Response<T>, tonic::Status>;

/// A session of the server with itself.
#[derive(Debug)]
pub(super) struct Inside {
    pub(super) opened: Opened,
    pub(super) driver: Driver,
    pub(super) table: Arc<SlotTable>,
}

impl Inside {
    /// Opens a session and connects its client's end. Its records go to `sink`.
    pub(super) async fn open(
        state: &Arc<State>,
        tenant: Arc<Tenant>,
        mut asked: v1::OpenSessionRequest,
        sink: Arc<dyn RecordSink>,
    ) -> Result<Inside, ApiError> {
        asked.client_records = true;
        let wait = WaitPolicy::from(asked.wait());
        let caller = Caller { tenant, is_inside: true };
        let opened = open(state, caller, asked).await?;
        match Inside::connect(&opened, wait, sink) {
            Ok((driver, table)) => Ok(Inside { opened, driver, table }),
            Err(error) => {
                end(state, &opened.session, Status::SessionEnded, "not_connected").await;
                Err(error)
            }
        }
    }

    fn connect(
        opened: &Opened,
        wait: WaitPolicy,
        sink: Arc<dyn RecordSink>,
    ) -> Result<(Driver, Arc<SlotTable>), ApiError> {
        let session = &opened.session;
        let Place::Lane(lane) = &session.place else {
            return Err(ApiError::Internal("a local session without a lane".into()));
        };
        let door = lane.door.as_ref();
        let door = door.ok_or_else(|| ApiError::Internal("a local lane without a door".into()))?;
        let generation = session.generation();
        let connected = door.connect(session.id, generation, opened.token());
        let (client, table) = connected
            .map_err(|error| ApiError::Lane { lane: lane.name.clone(), why: chain(&error) })?;
        let options = DriverOptions {
            session: session.id,
            generation,
            run: session.run,
            wait,
            first_request: 1,
            clock: UnixClock::read(),
        };
        Ok((Driver::new(Box::new(client), options, sink), table))
    }

    /// Sends one request and waits. Blocks.
    fn infer(&mut self, what: What, payload: &[u8]) -> Result<inline::Answer, ApiError> {
        let filling = Instant::now();
        let full = || ApiError::Internal("a new session has no free slot".into());
        let mut slot = self.table.acquire().ok_or_else(full)?;
        let room = slot.request_bytes_mut().and_then(|room| room.get_mut(..payload.len()));
        room.ok_or_else(|| ApiError::field("payload", "it is longer than the slot"))?
            .copy_from_slice(payload);
        let fill_ns = u64::try_from(filling.elapsed().as_nanos()).ok();
        let submitted = self.driver.submit(slot, payload.len(), what, fill_ns);
        submitted.map_err(|error| ApiError::Internal(chain(&error)))?;
        if !self.driver.wait(Some(Instant::now() + REPLY_WITHIN)) {
            let text = match self.driver.state() {
                DriverState::Live => format!("no reply within {REPLY_WITHIN:?}"),
                DriverState::Lost(why) => why.to_string(),
            };
            return Err(ApiError::Request { status: Status::LinkLost, text });
        }
        let done = self.driver.take().ok_or_else(full)?;
        let whole = done.slot.as_ref().and_then(|slot| slot.reply_bytes()).unwrap_or_default();
        let payload = whole.get(..done.payload_bytes).unwrap_or_default();
        if done.ending != Ending::Replied || done.status != Status::Ok {
            let text = String::from_utf8_lossy(payload).into_owned();
            return Err(ApiError::Request { status: done.status, text });
        }
        Ok(inline::Answer { payload: Bytes::copy_from_slice(payload), times: done.times })
    }
}

async fn infer(
    state: Arc<State>,
    tenant: Arc<Tenant>,
    call: v1::InferRequest,
) -> Result<v1::InferResponse, ApiError> {
    if call.session.is_some() {
        return Err(ApiError::field("session", "the local link opens its own; leave it out"));
    }
    let what = inline::what(call.info.as_ref())?;
    let asked = inline::own_session(&call, v1::Transport::Local);
    let sink = Arc::new(state.recorder.clone());
    let mut inside = Inside::open(&state, tenant, asked, sink).await?;
    let session = Arc::clone(&inside.opened.session);
    let payload = inline::payload(&call, &session.agreed.binding);
    let served = match payload {
        Err(error) => Err(error),
        Ok(payload) => {
            let served = tokio::task::spawn_blocking(move || inside.infer(what, &payload)).await;
            served.unwrap_or_else(|error| Err(ApiError::Internal(error.to_string())))
        }
    };
    end(&state, &session, Status::SessionEnded, "closed").await;
    let answer = served?;
    Ok(v1::InferResponse {
        outputs: inline::outputs(&answer.payload, &session.agreed.binding),
        server_times: server_times_to_wire(&answer.times),
        stages: stages_to_wire(&answer.times),
        model: session.served.name.clone(),
        version: session.served.version,
        engine: session.served.engine.to_owned(),
        session_id: session.id.0,
        ..Default::default()
    })
}

#[tonic::async_trait]
impl v1::local_server::Local for LocalService {
    type DriveStream = ReceiverStream<Result<v1::TimingBatch, tonic::Status>>;

    async fn infer(&self, request: Request<v1::InferRequest>) -> Reply<v1::InferResponse> {
        let tenant = tenant(&self.0, request.metadata())?;
        // To the end even if the caller goes away: the session is not left to its lease.
        let served = tokio::spawn(infer(Arc::clone(&self.0), tenant, request.into_inner())).await;
        let served = served.map_err(|error| ApiError::Internal(error.to_string()))??;
        Ok(Response::new(served))
    }

    async fn drive(&self, request: Request<v1::DriveRequest>) -> Reply<Self::DriveStream> {
        let tenant = tenant(&self.0, request.metadata())?;
        let plan = drive::Plan::check(request.into_inner())?;
        let batches = drive::start(Arc::clone(&self.0), tenant, plan).await?;
        Ok(Response::new(ReceiverStream::new(batches)))
    }
}
