//! The transport `grpc`: tensors inside the call.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ferry_control::models::{Instances, Metadata, Served};
use ferry_core::{DType, Dim, Signature, StageTimes, TensorSpec, Transport};
use ferry_engine::{Engine, Finished, Job};
use ferry_proto::v1;
use ferry_proto::v1::inference_client::InferenceClient;
use ferry_proto::v1::runs_client::RunsClient;
use tonic::Code;

use crate::common::{LONG, Running, ask, echoed, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_session_carries_its_payload_in_the_call() {
    let server = Running::start(|_| {}).await;
    let opened = server.open(ask(Transport::Grpc, 600_000, 4000)).await.unwrap();
    assert_eq!(opened.transport, "grpc");
    let mut inference = InferenceClient::new(server.channel.clone());
    for round in 1..=20_u8 {
        let payload = vec![round; 600_000];
        let request = v1::InferRequest {
            session: opened.session.clone(),
            payload: payload.clone().into(),
            request: u64::from(round),
            ..Default::default()
        };
        let answer = inference.infer(request).await.unwrap().into_inner();
        assert_eq!(answer.payload, echoed(&payload, 4000));
        let times = ferry_proto::server_times_from_wire(&answer.server_times).unwrap();
        let of = |stage| times.of(stage).unwrap_or(0);
        let parts = of(ferry_core::Stage::Receive) + of(ferry_core::Stage::Infer);
        assert!(parts > 0 && parts <= of(ferry_core::Stage::Server), "{times:?}");
    }
    let mut long = v1::InferRequest { session: opened.session.clone(), ..Default::default() };
    long.payload = vec![0; 600_001].into();
    let refused = inference.infer(long).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("600000"), "{}", refused.message());
    let mut short = v1::InferRequest { session: opened.session, ..Default::default() };
    short.payload = vec![0; 1].into();
    let refused = inference.infer(short).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.metadata().get("ferry-status").unwrap(), "bad_request");
    let session = server.state.sessions.all().remove(0);
    assert_eq!(session.inline_slots().unwrap().free_slots(), 2, "every slot came back");
    assert_eq!(session.meter.in_flight(), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_a_session_names_model_and_inputs() {
    let server = Running::start(|_| {}).await;
    let mut inference = InferenceClient::new(server.channel.clone());
    let input = |name: &str, datatype: &str, bytes: usize| v1::InlineTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: vec![5],
        contents: vec![7; bytes].into(),
    };
    let request = |inputs: Vec<v1::InlineTensor>| v1::InferRequest {
        model: "echo".into(),
        inputs,
        shapes: vec![v1::TensorShape { name: "output".into(), shape: vec![12] }],
        ..Default::default()
    };
    let good = request(vec![input("input", "UINT8", 5)]);
    let answer = inference.infer(good).await.unwrap().into_inner();
    assert_eq!(answer.outputs.len(), 1);
    assert_eq!((answer.outputs[0].name.as_str(), &answer.outputs[0].shape), ("output", &vec![12]));
    assert_eq!(answer.outputs[0].contents, vec![7; 12]);
    assert_eq!((answer.model.as_str(), answer.engine.as_str()), ("echo", "echo"));
    for bad in [
        vec![input("input", "FP32", 5)],
        vec![input("input", "UINT8", 4)],
        vec![input("other", "UINT8", 5)],
        vec![input("input", "UINT8", 5), input("input", "UINT8", 5)],
        vec![input("input", "WRONG", 5)],
    ] {
        let refused = inference.infer(request(bad)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
    let nothing = inference.infer(v1::InferRequest::default()).await.unwrap_err();
    assert_eq!(nothing.code(), Code::InvalidArgument);
    let identity = server.state.tenants.identify(None);
    let tenant = identity.tenant().unwrap();
    let all = tenant.quota();
    assert!(tenant.reserve(all.slots, all.bytes).is_ok(), "nothing is held after the calls");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_without_a_session_are_stored_under_one_that_stands() {
    let server = Running::start(|_| {}).await;
    let mut inference = InferenceClient::new(server.channel.clone());
    for _ in 0..3 {
        let request = v1::InferRequest {
            model: "echo".into(),
            inputs: vec![v1::InlineTensor {
                name: "input".into(),
                datatype: "UINT8".into(),
                shape: vec![5],
                contents: vec![7; 5].into(),
            }],
            shapes: vec![v1::TensorShape { name: "output".into(), shape: vec![12] }],
            ..Default::default()
        };
        inference.infer(request).await.unwrap();
    }
    server.state.recorder.flush(LONG).await.unwrap();
    let sql = "SELECT count(*), count(DISTINCT session_id), count(DISTINCT request), sum(bytes_in), \
               sum(server_ns > 0 AND infer_ns IS NOT NULL AND total_ns IS NULL) FROM requests \
               WHERE transport = 'grpc' AND model = 'echo' AND kind = 'tensor' AND status = 'ok'";
    let request = v1::QueryRequest { sql: sql.into(), rows_max: 0 };
    let mut answer =
        RunsClient::new(server.channel.clone()).query(request).await.unwrap().into_inner();
    let mut numbers = Vec::new();
    while let Some(message) = answer.message().await.unwrap() {
        for value in message.rows.into_iter().flat_map(|row| row.values) {
            let Some(v1::value::Kind::Integer(number)) = value.kind else { panic!("{value:?}") };
            numbers.push(number);
        }
    }
    assert_eq!(numbers, [3, 1, 3, 15, 3]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_a_lane_is_not_served_in_calls() {
    let server = Running::start(|_| {}).await;
    let opened = server.open(ask(Transport::Tcp, 8, 8)).await.unwrap();
    let mut inference = InferenceClient::new(server.channel.clone());
    let request = v1::InferRequest { session: opened.session, ..Default::default() };
    let refused = inference.infer(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("opened with tcp"), "{}", refused.message());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_are_there_and_health_flips_on_the_drain() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
    let server = Running::start(|_| {}).await;
    let mut health = HealthClient::new(server.channel.clone());
    let names = ["", "ferry.v1.Sessions", "ferry.v1.Inference", "ferry.v1.Admin"];
    for name in names {
        let request = HealthCheckRequest { service: name.into() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{name}");
    }
    let request = HealthCheckRequest { service: "ferry.v1.Sessions".into() };
    let mut watch = health.watch(request).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let seen = tokio::spawn(async move { watch.message().await.unwrap().unwrap().status() });
    let state = std::sync::Arc::clone(&server.state);
    let stopping = tokio::spawn(server.stop());
    assert_eq!(seen.await.unwrap(), ServingStatus::NotServing);
    stopping.await.unwrap();
    until("it drained", || state.takes_new().is_err()).await;
}

/// A model of one byte whose answer is larger than any message.
struct Wide(Signature, Arc<AtomicUsize>);

/// As 32-bit floats, 160 MiB.
const WIDE: u64 = 40 << 20;

impl Engine for Wide {
    fn signature(&self) -> &Signature {
        &self.0
    }

    fn depth(&self) -> usize {
        1
    }

    fn submit(&mut self, mut job: Job) -> Option<Finished> {
        self.1.fetch_add(1, Ordering::Relaxed);
        let outcome = job.place_outputs([vec![WIDE]]).map(|()| StageTimes::NONE);
        Some(Finished { job, outcome })
    }

    fn poll(&mut self, _finished: &mut Vec<Finished>) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_no_message_holds_is_refused_before_the_run_or_counts_as_a_failure() {
    let server = Running::start(|_| {}).await;
    let mut inference = InferenceClient::new(server.channel.clone());
    for (name, dim, runs) in [("known", Dim::Fixed(WIDE), 0), ("open", Dim::Named("n".into()), 1)] {
        let tensor =
            |name: &str, dtype, dim| TensorSpec { name: name.into(), dtype, shape: vec![dim] };
        let inputs = vec![tensor("x", DType::U8, Dim::Fixed(1))];
        let outputs = vec![tensor("y", DType::F32, dim)];
        let ran = Arc::new(AtomicUsize::new(0));
        let instances = Instances {
            engines: vec![Box::new(Wide(Signature { inputs, outputs }, Arc::clone(&ran)))],
            engine: "wide",
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
        let served = Served::start(name, 1, instances, Metadata::unnamed(1, 64)).unwrap();
        server.state.models.add_built_in(Arc::clone(&served));
        let payload = vec![1].into();
        let request = v1::InferRequest { model: name.into(), payload, ..Default::default() };
        let refused = inference.infer(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        assert!(refused.message().contains("have 167772160 bytes"), "{refused:?}");
        assert_eq!(ran.load(Ordering::Relaxed), runs);
        let counted = served.counts.read();
        assert_eq!((counted.all.requests, counted.failed), (0, runs as u64));
    }
    server.stop().await;
}
