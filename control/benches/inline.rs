//! What a session costs over a bare unary call: 602,112 B in and 4,000 B out, one at a time, the
//! server's `Inference.Infer` and one that only answers, interleaved in one run.
//!
//! `cargo bench -p ferry-control --bench inline`
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench tells and may fail")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use ferry_control::{Config, Server, bind};
use ferry_proto::channel::{FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, WINDOW_BYTES};
use ferry_proto::v1;
use ferry_proto::v1::inference_client::InferenceClient;
use ferry_proto::v1::inference_server::{Inference, InferenceServer};
use ferry_proto::v1::sessions_client::SessionsClient;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

const BYTES_IN: u64 = 602_112;
const BYTES_OUT: u64 = 4000;
const ROUNDS: usize = 40;
const CALLS: usize = 100;

/// Answers, and does nothing else.
#[derive(Debug)]
struct Bare(Bytes);

#[tonic::async_trait]
impl Inference for Bare {
    async fn infer(
        &self,
        request: Request<v1::InferRequest>,
    ) -> Result<Response<v1::InferResponse>, Status> {
        assert_eq!(request.get_ref().payload.len() as u64, BYTES_IN);
        let payload = self.0.clone();
        Ok(Response::new(v1::InferResponse { payload, ..Default::default() }))
    }
}

async fn channel(address: std::net::SocketAddr) -> InferenceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let endpoint = endpoint
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .tcp_nodelay(true);
    let channel = endpoint.connect().await.unwrap();
    InferenceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

async fn bare() -> InferenceClient<Channel> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let bare = Bare(vec![0; usize::try_from(BYTES_OUT).unwrap()].into());
    let router = tonic::transport::Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .add_service(InferenceServer::new(bare).max_decoding_message_size(MESSAGE_BYTES_MAX));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    tokio::spawn(router.serve_with_incoming(incoming));
    channel(address).await
}

/// Our server, and a session on it.
async fn ours() -> (InferenceClient<Channel>, v1::SessionRef) {
    let config = Config {
        listen: "127.0.0.1:0".into(),
        store: "sqlite::memory:".into(),
        ..Config::default()
    };
    let listener = bind(&config).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::build(config).await.unwrap();
    tokio::spawn(server.serve(listener, std::future::pending()));
    let mut sessions = SessionsClient::connect(format!("http://{address}")).await.unwrap();
    let shape = |name: &str, size| v1::TensorShape { name: name.into(), shape: vec![size] };
    let request = v1::OpenSessionRequest {
        protocol_min: ferry_core::frame::VERSION.into(),
        protocol_max: ferry_core::frame::VERSION.into(),
        model: "echo".into(),
        transport: "grpc".into(),
        shapes: vec![shape("input", BYTES_IN), shape("output", BYTES_OUT)],
        ..Default::default()
    };
    let opened = sessions.open(request).await.unwrap().into_inner();
    (channel(address).await, opened.session.unwrap())
}

async fn call(
    client: &mut InferenceClient<Channel>,
    session: Option<&v1::SessionRef>,
    payload: &Bytes,
) -> Duration {
    let (session, payload) = (session.cloned(), payload.clone());
    let start = Instant::now();
    let request = v1::InferRequest { session, payload, ..Default::default() };
    let answer = client.infer(request).await.unwrap().into_inner();
    assert_eq!(answer.payload.len() as u64, BYTES_OUT);
    start.elapsed()
}

#[tokio::main]
async fn main() {
    let payload = Bytes::from(vec![1; usize::try_from(BYTES_IN).unwrap()]);
    let (mut bare, (mut ours, session)) = (bare().await, ours().await);
    let (mut of_bare, mut of_ours) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for _ in 0..CALLS {
            let one = call(&mut bare, None, &payload).await;
            let other = call(&mut ours, Some(&session), &payload).await;
            // The first rounds warm up.
            if round >= ROUNDS / 10 {
                of_bare.push(one);
                of_ours.push(other);
            }
        }
    }
    of_bare.sort_unstable();
    of_ours.sort_unstable();
    for (name, at) in [("p50", 2), ("p10", 10)] {
        let (bare, ours) = (of_bare[of_bare.len() / at], of_ours[of_ours.len() / at]);
        let ratio = ours.as_secs_f64() / bare.as_secs_f64();
        println!("{name}: bare {bare:?}, ours {ours:?}, ratio {ratio:.3}");
    }
}
