//! A tonic unary call with the same windows, and nothing behind it.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use ferry_proto::channel::{FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, WINDOW_BYTES};
use ferry_proto::v1;
use ferry_proto::v1::inference_client::InferenceClient;
use ferry_proto::v1::inference_server::{Inference, InferenceServer};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use super::bare::{Bare, source};
use super::pair::Plan;
use crate::Error;

/// The server's threads: as many as ferryd's runtime has by default on this machine.
pub(super) struct BareGrpc {
    /// Dropped first: the client's connection belongs to it.
    client: InferenceClient<Channel>,
    runtime: Runtime,
    server: Option<Runtime>,
    source: Vec<u8>,
    sent: Vec<u8>,
}

struct Answer(Bytes);

#[tonic::async_trait]
impl Inference for Answer {
    async fn infer(
        &self,
        _request: Request<v1::InferRequest>,
    ) -> Result<Response<v1::InferResponse>, Status> {
        Ok(Response::new(v1::InferResponse { payload: self.0.clone(), ..Default::default() }))
    }
}

impl BareGrpc {
    pub(super) fn start(plan: &Plan) -> Result<BareGrpc, Error> {
        let server = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("bare-grpc")
            .build()
            .context("start a runtime")?;
        let listener = server.block_on(TcpListener::bind("127.0.0.1:0")).context("bind")?;
        let address = listener.local_addr().context("read the address")?;
        let service = InferenceServer::new(Answer(vec![8; plan.out_bytes].into()))
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let serving = Server::builder()
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .add_service(service)
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        server.spawn(serving);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start a runtime")?;
        let endpoint = Endpoint::from_shared(format!("http://{address}")).context("address")?;
        let endpoint = endpoint
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .tcp_nodelay(true);
        let channel = runtime.block_on(endpoint.connect()).context("connect")?;
        let client = InferenceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let sent = vec![0; plan.in_bytes];
        Ok(BareGrpc { client, runtime, server: Some(server), source: source(plan), sent })
    }
}

impl Bare for BareGrpc {
    fn once(&mut self) -> Result<(), Error> {
        let mut sent = std::mem::take(&mut self.sent);
        sent.copy_from_slice(&self.source);
        // Lent to the encoder and taken back: no allocation of this size per call.
        let payload = Bytes::from(sent);
        let request = v1::InferRequest { payload: payload.clone(), ..Default::default() };
        let answer = self.runtime.block_on(self.client.infer(request))?;
        std::hint::black_box(answer.into_inner().payload);
        self.sent = Vec::from(payload);
        Ok(())
    }
}

impl Drop for BareGrpc {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown_timeout(Duration::from_secs(1));
        }
    }
}
