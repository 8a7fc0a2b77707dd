//! A call that was let in, and whose message is there.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, header};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Http;
use super::body::Message;
use super::refused::Refused;
use crate::api::front::Caller;
use crate::error::ApiError;
use crate::state::State;
use crate::tenants::{Identity, Tenant};

/// A call.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) http: Arc<Http>,
    pub(super) identity: Identity,
    pub(super) caller: Arc<Caller>,
    pub(super) headers: HeaderMap,
    /// The parts of its path that have a name.
    pub(super) names: Vec<(String, String)>,
    pub(super) message: Message,
    /// When its message was there.
    pub(super) seen: Instant,
}

/// How a call ends.
pub(super) type Answer = Result<Response<Body>, Refused>;

impl Call {
    pub(super) fn state(&self) -> &Arc<State> {
        &self.http.state
    }

    /// A part of its path; empty if there is none of this name.
    pub(super) fn name(&self, of: &str) -> &str {
        self.names.iter().find(|(name, _)| name == of).map_or("", |(_, value)| value)
    }

    /// The tenant that makes it.
    ///
    /// # Errors
    /// [`ApiError::Key`] if none does.
    pub(super) fn tenant(&self) -> Result<&Arc<Tenant>, ApiError> {
        self.identity.tenant().ok_or(ApiError::Key)
    }

    /// Its message as JSON; nothing at all is an object without fields.
    ///
    /// # Errors
    /// [`Refused`] says where it is none, or what does not fit.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Refused> {
        if !self.message.rest.is_empty() {
            let (name, count) = (super::router::HEAD_BYTES, self.message.rest.len());
            let why =
                format!("{name} leaves {count} bytes behind the JSON, and here are no tensors");
            return Err(Refused::bad(why));
        }
        let text: &[u8] = if self.message.head.is_empty() { b"{}" } else { &self.message.head };
        check_object(text)?;
        serde_json::from_slice(text).map_err(|error| bad_json(&error))
    }
}

/// A list would be taken for an object whose fields come in the order in which we have them.
pub(super) fn check_object(text: &[u8]) -> Result<(), Refused> {
    match text.trim_ascii_start().first() {
        None | Some(b'{') => Ok(()),
        Some(_) => Err(Refused::bad("the JSON of the message: expected an object, as in {}")),
    }
}

pub(super) fn bad_json(error: &serde_json::Error) -> Refused {
    Refused::bad(format!("the JSON of the message: {error}"))
}

/// An answer without a body.
pub(super) fn empty() -> Answer {
    Ok(Response::new(Body::empty()))
}

/// An answer that is JSON.
///
/// # Errors
/// [`Refused`] if it cannot be written.
pub(super) fn json(value: &impl Serialize) -> Answer {
    let text = serde_json::to_vec(value).map_err(|why| ApiError::Internal(why.to_string()))?;
    Ok(written(Bytes::from(text)))
}

fn written(text: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
