//! The link grpc keeps the contract of links whose requests are calls.
//!
//! Its server's end is the service of the control plane, which is no [`Listener`]; what that does is
//! shown by its own tests. Here stands a service that hands each call to the suite.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ferry_conformance::{ClientEnd, ServerEnd};
use ferry_core::{
    Body, Endpoint, Frame, Generation, LinkKind, RegionDescriptor, Request, SessionId, Status,
    Tail, Token,
};
use ferry_memory::{PeerId, Slot, SlotTable};
use ferry_proto::v1::inference_server::{Inference, InferenceServer};
use ferry_proto::{output_shapes_to_wire, server_times_to_wire, v1};
use ferry_transport::link::EVENTS_PER_POLL_MAX;
use ferry_transport::{
    Admission, AdmitError, Capabilities, Event, Events, Link, LinkError, Listener, Refusal,
    Rejected, Transfer, Wake, Waker,
};
use tokio::sync::oneshot;
use tonic::transport::server::TcpIncoming;

use super::{CAPABILITIES, InlineLink};

fn open() -> ServerEnd {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let bound = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let server = bound.local_addr().unwrap().to_string();
    let desk = Arc::new(Desk::default());
    let service = tonic::transport::Server::builder()
        .add_service(InferenceServer::new(Service(Arc::clone(&desk))))
        .serve_with_incoming(TcpIncoming::from(bound).with_nodelay(Some(true)));
    runtime.spawn(service);
    let at_door = Arc::clone(&desk);
    let connect = move |told: &Admission, _: &RegionDescriptor| {
        let Admission { session, generation, token, layout, .. } = *told;
        let link = InlineLink::connect(&server, None, session, generation, &token);
        let link = link.map_err(|error| error.to_string())?;
        // A call proves its session by itself; a client that may come counts as joined.
        if at_door.counter().prove(session, &token, generation).is_some() {
            at_door.happened(Event::Joined { peer: PeerId(0), session });
        }
        let table = SlotTable::private(layout).map_err(|error| error.to_string())?;
        Ok(ClientEnd { link: Box::new(link), table })
    };
    let listener = Calls { desk, runtime: Some(runtime) };
    ServerEnd { listener: Box::new(listener), connect: Box::new(connect) }
}

ferry_conformance::call_link_suite!(open);

/// Where calls wait for the suite.
#[derive(Debug, Default)]
struct Desk {
    counter: Mutex<Counter>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct Counter {
    sessions: HashMap<SessionId, (Admission, Arc<SlotTable>)>,
    events: VecDeque<Event>,
    /// Calls that are not answered, each as a peer of its own.
    calls: HashMap<PeerId, (SessionId, oneshot::Sender<v1::InferResponse>)>,
    called: u64,
    is_woken: bool,
}

impl Counter {
    fn prove(
        &self,
        session: SessionId,
        token: &Token,
        generation: Generation,
    ) -> Option<Arc<SlotTable>> {
        let (admission, table) = self.sessions.get(&session)?;
        let fits = admission.token.matches(token) && admission.generation == generation;
        fits.then(|| Arc::clone(table))
    }
}

impl Desk {
    fn counter(&self) -> MutexGuard<'_, Counter> {
        self.counter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn happened(&self, event: Event) {
        self.counter().events.push_back(event);
        self.bell.notify_all();
    }
}

impl Wake for Desk {
    fn wake(&self) {
        self.counter().is_woken = true;
        self.bell.notify_all();
    }
}

struct Service(Arc<Desk>);

impl Service {
    /// Hands the call to the suite. The answer comes by what is returned.
    fn arrive(
        &self,
        call: &v1::InferRequest,
    ) -> Result<oneshot::Receiver<v1::InferResponse>, tonic::Status> {
        let seen = Instant::now();
        let reference = call.session.as_ref().expect("the link names its session");
        let (session, token, generation) = reference.parts().expect("well formed");
        let proved = self.0.counter().prove(session, &token, generation);
        let Some(table) = proved else {
            self.0.happened(Event::Refused(Refusal::Credentials(session)));
            return Err(tonic::Status::not_found("no such session"));
        };
        let mut slot: Slot = table.acquire().ok_or(tonic::Status::resource_exhausted("no slot"))?;
        slot.request_mut().copy_in(0, &call.payload).expect("the link sends what fits");
        let what = call.info.as_ref().expect("the link says what it is");
        let what = Request::try_from(what).expect("well formed");
        let frame = Frame {
            session,
            generation,
            slot: slot.index(),
            request: call.request,
            payload_bytes: call.payload.len() as u64,
            body: Body::Request(what),
        };
        let (sender, receiver) = oneshot::channel();
        let mut counter = self.0.counter();
        counter.called += 1;
        let peer = PeerId(counter.called);
        counter.calls.insert(peer, (session, sender));
        drop(counter);
        let (tail, visible) = (Tail::NONE, Instant::now());
        self.0.happened(Event::Arrived { peer, frame, slot, tail, seen, visible });
        Ok(receiver)
    }
}

#[tonic::async_trait]
impl Inference for Service {
    async fn infer(
        &self,
        call: tonic::Request<v1::InferRequest>,
    ) -> Result<tonic::Response<v1::InferResponse>, tonic::Status> {
        let answer = self.arrive(call.get_ref())?.await;
        answer.map(tonic::Response::new).map_err(|_evicted| tonic::Status::not_found("evicted"))
    }
}

/// The server's end, as the suite drives it.
#[derive(Debug)]
struct Calls {
    desk: Arc<Desk>,
    /// Taken when it is dropped, which must not wait.
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Calls {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Link for Calls {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn submit(&mut self, transfer: Transfer) -> Result<(), Rejected> {
        let Some((session, caller)) = self.desk.counter().calls.remove(&transfer.peer) else {
            let why = LinkError::NoPeer(transfer.peer);
            return Err(Rejected { transfer: Box::new(transfer), why });
        };
        let Body::Reply(reply) = transfer.frame.body else { panic!("the suite sends replies") };
        let mut payload = vec![0; usize::try_from(transfer.frame.payload_bytes).unwrap()];
        transfer.slot.reply().copy_out(0, &mut payload).unwrap();
        let answer = v1::InferResponse {
            payload: payload.into(),
            server_times: server_times_to_wire(&reply.times),
            output_shapes: output_shapes_to_wire(transfer.tail.outputs.as_deref()),
            session_id: session.0,
            ..v1::InferResponse::default()
        };
        // The next call finds the slot free. A caller that went away hears nothing.
        drop(transfer);
        drop(caller.send(answer));
        Ok(())
    }

    fn poll(&mut self, events: &mut Events) {
        let mut counter = self.desk.counter();
        let some = counter.events.len().min(EVENTS_PER_POLL_MAX);
        events.extend(counter.events.drain(..some));
    }

    fn park(&mut self, at_most: Duration) {
        let sleeps = |it: &mut Counter| it.events.is_empty() && !it.is_woken;
        let woken = self.desk.bell.wait_timeout_while(self.desk.counter(), at_most, sleeps);
        woken.unwrap_or_else(PoisonError::into_inner).0.is_woken = false;
    }

    fn waker(&self) -> Waker {
        Arc::clone(&self.desk) as Waker
    }
}

impl Listener for Calls {
    fn endpoint(&self) -> Endpoint {
        Endpoint::bare(LinkKind::Grpc)
    }

    fn admit(&mut self, admission: Admission) -> Result<RegionDescriptor, AdmitError> {
        let session = admission.session;
        let table = SlotTable::private(admission.layout)?;
        let mut counter = self.desk.counter();
        if counter.sessions.contains_key(&session) {
            return Err(AdmitError::Twice(session));
        }
        counter.sessions.insert(session, (admission, table));
        Ok(RegionDescriptor::Framed)
    }

    fn evict(&mut self, session: SessionId, _: Status) {
        let mut counter = self.desk.counter();
        counter.sessions.remove(&session);
        counter.calls.retain(|_, (of, _)| *of != session);
    }
}
