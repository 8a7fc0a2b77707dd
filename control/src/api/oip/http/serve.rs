//! Connections of HTTP/1.1, and their end.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use futures_util::StreamExt;
use hyper::body::Incoming as Received;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::server::Connected;
use tower_service::Service;

use crate::api::front::{Guarded, Incoming, Peer};

/// How long a connection may be silent between two requests, and how long the head of one may take.
/// Longer than the pauses of clients that keep connections, which notice late that one was closed.
const IDLE: Duration = Duration::from_secs(120);

/// Longest head of a request, in bytes: a path, a key and a few more headers.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Most headers of a request.
const HEADERS_MAX: usize = 64;

/// What is read and buffered of a connection at a time, in bytes: a 602,112-byte tensor comes in
/// three parts.
const BUFFER_BYTES: usize = 256 << 10;

/// Serves `router` on the connections that come until `stopped` is done, and then those that have a request
/// under way, until that is answered.
pub(crate) async fn serve(
    router: Router,
    mut incoming: Incoming,
    stopped: impl Future<Output = ()>,
) {
    let (end, ends) = watch::channel(());
    // As many as the front lets in.
    let mut connections = JoinSet::new();
    let mut stopped = pin!(stopped);
    loop {
        tokio::select! {
            () = &mut stopped => break,
            Some(came) = incoming.next() => if let Ok(stream) = came {
                connections.spawn(connection(stream, router.clone(), ends.clone()));
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop((incoming, end));
    while connections.join_next().await.is_some() {}
}

async fn connection(stream: Guarded, router: Router, mut ends: watch::Receiver<()>) {
    let peer = stream.connect_info();
    let service = service_fn(move |request| answer(router.clone(), Arc::clone(&peer), request));
    let mut builder = Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE);
    builder.max_headers(HEADERS_MAX).max_header_size(HEAD_BYTES_MAX).max_buf_size(BUFFER_BYTES);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = ends.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = ferry_core::error_text(&error), "a connection of HTTP ended");
    }
}

async fn answer(
    mut router: Router,
    peer: Arc<Peer>,
    request: Request<Received>,
) -> Result<Response<Body>, Infallible> {
    peer.begin();
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(Arc::clone(&peer));
    let answer = router.call(request).await?;
    let bytes = http_body::Body::size_hint(answer.body()).exact();
    peer.answer(bytes.unwrap_or_default());
    Ok(answer)
}
