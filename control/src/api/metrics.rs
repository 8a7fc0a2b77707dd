//! `/metrics`, on a listener of its own: what Prometheus, and whoever speaks its formats, reads.
//!
//! It tells of everybody, so that it is the operator's: where there are keys, a scraper presents the
//! operator's as a bearer token. The port of the Open Inference Protocol, which is the tenants', does
//! not have it.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State as Shared};
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;
use ferry_proto::channel::KEY_METADATA;
use tokio::sync::Mutex;

use super::auth::Access;
use super::front::{Door, Peer};
use crate::metrics::{self, Format};
use crate::state::State;

/// The pages, which those who read at once share.
#[derive(Debug)]
struct Pages {
    state: Arc<State>,
    /// The last one in each format. Whoever makes one has the lock.
    made: Arc<Mutex<[Option<Made>; 2]>>,
}

/// A page, and when it was begun.
#[derive(Debug)]
struct Made {
    begun: Instant,
    text: Bytes,
}

/// The path `/metrics`.
pub(crate) fn router(state: &Arc<State>) -> Router {
    let pages = Pages { state: Arc::clone(state), made: Arc::default() };
    let nothing_else =
        async || (StatusCode::NOT_FOUND, "there is /metrics here, and nothing else\n");
    Router::new().route("/metrics", get(answer)).fallback(nothing_else).with_state(Arc::new(pages))
}

async fn answer(Shared(pages): Shared<Arc<Pages>>, request: Request) -> Response<Body> {
    let headers = request.headers();
    if let Err(status) = admit(&pages.state, headers) {
        let asks = [(header::WWW_AUTHENTICATE, "Bearer realm=\"ferryd\"")];
        return (status, asks, format!("{WHOSE}\n")).into_response();
    }
    if let Some(peer) = request.extensions().get::<Arc<Peer>>() {
        peer.prove();
    }
    let format = wanted(headers);
    match pages.read(format).await {
        Some(text) => ([(header::CONTENT_TYPE, format.content_type())], text).into_response(),
        None => (StatusCode::INTERNAL_SERVER_ERROR, "see the server's log\n").into_response(),
    }
}

/// What a scraper is told that has no operator's key.
const WHOSE: &str = "the metrics are the operator's: send `authorization: Bearer KEY` with operator-key \
                     of ferryd's configuration (in Prometheus: authorization.credentials_file)";

/// That the caller is an operator.
fn admit(state: &State, headers: &HeaderMap) -> Result<(), StatusCode> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked("Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(key)
    });
    if headers.contains_key(header::ORIGIN) && !state.config.has_keys() {
        return Err(StatusCode::FORBIDDEN);
    }
    let key = bearer.or_else(|| headers.get(KEY_METADATA).map(|value| value.as_bytes()));
    let identity = state.tenants.identify(key);
    Access::Operator.check(&identity).map_err(|(what, error)| {
        state.refusals.note(Door::Metrics.name(), what, None, identity.name(), &error);
        if key.is_none() { StatusCode::UNAUTHORIZED } else { StatusCode::FORBIDDEN }
    })
}

impl Pages {
    /// A page that was begun after this was called. Of those that ask at once, one makes it, so that
    /// many cost no more than two, in time and in memory; `None` if making it failed.
    async fn read(&self, format: Format) -> Option<Bytes> {
        let came = Instant::now();
        let mut pages = Arc::clone(&self.made).lock_owned().await;
        let [prometheus, open] = &*pages;
        let last = if format == Format::Prometheus { prometheus } else { open };
        if let Some(made) = last.as_ref().filter(|made| made.begun >= came) {
            return Some(made.text.clone());
        }
        let state = Arc::clone(&self.state);
        // It reads files of /proc, and may be some megabytes. The lock goes with it: readers that
        // come and go make one page after the other.
        let made = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let text = Bytes::from(metrics::page(&state).text(format));
            let [prometheus, open] = &mut *pages;
            let place = if format == Format::Prometheus { prometheus } else { open };
            *place = Some(Made { begun, text: text.clone() });
            text
        });
        made.await
            .inspect_err(|error| tracing::error!(%error, "the metrics could not be told"))
            .ok()
    }
}

/// The format that the client likes better; Prometheus' where it does not say.
fn wanted(headers: &HeaderMap) -> Format {
    let mut liked = [0.0_f32; 2];
    let all = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    for one in all.flat_map(|value| value.split(',')) {
        let mut parts = one.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let quality = parts.find_map(|part| part.strip_prefix("q="));
        let quality = quality.map_or(1.0, |it| it.parse().unwrap_or(0.0));
        let at = match media.to_ascii_lowercase().as_str() {
            "application/openmetrics-text" => Format::OpenMetrics,
            "text/plain" | "text/*" | "*/*" => Format::Prometheus,
            _ => continue,
        };
        let [prometheus, open] = &mut liked;
        let liked = if at == Format::OpenMetrics { open } else { prometheus };
        *liked = liked.max(quality);
    }
    let [prometheus, open] = liked;
    if open > prometheus { Format::OpenMetrics } else { Format::Prometheus }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_the_format_that_it_likes_better() {
        for (accept, format) in [
            ("", Format::Prometheus),
            ("*/*", Format::Prometheus),
            ("text/html, nonsense;;;", Format::Prometheus),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("application/openmetrics-text;q=0", Format::Prometheus),
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.7",
                Format::Prometheus,
            ),
            // As Prometheus 2.42 asks.
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                 version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::OpenMetrics,
            ),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            assert_eq!(wanted(&headers), format, "{accept}");
        }
    }
}
