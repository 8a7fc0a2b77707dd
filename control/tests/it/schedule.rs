//! Requests that wait: until when, for whom, and in which order; and what comes of those that do not
//! run. Over every way in.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use ferry_control::models::{Instances, Metadata, QueueRules, Served};
use ferry_core::{DType, Signature, Status, Transport};
use ferry_engine::{Echo, Engine, Finished, Job, PoolStats};
use ferry_proto::oip;
use ferry_proto::oip::grpc_inference_service_client::GrpcInferenceServiceClient;
use ferry_proto::oip::infer_parameter::ParameterChoice;
use ferry_proto::v1;
use ferry_proto::v1::inference_client::InferenceClient;
use futures_util::stream;
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::common::{LONG, Running, ask, until};

type Oip = GrpcInferenceServiceClient<Channel>;

/// Holds a model's runs back until it is open.
#[derive(Debug, Default)]
struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
    /// The priorities of the requests that ran, in their order.
    ran: Mutex<Vec<u8>>,
}

impl Gate {
    fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    fn pass(&self, priority: u8) {
        let is_open = self.is_open.lock().unwrap();
        drop(self.opened.wait_timeout_while(is_open, LONG, |is_open| !*is_open).unwrap());
        self.ran.lock().unwrap().push(priority);
    }
}

struct Gated(Echo, Arc<Gate>);

impl Engine for Gated {
    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn depth(&self) -> usize {
        1
    }

    fn submit(&mut self, job: Job) -> Option<Finished> {
        self.1.pass(job.arrival.what.priority);
        self.0.submit(job)
    }

    fn poll(&mut self, _finished: &mut Vec<Finished>) {}
}

/// A server with the model `gated`: an echo that answers nobody before its gate is open, and whose
/// only instance is busy.
struct Busy {
    server: Running,
    gate: Arc<Gate>,
    served: Arc<Served>,
    occupying: tokio::task::JoinHandle<()>,
}

async fn busy(queue: QueueRules) -> Busy {
    let server = Running::start(|_| {}).await;
    let gate = Arc::new(Gate::default());
    let instances = Instances {
        engines: vec![Box::new(Gated(Echo::new(), Arc::clone(&gate)))],
        engine: "echo",
        engine_version: String::new(),
        device: None,
        device_why: String::new(),
        weights_bytes: 0,
        precision: None,
        dims: BTreeMap::new(),
        files: Vec::new(),
        doubt: Some("nobody looked".into()),
        rebuild: None,
    };
    let metadata = Metadata { queue, ..Metadata::unnamed(1, 1) };
    let served = Served::start("gated", 1, instances, metadata).unwrap();
    server.state.models.add_built_in(Arc::clone(&served));
    let mut oip = Oip::new(server.channel.clone());
    let occupying = tokio::spawn(async move { drop(oip.model_infer(request(0)).await) });
    until("it is busy", || served.pool.stats().in_flight == 1).await;
    Busy { server, gate, served, occupying }
}

impl Busy {
    fn stats(&self) -> PoolStats {
        self.served.pool.stats()
    }

    async fn queued(&self, count: usize) {
        until(&format!("{count} wait"), || self.stats().queued == count).await;
    }

    /// A connection of its own.
    async fn connection(&self) -> Oip {
        let url = format!("http://{}", self.server.address);
        Oip::new(Channel::from_shared(url).unwrap().connect().await.unwrap())
    }

    /// Opens the gate, and waits until all is served; how often the model ran.
    async fn ran(&self) -> usize {
        self.gate.open();
        until("all are served", || self.stats().queued + self.stats().in_flight == 0).await;
        self.gate.ran.lock().unwrap().len()
    }

    /// How many stored requests have this status.
    async fn stored(&self, status: &str) -> i64 {
        self.server.state.recorder.flush(LONG).await.unwrap();
        let sql =
            format!("SELECT count(*) FROM requests WHERE model = 'gated' AND status = '{status}'");
        let query = v1::QueryRequest { sql, rows_max: 0 };
        let mut runs = v1::runs_client::RunsClient::new(self.server.channel.clone());
        let mut answers = runs.query(query).await.unwrap().into_inner();
        let answer = answers.message().await.unwrap().unwrap();
        match answer.rows[0].values[0].kind {
            Some(v1::value::Kind::Integer(count)) => count,
            ref other => panic!("{other:?}"),
        }
    }

    async fn stop(self) {
        self.occupying.await.unwrap();
        self.server.stop().await;
    }
}

fn request(byte: u8) -> oip::ModelInferRequest {
    let input = oip::model_infer_request::InferInputTensor {
        name: "INPUT0".into(),
        datatype: DType::F32.name().into(),
        shape: vec![1, 1, 1],
        ..Default::default()
    };
    oip::ModelInferRequest {
        model_name: "gated".into(),
        id: byte.to_string(),
        inputs: vec![input],
        raw_input_contents: vec![vec![byte; 4].into()],
        ..Default::default()
    }
}

fn with(mut request: oip::ModelInferRequest, name: &str, number: i64) -> oip::ModelInferRequest {
    let choice = Some(ParameterChoice::Int64Param(number));
    request.parameters.insert(name.into(), oip::InferParameter { parameter_choice: choice });
    request
}

fn ask_gated(transport: Transport) -> v1::OpenSessionRequest {
    v1::OpenSessionRequest { model: "gated".into(), ..ask(transport, 4, 4) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_of_every_way_in_reaches_the_queue() {
    let busy = busy(QueueRules::of(64)).await;
    let soon = 20_000;
    let mut oip = busy.connection().await;
    let refused = oip.model_infer(with(request(1), "timeout", soon)).await.unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
    let mut of_call = Request::new(request(2));
    // As a client writes it that does not watch the time itself.
    of_call.metadata_mut().insert("grpc-timeout", "20m".parse().unwrap());
    oip.model_infer(of_call).await.unwrap_err();
    let mut inference = InferenceClient::new(busy.server.channel.clone());
    let shape = |name: &str| v1::TensorShape { name: name.into(), shape: vec![4] };
    let shapes = vec![shape("input"), shape("output")];
    let (model, payload) = ("gated".to_owned(), vec![3; 4].into());
    let inline =
        v1::InferRequest { model, payload, shapes, timeout_us: 20_000, ..Default::default() };
    let refused = inference.infer(inline).await.unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
    busy.queued(0).await;
    let asked = v1::OpenSessionRequest { timeout_us: 20_000, ..ask_gated(Transport::Tcp) };
    let mut session = busy.server.client(asked).await;
    session.send(&[4; 4]);
    let over_grpc = v1::OpenSessionRequest { timeout_us: 20_000, ..ask_gated(Transport::Grpc) };
    let session_ref = busy.server.open(over_grpc).await.unwrap().session;
    let payload = vec![5; 4].into();
    let call = v1::InferRequest { session: session_ref, payload, request: 1, ..Default::default() };
    let call = tokio::spawn(async move { inference.infer(call).await });
    busy.queued(2).await;
    tokio::time::sleep(Duration::from_millis(25)).await;
    assert_eq!(busy.ran().await, 1, "only what kept it busy ran");
    let (status, text) = session.reply();
    assert_eq!(status, Status::Late, "{}", String::from_utf8_lossy(&text));
    let refused = call.await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
    // The transport ends a call by the same header, a moment before or after.
    let PoolStats { late, cancelled, .. } = busy.stats();
    assert!(late + cancelled == 5 && cancelled <= 1, "{late} {cancelled}");
    let counted = || busy.served.counts.read();
    until("they are counted", || (counted().all.requests, counted().failed) == (1, 5)).await;
    assert_eq!(busy.stored("late").await + busy.stored("cancelled").await, 5);
    busy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_models_own_timeout_holds_for_all() {
    let timeout = Some(Duration::from_secs(1));
    let busy = busy(QueueRules { timeout, ..QueueRules::of(64) }).await;
    let mut oip = busy.connection().await;
    let refused = oip.model_infer(with(request(1), "timeout", 60_000_000)).await.unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
    // What keeps it busy is late too, though it runs on.
    assert_eq!(busy.ran().await, 1);
    busy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_goes_away_leaves_the_queue_on_every_way_in() {
    let busy = busy(QueueRules::of(64)).await;
    // A call.
    let mut oip = busy.connection().await;
    let call = tokio::spawn(async move { oip.model_infer(request(1)).await });
    busy.queued(1).await;
    call.abort();
    busy.queued(0).await;
    // A stream.
    let mut oip = busy.connection().await;
    let requests = stream::iter((0..5).map(request));
    let answers = oip.model_stream_infer(requests).await.unwrap();
    busy.queued(5).await;
    drop((answers, oip));
    busy.queued(0).await;
    // A call in a session.
    let session = busy.server.open(ask_gated(Transport::Grpc)).await.unwrap().session;
    let payload = vec![1; 4].into();
    let infer = v1::InferRequest { session, payload, request: 1, ..Default::default() };
    let mut inference = InferenceClient::new(busy.server.channel.clone());
    let call = tokio::spawn(async move { inference.infer(infer).await });
    busy.queued(1).await;
    call.abort();
    busy.queued(0).await;
    assert_eq!(busy.stats().cancelled, 7);
    // Sessions that are closed, and those whose links break.
    for transport in [Transport::Shm, Transport::Tcp, Transport::Zmq] {
        for is_closed in [true, false] {
            let mut session = busy.server.client(ask_gated(transport)).await;
            session.send(&[1; 4]);
            busy.queued(1).await;
            if is_closed {
                let closed = v1::CloseSessionRequest { session: Some(session.reference.clone()) };
                busy.server.sessions().close(closed).await.unwrap();
            } else {
                drop(session);
            }
            busy.queued(0).await;
        }
    }
    assert_eq!(busy.ran().await, 1, "only what kept it busy ran");
    assert_eq!(busy.stats().cancelled, 13);
    assert_eq!(busy.stored("cancelled").await, 7);
    let identity = busy.server.state.tenants.identify(None);
    let tenant = identity.tenant().unwrap();
    until("nothing is in flight", || tenant.in_flight() == 0).await;
    busy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_floods_a_model_starves_no_other_of_its_tenant() {
    let busy = busy(QueueRules::of(8)).await;
    let flooding = busy.connection().await;
    let flood = (0..8).map(|_| {
        let mut oip = flooding.clone();
        tokio::spawn(async move { oip.model_infer(request(1)).await })
    });
    let flood: Vec<_> = flood.collect();
    busy.queued(8).await;
    let refused = flooding.clone().model_infer(request(1)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("full with 8 requests"), "{refused:?}");
    let mut oip = busy.connection().await;
    let other = tokio::spawn(async move { oip.model_infer(request(2)).await });
    until("one of the flood made room", || busy.stats().refused == 2).await;
    busy.ran().await;
    other.await.unwrap().unwrap();
    let mut refused = 0;
    for call in flood {
        refused += usize::from(call.await.unwrap().is_err());
    }
    assert_eq!(refused, 1);
    busy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_priority_names_one_of_the_models_levels() {
    let busy = busy(QueueRules { levels: 3, default_level: 2, ..QueueRules::of(64) }).await;
    let oip = busy.connection().await;
    let mut calls = Vec::new();
    for (number, priority) in [(1, 3), (2, 0), (3, 1), (4, 2), (5, 99)] {
        let (mut oip, request) = (oip.clone(), with(request(number), "priority", priority));
        calls.push(tokio::spawn(async move { oip.model_infer(request).await.unwrap() }));
        busy.queued(calls.len()).await;
    }
    busy.gate.open();
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(*busy.gate.ran.lock().unwrap(), [1, 2, 1, 1, 1, 0]);
    busy.stop().await;
}
