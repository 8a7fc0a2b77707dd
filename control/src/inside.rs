//! The server as its own client: the link `local`, driven from inside its process.

pub mod drive;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferry_core::{RecordedBy, RequestRecord, SessionSpec, Status, Transport};
use ferry_memory::{SlotTable, between_ns};
use ferry_transport::{Driver, DriverOptions, RecordSink, UnixClock};
use tokio::sync::oneshot;

use crate::error::ApiError;
use crate::host::machine::VERSION;
use crate::serving::inline::{self, InlineReply, InlineRequest};
use crate::sessions::{Caller, Opened, Place, Sessions};
use crate::store::Recorder;
use crate::tenants::{Identity, Tenant};

/// Longest that one request may take.
const INFER_MAX: Duration = Duration::from_secs(120);

/// For whom the server is its own client.
#[derive(Clone, Copy, Debug)]
pub struct Inside<'a> {
    /// Whose quota it is.
    pub tenant: &'a Arc<Tenant>,
    /// Whose runs may be named.
    pub identity: &'a Identity,
}

/// Records straight into the store: client and server are one process.
#[derive(Debug)]
struct StoreSink(Recorder);

impl RecordSink for StoreSink {
    fn record(&self, record: RequestRecord) {
        self.0.record(record);
    }
}

/// Opens a session over the local link, as the server's own client.
async fn open(
    sessions: &Arc<Sessions>,
    who: Inside<'_>,
    mut spec: SessionSpec,
) -> Result<Opened, ApiError> {
    let version = u32::from(ferry_core::frame::VERSION);
    (spec.protocol_min, spec.protocol_max) = (version, version);
    spec.transport = Some(Transport::Local);
    spec.recorded_by = RecordedBy::Client;
    spec.client = format!("ferryd {VERSION}");
    let (tenant, identity) = (Arc::clone(who.tenant), who.identity.clone());
    sessions.open(Caller { tenant, identity, is_inside: true }, spec).await
}

/// Connects the client's end of a session that was opened by [`open`]. Its requests are numbered
/// from `first_request` on.
fn connect(
    opened: &Opened,
    first_request: u64,
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
        first_request,
        clock: UnixClock::read(),
    };
    Ok((Driver::new(link, options, sink), table))
}

/// Starts a named thread: a driver waits by blocking its own.
fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), ApiError> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    let started = builder.spawn(body);
    started.map(drop).map_err(|error| ApiError::Internal(format!("start a thread: {error}")))
}

/// One request over the local link, in a session of its own.
///
/// # Errors
/// [`ApiError`] says what does not fit, or how the request ended.
pub async fn infer(
    sessions: &Arc<Sessions>,
    recorder: &Recorder,
    who: Inside<'_>,
    request: InlineRequest,
) -> Result<InlineReply, ApiError> {
    let spec = SessionSpec {
        model: request.model.clone(),
        version: request.version,
        slots: 1,
        shapes: request.all_shapes(),
        request_bytes_min: request.payload.len() as u64,
        ..SessionSpec::default()
    };
    let request = Arc::new(request);
    let once = || once(sessions, recorder, who, &spec, &request);
    match once().await {
        // How large the outputs are was not known: now the model's next session has room.
        Err(ApiError::ReplyTooLarge { .. }) => once().await,
        other => other,
    }
}

/// One request in a session of its own.
async fn once(
    sessions: &Arc<Sessions>,
    recorder: &Recorder,
    who: Inside<'_>,
    spec: &SessionSpec,
    request: &Arc<InlineRequest>,
) -> Result<InlineReply, ApiError> {
    let opened = Arc::new(open(sessions, who, spec.clone()).await?);
    // Nobody sends heartbeats for it.
    opened.session.keep(INFER_MAX);
    let (sender, receiver) = oneshot::channel();
    let (of_thread, recorder) = (Arc::clone(&opened), recorder.clone());
    let request = Arc::clone(request);
    let started = thread("ferry-local-in", move || {
        // A caller that went away needs no answer.
        drop(sender.send(infer_in(&of_thread, &request, recorder)));
    });
    let answer = match started {
        Ok(()) => receiver.await.unwrap_or_else(|_panicked| {
            Err(ApiError::Internal("the thread of the local link panicked".into()))
        }),
        Err(error) => Err(error),
    };
    sessions.end(&opened.session, Status::SessionEnded, "closed").await;
    answer
}

/// One request, on the calling thread.
fn infer_in(
    opened: &Opened,
    request: &InlineRequest,
    recorder: Recorder,
) -> Result<InlineReply, ApiError> {
    let (mut driver, table) = connect(opened, 1, Arc::new(StoreSink(recorder)))?;
    let internal = |why: &str| ApiError::Internal(why.to_owned());
    let filling = Instant::now();
    let mut slot = table.acquire().ok_or_else(|| internal("a new session has no free slot"))?;
    let binding = &opened.session.agreed.binding;
    let bytes = inline::place(&mut slot, binding, request)?;
    let fill_ns = between_ns(filling, Instant::now());
    driver
        .submit(slot, bytes, request.what, Some(fill_ns))
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
    let outputs = inline::outputs(binding, done.outputs.as_deref(), &whole)?;
    // Who names tensors is answered by name: both would be as long again, and no message may be.
    let payload = if request.inputs.is_empty() { whole } else { bytes::Bytes::new() };
    Ok(InlineReply {
        is_in_place: false,
        outputs,
        payload,
        times: done.times,
        shapes: done.outputs.clone(),
        served: opened.session.served(),
        session: opened.session.id,
    })
}
