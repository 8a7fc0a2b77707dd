//! A model that takes as long as a request says: its runs are ended after their time, and by the
//! end of the server.

use std::path::Path;

use ferry_conformance::turns;
use ferry_core::{Status, Transport};
use ferry_proto::v1;
use ferry_proto::v1::admin_client::AdminClient;
use ferry_proto::v1::sessions_client::SessionsClient;
use rustix::process::Signal;
use tonic::transport::Channel;

use crate::binary::{Ferryd, command};
use crate::common::{Client, LONG, Running, ask};

fn put(folder: &Path, toml: &str) {
    std::fs::write(folder.join("turns.onnx"), turns::onnx()).unwrap();
    std::fs::write(folder.join("turns.toml"), format!("engine = 'onnx'\n{toml}")).unwrap();
}

fn ask_turns() -> v1::OpenSessionRequest {
    let shapes = Vec::new();
    v1::OpenSessionRequest { model: "turns".into(), shapes, ..ask(Transport::Tcp, 1, 1) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_beyond_its_bound_fails_by_the_key_and_the_next_request_is_served() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "run_seconds_max = 0.05");
    let path = folder.path().to_owned();
    let server = Running::start(|config| config.models = Some(path)).await;
    let mut client = server.client(ask_turns()).await;
    for _ in 0..2 {
        let (status, text) = client.infer(&turns::request(turns::ENDLESS, 7));
        let text = String::from_utf8(text).unwrap();
        assert_eq!(status, Status::EngineFailed, "{text}");
        assert!(text.contains("run_seconds_max = 0.05"), "{text}");
        let next = client.infer(&turns::request(3, 7));
        assert_eq!(next, (Status::Ok, 21_i64.to_le_bytes().to_vec()));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_a_run_and_answers_its_request() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "");
    let mut command = command(folder.path(), "127.0.0.1:0");
    let mut ferryd = Ferryd::spawn(command.args(["--models", ".", "--drain-seconds", "0.1"]));
    let channel = Channel::from_shared(format!("http://{}", ferryd.address)).unwrap();
    let channel = channel.connect().await.unwrap();
    let opened = SessionsClient::new(channel.clone()).open(ask_turns()).await.unwrap();
    let mut client = Client::connect(&opened.into_inner());
    client.send(&turns::request(turns::ENDLESS, 7));
    let mut admin = AdminClient::new(channel);
    let late = std::time::Instant::now() + LONG;
    loop {
        let status = admin.status(v1::StatusRequest {}).await.unwrap().into_inner();
        if status.models.iter().any(|model| model.in_flight_now > 0) {
            break;
        }
        assert!(std::time::Instant::now() < late, "the request never came to the model");
    }
    ferryd.signal(Signal::TERM);
    let (status, text) = client.reply();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(status, Status::Draining, "{text}");
    assert!(text.contains("the run was ended"), "{text}");
    assert_eq!(tokio::task::block_in_place(|| ferryd.wait()).code(), Some(0));
}
