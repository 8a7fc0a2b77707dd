//! The link `grpc`: tensors inside a unary call. Not a data plane, but the baseline that every
//! other transport is compared with, and what works where nothing else does.
//!
//! The calls are driven by the thread that owns the link, on a connection of their own: as for
//! every link, nothing hops to another thread on the way.

#[cfg(test)]
mod conformance;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferry_core::{
    Body, Frame, Generation, LinkKind, OutputShapes, Reply, Request, SessionId, StageTimes, Status,
    Tail, Token,
};
use ferry_memory::Slot;
use ferry_proto::v1::inference_client::InferenceClient;
use ferry_proto::{WireError, channel, output_shapes_from_wire, server_times_from_wire, v1};
use ferry_transport::link::SERVER;
use ferry_transport::{
    Capabilities, Event, Events, Link, LinkError, Rejected, Transfer, Wake, Waker,
};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};

use crate::channel::endpoint;
use crate::error::Error;
use crate::key::{Channel, Key};

/// Each request is a call: several are in flight at once, and the server answers a small one before
/// a large one that it has not read to its end.
const CAPABILITIES: Capabilities = Capabilities {
    kind: LinkKind::Grpc,
    one_sided: false,
    reports_completion: false,
    carries_frames: false,
    threads: 2,
};

/// The client end of the transport `grpc`.
#[derive(Debug)]
pub(crate) struct InlineLink {
    runtime: Runtime,
    client: InferenceClient<Channel>,
    session: v1::SessionRef,
    calls: JoinSet<Done>,
    /// Ended while the link slept.
    ended: Option<Result<Done, JoinError>>,
    waker: Arc<InlineWaker>,
    lost: Option<LinkError>,
}

/// A call that ended.
#[derive(Debug)]
struct Done {
    frame: Frame,
    slot: Arc<Held>,
    answer: Result<v1::InferResponse, tonic::Status>,
}

/// Lends a slot's bytes to the encoder without a copy.
#[derive(Debug)]
struct Held(Slot);

struct Payload(Arc<Held>);

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self.0.0.request_bytes().unwrap_or_default()
    }
}

#[derive(Debug, Default)]
struct InlineWaker(Notify);

impl Wake for InlineWaker {
    fn wake(&self) {
        self.0.notify_one();
    }
}

impl InlineLink {
    /// Connects to the server and speaks for a lease of the session.
    pub(crate) fn connect(
        server: &str,
        key: Option<Key>,
        session: SessionId,
        generation: Generation,
        token: &Token,
    ) -> Result<InlineLink, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| Error::Start { what: "the runtime of the link grpc", source })?;
        let server_end = endpoint(server)?;
        let connection = runtime
            .block_on(server_end.connect())
            .map_err(|source| Error::Connect { server: server.to_owned(), source })?;
        let key = key.map_or_else(|| Key::new(None), Ok)?;
        let client = InferenceClient::with_interceptor(connection, key)
            .max_decoding_message_size(channel::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(channel::MESSAGE_BYTES_MAX);
        Ok(InlineLink {
            runtime,
            client,
            session: v1::SessionRef::new(session, token, generation),
            calls: JoinSet::new(),
            ended: None,
            waker: Arc::default(),
            lost: None,
        })
    }

    /// What kind of request a call is to carry, or why no call can say this transfer.
    fn said(&self, transfer: &Transfer) -> Result<Request, LinkError> {
        let Transfer { peer, frame, slot, tail } = transfer;
        if *peer != SERVER {
            return Err(LinkError::NoPeer(*peer));
        }
        let what = match frame.body {
            _ if frame.session.0 != self.session.session_id => "a frame of another session",
            _ if frame.generation.0 != self.session.generation => "a frame of another lease",
            _ if frame.slot != slot.index() => "a frame that names another slot than its own",
            _ if frame.payload_bytes > slot.request().bytes() as u64 => {
                "a payload that is longer than its slot"
            }
            _ if *tail != Tail::NONE => "a request with a tail, which a call does not carry",
            Body::Request(what) => return Ok(what),
            _ => "a frame that is not a request",
        };
        Err(LinkError::Protocol(what.into()))
    }

    /// Turns a finished call into the event of a link.
    fn finish(&mut self, done: Done, events: &mut Events) {
        if self.lost.is_some() {
            // Its request was lost with the link. Its slot is free from here on: nobody reads it.
            return;
        }
        let seen = Instant::now();
        let Done { mut frame, slot, answer } = done;
        // The encoder has dropped its half once an answer is there, unless the call broke early;
        // such a slot stays with the call that still reads it, and goes with its table.
        let slot = Arc::try_unwrap(slot).ok().map(|held| held.0);
        let (reply, outputs, payload) = match answer {
            Ok(answer) => match read(&answer) {
                Ok((times, outputs)) => {
                    let status = Status::Ok;
                    (Reply { status, times, reply_ns_previous: None }, outputs, answer.payload)
                }
                Err(why) => {
                    return self.give_up(LinkError::Protocol(why.to_string()), slot, events);
                }
            },
            Err(status) => match status_of(&status) {
                Some(end) => {
                    let text = Bytes::from(status.message().to_owned());
                    let times = Default::default();
                    let outputs = shapes_of(&status);
                    (Reply { status: end, times, reply_ns_previous: None }, outputs, text)
                }
                // The server answers alike for a session that ended, one that never was, another
                // lease and a wrong token. A key that it does not know is another answer.
                None if status.code() == tonic::Code::NotFound => {
                    return self.give_up(LinkError::Bye(Status::SessionEnded), slot, events);
                }
                None => return self.give_up(LinkError::os("call Infer", status), slot, events),
            },
        };
        let Some(mut slot) = slot else {
            let why = LinkError::Protocol("answered before the request was read".into());
            return self.give_up(why, None, events);
        };
        let room = slot.reply().bytes();
        let fits = payload.len() <= room || reply.status != Status::Ok;
        let payload = &payload[..payload.len().min(room)];
        if !fits || slot.reply_mut().copy_in(0, payload).is_err() {
            let why = LinkError::Protocol("a reply that is longer than its slot".into());
            return self.give_up(why, Some(slot), events);
        }
        frame.payload_bytes = payload.len() as u64;
        frame.body = Body::Reply(reply);
        let (peer, tail, visible) = (SERVER, Tail::with_outputs(outputs), Instant::now());
        events.push(Event::Arrived { peer, frame, slot, tail, seen, visible });
    }

    fn give_up(&mut self, why: LinkError, slot: Option<Slot>, events: &mut Events) {
        if self.lost.is_some() {
            return;
        }
        self.lost = Some(why.clone());
        let slots = slot.into_iter().collect();
        events.push(Event::Gone { peer: SERVER, session: None, why, slots });
    }
}

/// What stands in an answer beside its payload.
fn read(answer: &v1::InferResponse) -> Result<(StageTimes, Option<Box<OutputShapes>>), WireError> {
    let outputs = output_shapes_from_wire(&answer.output_shapes)?;
    let mut times = server_times_from_wire(&answer.server_times)?;
    times.set_batch_rows(NonZeroU32::new(answer.batch_rows));
    Ok((times, outputs))
}

/// The shapes of outputs that the session has no room for.
fn shapes_of(status: &tonic::Status) -> Option<Box<OutputShapes>> {
    let bytes = status.metadata().get_bin(channel::OUTPUT_SHAPES_METADATA)?.to_bytes().ok()?;
    OutputShapes::decode(&bytes).ok().map(Box::new)
}

/// The request's own end, where a gRPC status stands for one; `None` where the link broke.
fn status_of(status: &tonic::Status) -> Option<Status> {
    use tonic::Code;
    let named = status.metadata().get(channel::STATUS_METADATA);
    let named = named.and_then(|name| name.to_str().ok());
    if let Some(name) = named {
        return Status::ALL.into_iter().find(|status| status.name() == name);
    }
    // Refused before it was a request of the model.
    match status.code() {
        Code::InvalidArgument => Some(Status::BadRequest),
        Code::ResourceExhausted => Some(Status::Overloaded),
        Code::FailedPrecondition => Some(Status::Unsupported),
        _ => None,
    }
}

impl Link for InlineLink {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn submit(&mut self, transfer: Transfer) -> Result<(), Rejected> {
        let rejected = |transfer, why| Err(Rejected { transfer: Box::new(transfer), why });
        if let Some(why) = &self.lost {
            let why = why.clone();
            return rejected(transfer, why);
        }
        let what = match self.said(&transfer) {
            Ok(what) => what,
            Err(why) => return rejected(transfer, why),
        };
        let Transfer { frame, slot, .. } = transfer;
        let slot = Arc::new(Held(slot));
        let bytes = usize::try_from(frame.payload_bytes).unwrap_or(usize::MAX);
        let whole = Bytes::from_owner(Payload(Arc::clone(&slot)));
        let payload = whole.slice(..bytes.min(whole.len()));
        let mut request = v1::InferRequest {
            session: Some(self.session.clone()),
            payload,
            request: frame.request,
            ..Default::default()
        };
        request.info = Some(what.into());
        drop(whole);
        let mut client = self.client.clone();
        let call = async move {
            let answer = client.infer(request).await.map(tonic::Response::into_inner);
            Done { frame, slot, answer }
        };
        self.calls.spawn_on(call, self.runtime.handle());
        Ok(())
    }

    fn poll(&mut self, events: &mut Events) {
        if self.ended.is_none() {
            self.runtime.block_on(tokio::task::yield_now());
        }
        while let Some(done) = self.ended.take().or_else(|| self.calls.try_join_next()) {
            match done {
                Ok(done) => self.finish(done, events),
                Err(why) => self.give_up(LinkError::os("run a call", why), None, events),
            }
        }
    }

    fn park(&mut self, at_most: Duration) {
        if self.ended.is_some() {
            return;
        }
        let (calls, waker) = (&mut self.calls, &self.waker);
        self.ended = self.runtime.block_on(async {
            tokio::select! {
                Some(done) = calls.join_next() => Some(done),
                () = waker.0.notified() => None,
                () = tokio::time::sleep(at_most) => None,
            }
        });
    }

    fn waker(&self) -> Waker {
        Arc::clone(&self.waker) as Waker
    }
}
