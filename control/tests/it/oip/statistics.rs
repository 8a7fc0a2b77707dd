//! Counters of a model, whatever brought its requests.

use std::path::Path;

use ferry_conformance::cases;
use ferry_core::{DType, Status, Transport};
use ferry_proto::oip;
use tonic::Code;

use super::{Client, client, identity, input};
use crate::common::{Running, ask, until};

async fn of(client: &mut Client, name: &str) -> oip::ModelStatistics {
    let asked = oip::ModelStatisticsRequest { name: name.into(), version: String::new() };
    let mut all = client.model_statistics(asked).await.unwrap().into_inner().model_stats;
    assert_eq!(all.len(), 1);
    all.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_every_transport_are_counted() {
    let server = Running::start(|_| {}).await;
    let mut client = client(&server);
    let none = of(&mut client, "echo").await;
    assert_eq!((none.inference_count, none.last_inference), (0, 0));
    assert_eq!(none.version.parse(), Ok(1));
    for _ in 0..3 {
        client.model_infer(identity(&[1, 1, 2], &[1; 8])).await.unwrap();
    }
    let mut sent = 3;
    for transport in [Transport::Shm, Transport::Tcp, Transport::Zmq] {
        let mut session = server.client(ask(transport, 64, 64)).await;
        for _ in 0..5 {
            assert_eq!(session.infer(&[1; 64]).0, Status::Ok);
        }
        // A payload of the wrong length reaches the model's door.
        assert_eq!(session.infer(&[1; 3]).0, Status::BadRequest);
        sent += 5;
    }
    // A lane closes the accounts of a reply once it is sent.
    let served = server.served("echo");
    until("all are counted", || {
        let counted = served.counts.read();
        (counted.all.requests, counted.failed) == (sent, 3)
    })
    .await;
    let told = of(&mut client, "echo").await;
    let stats = told.inference_stats.unwrap();
    let [success, queue] = [stats.success.unwrap(), stats.queue.unwrap()];
    assert_eq!((success.count, queue.count, stats.fail.unwrap().count), (sent, sent, 3));
    assert_eq!((told.inference_count, told.execution_count), (sent, sent));
    let parts = [stats.queue, stats.compute_input, stats.compute_infer, stats.compute_output];
    let parts: u64 = parts.iter().map(|part| part.unwrap().ns).sum();
    assert!(parts > 0 && parts <= success.ns, "{stats:?}");
    assert!(told.last_inference > 1_600_000_000_000, "milliseconds since 1970");
    let [one] = &told.batch_stats[..] else { panic!("{told:?}") };
    assert_eq!((one.batch_size, one.compute_infer.unwrap().count), (1, sent));
    server.stop().await;
}

fn put(folder: &Path, name: &str) {
    std::fs::copy(cases::folder().join(format!("{name}.onnx")), folder.join("m.onnx")).unwrap();
    std::fs::write(folder.join("m.toml"), "engine = 'tract'\nmax_batch = 9\n").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_counted_by_its_size_and_its_items() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "batch_same_name");
    let path = folder.path().to_owned();
    let server = Running::start(|config| config.models = Some(path)).await;
    let mut client = client(&server);
    let asked = oip::ModelConfigRequest { name: "m".into(), version: String::new() };
    let config = client.model_config(asked).await.unwrap().into_inner().config.unwrap();
    assert_eq!(config.max_batch_size, 9, "{config:?}");
    let dims = &config.input[0].dims;
    let elements = dims.iter().product::<i64>();
    for items in [1, 4, 4, 9] {
        let shape: Vec<i64> = [items].iter().chain(dims).copied().collect();
        let bytes = vec![0; usize::try_from(4 * items * elements).unwrap()];
        let request = oip::ModelInferRequest {
            model_name: "m".into(),
            inputs: vec![input(&config.input[0].name, DType::F32, &shape)],
            raw_input_contents: vec![bytes.into()],
            ..Default::default()
        };
        client.model_infer(request).await.unwrap();
    }
    let told = of(&mut client, "m").await;
    let sizes = told.batch_stats.iter().map(|it| (it.batch_size, it.compute_infer.unwrap().count));
    assert_eq!(sizes.collect::<Vec<_>>(), [(1, 1), (4, 2), (9, 1)]);
    assert_eq!((told.inference_count, told.execution_count), (18, 4));
    let all = client.model_statistics(oip::ModelStatisticsRequest::default()).await.unwrap();
    assert_eq!(all.into_inner().model_stats.len(), 2);
    let asked = oip::ModelStatisticsRequest { name: "none".into(), version: String::new() };
    assert_eq!(client.model_statistics(asked).await.unwrap_err().code(), Code::NotFound);
    let asked = oip::ModelStatisticsRequest { name: String::new(), version: "1".into() };
    let refused = client.model_statistics(asked).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    server.stop().await;
}
