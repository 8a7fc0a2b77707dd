//! `ferry.v1.Local`: the client end of the link `local`, inside the server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{RequestRecord, SessionId, Status};
use ferry_memory::SlotTable;
use ferry_proto::{output_shapes_to_wire, server_times_to_wire, v1};
use ferry_transport::{Driver, DriverOptions, RecordSink, UnixClock};
use tokio::sync::oneshot;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response};

use super::{auth, drive};
use crate::error::ApiError;
use crate::host::machine::VERSION;
use crate::serving::inline;
use crate::sessions::{Caller, Opened, Place, end, open};
use crate::state::State;
use crate::store::Recorder;
use crate::tenants::{Identity, Tenant};

/// Longest that one request of `Local.Infer` may take.
const INFER_MAX: Duration = Duration::from_secs(120);

/// The service.
#[derive(Clone, Debug)]
pub struct LocalService(pub Arc<State>);

/// Records straight into the store: client and server are one process.
#[derive(Debug)]
pub(super) struct StoreSink(pub(super) Recorder);

impl RecordSink for StoreSink {
    fn record(&self, record: RequestRecord) {
        self.0.record(record);
    }
}

/// Opens a session over the local link, as the server's own client.
pub(super) async fn open_local(
    state: &Arc<State>,
    tenant: Arc<Tenant>,
    identity: &Identity,
    mut asked: v1::OpenSessionRequest,
) -> Result<Opened, ApiError> {
    let version = u32::from(ferry_core::frame::VERSION);
    (asked.protocol_min, asked.protocol_max) = (version, version);
    asked.set_transport(v1::Transport::Local);
    asked.client_records = true;
    asked.client = format!("ferryd {VERSION}");
    open(state, Caller { tenant, identity: identity.clone(), is_inside: true }, asked).await
}

/// Connects the client's end of a session that was opened by [`open_local`].
pub(super) fn connect(
    opened: &Opened,
    sink: Arc<dyn RecordSink>,
) -> Result<(Driver, Arc<SlotTable>), ApiError> {
    let session = &opened.session;
    let gone = |why: &str| ApiError::Internal(format!("connect the local link: {why}"));
    let Place::Lane(lane) = &session.place else { return Err(gone("it has no lane")) };
    let door = lane.door.as_ref().ok_or_else(|| gone("its lane has no door"))?;
    let (link, table) = door.connect(session.id, session.generation(), opened.token())?;
    let options = DriverOptions {
        session: session.id,
        generation: session.generation(),
        run: session.run,
        wait: session.agreed.wait,
        first_request: 1,
        clock: UnixClock::read(),
    };
    Ok((Driver::new(link, options, sink), table))
}

/// Starts a named thread: a driver waits by blocking its own.
pub(super) fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), ApiError> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    let started = builder.spawn(body);
    started.map(drop).map_err(|error| ApiError::Internal(format!("start a thread: {error}")))
}

/// One request, on the calling thread.
fn infer(
    opened: &Opened,
    request: &v1::InferRequest,
    recorder: Recorder,
) -> Result<v1::InferResponse, ApiError> {
    let (mut driver, table) = connect(opened, Arc::new(StoreSink(recorder)))?;
    let internal = |why: &str| ApiError::Internal(why.to_owned());
    let filling = Instant::now();
    let slot = table.acquire().ok_or_else(|| internal("a new session has no free slot"))?;
    let binding = &opened.session.agreed.binding;
    let bytes = inline::place(&slot, binding, request)?;
    let what = match &request.info {
        Some(info) => ferry_core::Request::try_from(info)?,
        None => ferry_core::Request::of(ferry_core::RequestKind::Tensor),
    };
    let fill_ns = ferry_memory::between_ns(filling, Instant::now());
    driver
        .submit(slot, bytes, what, Some(fill_ns))
        .map_err(|error| ApiError::Internal(error.why.to_string()))?;
    driver.wait(Some(Instant::now() + INFER_MAX));
    let done = driver.take().ok_or_else(|| internal("no reply in time"))?;
    let slot = done.slot.as_ref().ok_or_else(|| internal("the link was lost"))?;
    let payload = slot.reply_bytes().unwrap_or_default();
    let payload = payload.get(..done.payload_bytes).unwrap_or_default();
    if done.status != Status::Ok {
        let text = String::from_utf8_lossy(payload).into_owned();
        return Err(match done.status {
            Status::ReplyTooLarge => ApiError::ReplyTooLarge { outputs: done.outputs, text },
            status => ApiError::Request { status, text },
        });
    }
    let whole = bytes::Bytes::copy_from_slice(payload);
    let served = &opened.session.served;
    let outputs = inline::outputs(binding, done.outputs.as_deref(), &whole)?;
    // Who names tensors is answered by name: both would be as long again, and no message may be.
    let payload = if request.inputs.is_empty() { whole } else { bytes::Bytes::new() };
    Ok(v1::InferResponse {
        outputs,
        payload,
        server_times: server_times_to_wire(&done.times),
        model: served.name.clone(),
        version: served.version,
        engine: served.engine.to_owned(),
        stages: ferry_core::Stage::ALL
            .iter()
            .map(|&stage| done.times.of(stage).map_or(0, |ns| ns.saturating_add(1)))
            .collect(),
        session_id: opened.session.id.0,
        output_shapes: output_shapes_to_wire(done.outputs.as_deref()),
    })
}

impl LocalService {
    /// One request in a session of its own.
    async fn once(
        &self,
        tenant: &Arc<Tenant>,
        identity: &Identity,
        asked: &v1::OpenSessionRequest,
        request: &Arc<v1::InferRequest>,
    ) -> Result<v1::InferResponse, ApiError> {
        let opened = open_local(&self.0, Arc::clone(tenant), identity, asked.clone()).await?;
        let opened = Arc::new(opened);
        // Nobody sends heartbeats for it.
        opened.session.keep(INFER_MAX);
        let (sender, receiver) = oneshot::channel();
        let (of_thread, recorder) = (Arc::clone(&opened), self.0.recorder.clone());
        let request = Arc::clone(request);
        let started = thread("ferry-local-in", move || {
            // A caller that went away needs no answer.
            drop(sender.send(infer(&of_thread, &request, recorder)));
        });
        let answer = match started {
            Ok(()) => receiver.await.unwrap_or_else(|_| {
                Err(ApiError::Internal("the thread of the local link panicked".into()))
            }),
            Err(error) => Err(error),
        };
        end(&self.0, &opened.session, Status::SessionEnded, "closed").await;
        answer
    }
}

#[tonic::async_trait]
impl v1::local_server::Local for LocalService {
    type DriveStream = ReceiverStream<Result<v1::TimingBatch, tonic::Status>>;

    async fn infer(
        &self,
        request: Request<v1::InferRequest>,
    ) -> Result<Response<v1::InferResponse>, tonic::Status> {
        let (tenant, identity) = (auth::tenant(&request)?, auth::identity(&request)?.clone());
        let request = request.into_inner();
        if request.session.is_some() {
            let why = "the local link opens a session of its own: leave it out";
            return Err(ApiError::field("session", why).into());
        }
        let served = self.0.models.get(&request.model, request.version)?;
        inline::bind(&served, &request)?;
        let inputs = request.inputs.iter();
        let shapes =
            inputs.map(|it| v1::TensorShape { name: it.name.clone(), shape: it.shape.clone() });
        let asked = v1::OpenSessionRequest {
            model: request.model.clone(),
            version: request.version,
            slots: 1,
            shapes: request.shapes.iter().cloned().chain(shapes).collect(),
            request_bytes_min: request.payload.len() as u64,
            ..v1::OpenSessionRequest::default()
        };
        let request = Arc::new(request);
        let answer = match self.once(&tenant, &identity, &asked, &request).await {
            // How large the outputs are was not known: now the model's next session has room.
            Err(ApiError::ReplyTooLarge { .. }) => {
                self.once(&tenant, &identity, &asked, &request).await
            }
            other => other,
        };
        Ok(Response::new(answer?))
    }

    async fn drive(
        &self,
        request: Request<v1::DriveRequest>,
    ) -> Result<Response<Self::DriveStream>, tonic::Status> {
        let identity = auth::identity(&request)?.clone();
        let stream = drive::start(&self.0, &identity, request.into_inner()).await?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// No session is proved by its number: only the server's own are told apart by it.
pub(super) fn batch_reference(id: SessionId) -> v1::SessionRef {
    v1::SessionRef { session_id: id.0, ..v1::SessionRef::default() }
}
