//! Requests that run as one, of sessions on different transports: configured, answered, recorded.

use std::path::Path;
use std::time::Duration;

use ferry_core::{RequestRecord, Stage, Status, Transport};
use ferry_proto::oip;
use ferry_proto::oip::grpc_inference_service_client::GrpcInferenceServiceClient;
use ferry_proto::oip::model_config::SchedulingChoice;
use ferry_proto::v1;
use ferry_proto::v1::inference_client::InferenceClient;
use ferry_proto::v1::models_client::ModelsClient;
use tonic::transport::Channel;

use crate::common::{Client, LONG, Running, ask, until};

fn put(folder: &Path, name: &str, more: &str) {
    put_for("tract", folder, name, more);
}

fn put_for(engine: &str, folder: &Path, name: &str, more: &str) {
    let model = ferry_zoo::with_open_batch(ferry_zoo::digits::onnx()).unwrap();
    std::fs::write(folder.join(format!("{name}.onnx")), model).unwrap();
    std::fs::write(folder.join(format!("{name}.toml")), format!("engine = '{engine}'\n{more}"))
        .unwrap();
}

fn ask_digits(transport: Transport) -> v1::OpenSessionRequest {
    v1::OpenSessionRequest { model: "digits".into(), shapes: Vec::new(), ..ask(transport, 1, 1) }
}

fn digit(level: f32) -> Vec<u8> {
    (0..64_u8).flat_map(|at| (f32::from(at) / 64.0 * level).to_ne_bytes()).collect()
}

/// Tensors of two sessions, on two transports: what the second one sends waits for the first one,
/// which was answered lately.
async fn in_pairs(server: &Running, one: &mut Client, other: &mut Client) {
    let alone = [1.0, 0.5].map(|level| one.infer(&digit(level)).1);
    for _ in 0..20 {
        other.send(&digit(0.5));
        one.send(&digit(1.0));
        for (client, alone) in [(&mut *one, &alone[0]), (&mut *other, &alone[1])] {
            let (status, payload) = client.reply();
            assert_eq!(status, Status::Ok);
            for (a, b) in alone.chunks(4).zip(payload.chunks(4)) {
                let [a, b] = [a, b].map(|it| f32::from_ne_bytes(it.try_into().unwrap()));
                assert!((a - b).abs() < 1e-5, "{a} {b}");
            }
        }
    }
    server.state.recorder.flush(LONG).await.unwrap();
}

async fn stats(models: &mut ModelsClient<Channel>) -> v1::ModelStats {
    let asked = v1::GetModelRequest { name: "digits".into(), version: 0 };
    models.get(asked).await.unwrap().into_inner().stats.unwrap()
}

fn records(client: &mut Client) -> Vec<RequestRecord> {
    client.driver.flush();
    std::mem::take(&mut *client.records.0.lock().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_two_transports_run_as_one_and_all_of_it_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    // They wait for each other for longer than any machine stalls.
    put(folder.path(), "digits", "[batch]\nmax = 2\ndelay_us = 10_000_000");
    let path = folder.path().to_owned();
    let server = Running::start(|config| config.models = Some(path)).await;
    let mut shm = server.client(ask_digits(Transport::Shm)).await;
    let mut tcp = server.client(ask_digits(Transport::Tcp)).await;
    in_pairs(&server, &mut shm, &mut tcp).await;
    for client in [&mut shm, &mut tcp] {
        let records = records(client);
        let batched: Vec<_> =
            records.iter().filter(|record| record.times.batch_rows().is_some()).collect();
        assert_eq!(batched.len(), 20);
        for RequestRecord { times, .. } in batched {
            assert_eq!(times.batch_rows().unwrap().get(), 2);
            let parts: u64 = Stage::SERVER_PARTS.iter().filter_map(|&it| times.of(it)).sum();
            assert_eq!(Some(parts), times.of(Stage::Server), "{times:?}");
            for stage in [Stage::Gather, Stage::Scatter] {
                assert!(times.of(stage).is_some(), "{times:?}");
            }
        }
    }
    let sql = "SELECT count(*) FROM requests WHERE batch_rows = 2 AND batch = 1 AND \
               gather_ns IS NOT NULL AND scatter_ns IS NOT NULL AND unattributed_ns = 0";
    let query = v1::QueryRequest { sql: sql.into(), rows_max: 0 };
    let mut runs = v1::runs_client::RunsClient::new(server.channel.clone());
    let mut answers = runs.query(query).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!(answer.rows[0].values[0].kind, Some(v1::value::Kind::Integer(40)));
    // A lane closes the accounts of a reply once it is sent.
    let served = server.served("digits");
    until("all are counted", || served.counts.read().all.items == 42).await;
    let counted = served.counts.read();
    let sizes: Vec<_> = counted.sizes.iter().map(|it| (it.rows, it.count)).collect();
    assert_eq!((counted.runs, sizes), (22, vec![(1, 2), (2, 20)]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_its_payload_is_batched_too_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "digits", "[batch]\nmax = 2\ndelay_us = 10_000_000");
    let path = folder.path().to_owned();
    let server = Running::start(|config| config.models = Some(path)).await;
    let mut shm = server.client(ask_digits(Transport::Shm)).await;
    let session = server.open(ask_digits(Transport::Grpc)).await.unwrap().session;
    shm.infer(&digit(1.0));
    let inference = InferenceClient::new(server.channel.clone());
    for request in 1..=5 {
        let payload = digit(0.5).into();
        let call =
            v1::InferRequest { session: session.clone(), payload, request, ..Default::default() };
        let mut inference = inference.clone();
        let call = tokio::spawn(async move { inference.infer(call).await.unwrap().into_inner() });
        // It waits for the other session, which was answered lately.
        let mut models = ModelsClient::new(server.channel.clone());
        let is_queued = async {
            while stats(&mut models).await.queued_now == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LONG, is_queued).await.unwrap();
        shm.infer(&digit(1.0));
        let answer = call.await.unwrap();
        assert_eq!(answer.batch_rows, 2);
        let times = ferry_proto::server_times_from_wire(&answer.server_times).unwrap();
        assert!(times.of(Stage::Gather).is_some() && times.of(Stage::Scatter).is_some());
        assert_eq!(times.unattributed(), Some(0), "{times:?}");
    }
    drop(inference);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_table_that_does_not_fit_its_model_fails_that_model_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = [
        ("lane", "run = 'lane'\n[batch]\nmax = 4", "lane"),
        ("many", "max_batch = 8\n[batch]\nmax = 16", "max_batch"),
        ("one", "[batch]\nmax = 1", "max = 1;"),
        ("odd", "[batch]\npreferred = [8, 4]", "preferred"),
        ("negative", "[batch]\ndelay_us = -1", "batch.delay_us = -1"),
        ("single", "max_batch = 1\n[batch]", "raise max_batch"),
    ];
    for (name, table, _) in wrong {
        put(folder.path(), name, table);
    }
    for (name, table) in [("off", "[batch]\nenabled = false"), ("on", "[batch]"), ("plain", "")] {
        put(folder.path(), name, table);
    }
    let path = folder.path().to_owned();
    let server = Running::start(|config| config.models = Some(path)).await;
    let mut models = ModelsClient::new(server.channel.clone());
    let listed = models.list(v1::ListModelsRequest {}).await.unwrap().into_inner().models;
    for (name, _, why) in wrong {
        let model = listed.iter().find(|model| model.name == name).unwrap();
        assert!(model.error.contains("batch") && model.error.contains(why), "{}", model.error);
        assert!(model.error.contains(&format!("{name}.toml: ")), "{}", model.error);
    }
    let fine = listed.iter().filter(|model| model.error.is_empty()).count();
    assert_eq!(fine, 4, "off, on, plain and echo: {listed:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_whose_graph_shows_that_rows_are_apart_is_batched_without_a_table() {
    let folder = tempfile::tempdir().unwrap();
    for (engine, name, table) in [
        ("onnx", "plain", ""),
        ("onnx", "off", "[batch]\nenabled = false"),
        ("onnx", "waits", "[batch]\ndelay_us = 500\npreferred = [4, 8]"),
        ("tract", "tract", ""),
    ] {
        put_for(engine, folder.path(), name, table);
    }
    let path = folder.path().to_owned();
    let server = Running::start(|config| config.models = Some(path)).await;
    let mut models = ModelsClient::new(server.channel.clone());
    let mut oip = GrpcInferenceServiceClient::new(server.channel.clone());
    for (name, told, delay_us) in [
        ("plain", "up to 32 rows a run: its graph shows", Some(0)),
        ("off", "off: enabled = false", None),
        ("waits", "up to 32 rows a run, preferred 4, 8, waiting for at most 500 µs: ", Some(500)),
        ("tract", "off: tract", None),
    ] {
        let asked = v1::GetModelRequest { name: name.into(), version: 0 };
        let batches = models.get(asked).await.unwrap().into_inner().batches;
        assert!(batches.starts_with(told), "{name}: {batches}");
        let asked = oip::ModelConfigRequest { name: name.into(), version: String::new() };
        let config = oip.model_config(asked).await.unwrap().into_inner().config.unwrap();
        assert_eq!(config.max_batch_size, 256, "{name}");
        let batching = config.scheduling_choice.map(|choice| match choice {
            SchedulingChoice::DynamicBatching(it) => it.max_queue_delay_microseconds,
            other => panic!("{other:?}"),
        });
        assert_eq!(batching, delay_us, "{name}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_fixed_shapes_is_served_without_batches_and_refuses_a_table() {
    let folder = tempfile::tempdir().unwrap();
    for (name, table) in [("plain", ""), ("table", "[batch]")] {
        put(folder.path(), name, table);
        let file = folder.path().join(format!("{name}.onnx"));
        std::fs::write(file, ferry_zoo::digits::onnx()).unwrap();
    }
    let path = folder.path().to_owned();
    let server = Running::start(|config| config.models = Some(path)).await;
    let mut models = ModelsClient::new(server.channel.clone());
    let listed = models.list(v1::ListModelsRequest {}).await.unwrap().into_inner().models;
    let error = |name: &str| listed.iter().find(|model| model.name == name).unwrap().error.clone();
    assert_eq!(error("plain"), "");
    assert!(error("table").contains("[batch]"), "{}", error("table"));
    assert!(error("table").contains("FP32[1,1,8,8] is not open"), "{}", error("table"));
    server.stop().await;
}
