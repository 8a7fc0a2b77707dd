//! The port while the server is built: every request is told so.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Request;
use axum::response::IntoResponse;
use hyper::body::Incoming as Received;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::refused::Refused;
use crate::error::ApiError;

/// Answers each request with `why`, and closes its connection. One is taken every `pace`, and stays
/// as long as `stays`, so that they are few.
pub(crate) async fn serve_loading(
    listener: TcpListener,
    why: Arc<dyn Fn() -> ApiError + Send + Sync>,
    pace: Duration,
    stays: Duration,
) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let told = tell(stream, Arc::clone(&why));
            tokio::spawn(timeout(stays, told));
        }
        sleep(pace).await;
    }
}

async fn tell(stream: TcpStream, why: Arc<dyn Fn() -> ApiError + Send + Sync>) {
    let service = service_fn(move |_request: Request<Received>| {
        let answer = Refused::from(why()).into_response();
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let mut builder = Builder::new();
    let connection = builder.keep_alive(false).serve_connection(TokioIo::new(stream), service);
    // One that broke is gone, as all of them soon are.
    drop(connection.await);
}
