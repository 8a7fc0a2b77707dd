//! What an operator sees.

use std::time::Instant;

use ferry_conformance::transports::everywhere;
use ferry_core::{LinkKind, Status, Transport};
use ferry_proto::v1;
use ferry_proto::v1::admin_client::AdminClient;

use crate::common::{LONG, Running, ask};

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_sessions_lanes_transports_and_the_store() {
    let server = Running::start(|config| config.lanes.set(LinkKind::Zmq, 0).unwrap()).await;
    let mut client = server.client(ask(Transport::Shm, 64, 64)).await;
    for _ in 0..3 {
        assert_eq!(client.infer(&[1; 64]).0, Status::Ok);
    }
    server.state.recorder.flush(LONG).await.unwrap();
    let mut admin = AdminClient::new(server.channel.clone());
    let status = admin.status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.sessions, status.requests_in_flight, status.refusals), (1, 0, 0));
    assert!(status.run_id > 0 && !status.draining && !status.commit.is_empty());
    let store = status.store.as_ref().unwrap();
    assert_eq!((store.state.as_str(), store.rows_written, store.rows_lost), ("ok", 3, 0));
    let served = everywhere().filter(|it| *it != Transport::Zmq).map(Transport::name);
    assert_eq!(status.transports, served.collect::<Vec<_>>());
    // A reply is counted once the link has it: its client may be faster.
    let late = Instant::now() + LONG;
    loop {
        let status = admin.status(v1::StatusRequest {}).await.unwrap().into_inner();
        let shm = status.lanes.iter().filter(|lane| lane.name.starts_with("ferry-shm"));
        let sum = shm.fold((0, 0), |sum, it| (sum.0 + it.arrivals, sum.1 + it.replies));
        if sum == (3, 3) {
            break;
        }
        assert!(sum == (3, 2) && Instant::now() < late, "{sum:?}");
    }
    assert!(status.lanes.iter().all(|lane| lane.alive));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_name_what_is_missing_with_the_fix() {
    let server = Running::start(|config| {
        config.lanes.set(LinkKind::Zmq, 0).unwrap();
        config.data_host = Some("0.0.0.0".into());
        config.onnxruntime = Some("/nowhere/libonnxruntime.so".into());
    })
    .await;
    let mut admin = AdminClient::new(server.channel.clone());
    let devices = admin.devices(v1::DevicesRequest {}).await.unwrap().into_inner();
    let find = |area: &str, name: &str| {
        let mut all = devices.findings.iter().filter(|it| (it.area == area) & (it.name == name));
        let one = all.next().unwrap_or_else(|| panic!("no finding {area} {name}"));
        assert!(all.next().is_none(), "{area} {name} twice");
        one
    };
    for (area, name) in
        [("transport", "shm"), ("transport", "grpc"), ("engine", "echo"), ("limit", "memfd")]
    {
        assert!(find(area, name).usable, "{area} {name}");
    }
    for (area, name) in [
        ("transport", "tcp"),
        ("transport", "zmq"),
        ("transport", "rdma"),
        ("engine", "onnx"),
        ("engine", "onnx-cuda"),
    ] {
        let finding = find(area, name);
        assert!(!finding.usable && !finding.fix.is_empty(), "{finding:?}");
    }
    assert!(find("transport", "tcp").fix.contains("--data-host"));
    let rdma = find("transport", "rdma");
    assert!(rdma.detail.contains("RDMA devices") && rdma.fix.contains("ferry doctor"), "{rdma:?}");
    let of_rdma: Vec<_> = devices.findings.iter().filter(|it| it.area == "rdma").collect();
    assert!(of_rdma.iter().any(|it| it.name == "library"), "{of_rdma:?}");
    for finding in of_rdma.iter().filter(|it| !it.usable) {
        assert!(!finding.detail.is_empty() && !finding.fix.is_empty(), "{finding:?}");
    }
    assert!(find("engine", "onnx").detail.contains("/nowhere"));
    // With or without a GPU: what is found is said, and what is not comes with the fix.
    let of_gpu: Vec<_> = devices.findings.iter().filter(|it| it.area == "gpu").collect();
    for name in ["driver", "cudart", "cuBLAS", "NVRTC", "cuDNN"] {
        let finding = find("gpu", name);
        assert!(!finding.detail.is_empty(), "{finding:?}");
    }
    for finding in of_gpu.iter().filter(|it| !it.usable) {
        assert!(!finding.detail.is_empty() && !finding.fix.is_empty(), "{finding:?}");
    }
    let refused = server.open(ask(Transport::Tcp, 64, 64)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    server.stop().await;
}
