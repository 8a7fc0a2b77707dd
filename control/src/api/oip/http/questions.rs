//! What is asked about the server and its models. None of it waits for an inference.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use ferry_proto::oip;
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::{self, Answer, Call};
use super::reflected;
use crate::api::oip::offer::Offer;
use crate::api::oip::{config, metadata, repository, statistics};

/// The extension that only HTTP has: tensors as bytes behind the JSON.
const EXTENSION: &str = "binary_tensor_data";

/// Yes, or 400 and no reason, which is what clients look at.
fn is(so: bool) -> Answer {
    let mut response = Response::new(Body::empty());
    if !so {
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    Ok(response)
}

pub(super) async fn live(_call: Call) -> Answer {
    is(true)
}

pub(super) async fn ready(call: Call) -> Answer {
    is(call.state().takes_new().is_ok())
}

pub(super) async fn model_ready(call: Call) -> Answer {
    is(metadata::is_ready(call.state(), call.name("model"), call.name("version"))?)
}

pub(super) async fn server(_call: Call) -> Answer {
    let mut told = metadata::server();
    told.extensions.push(EXTENSION.to_owned());
    call::json(&reflected::json(&told)?)
}

pub(super) async fn model(call: Call) -> Answer {
    let told = metadata::model(call.state(), call.name("model"), call.name("version"))?;
    call::json(&reflected::json(&told)?)
}

pub(super) async fn config(call: Call) -> Answer {
    let offer = Offer::find(call.state(), call.name("model"), call.name("version"))?;
    call::json(&reflected::json(&config::of(&offer))?)
}

pub(super) async fn statistics(call: Call) -> Answer {
    let model_stats = statistics::of(call.state(), call.name("model"), call.name("version"))?;
    call::json(&reflected::json(&oip::ModelStatisticsResponse { model_stats })?)
}

/// Which models are asked for.
#[derive(Debug, Deserialize)]
struct Which {
    #[serde(default)]
    ready: bool,
}

pub(super) async fn index(call: Call) -> Answer {
    let Which { ready } = call.json()?;
    let repository_name = call.name("repository").to_owned();
    let asked = oip::RepositoryIndexRequest { repository_name, ready };
    let all = repository::index(call.state(), &call.identity, &asked)?;
    let one = |it: oip::repository_index_response::ModelIndex| {
        let mut told = json!({ "name": it.name, "version": it.version, "state": it.state });
        if !it.reason.is_empty() {
            told["reason"] = Value::String(it.reason);
        }
        told
    };
    call::json(&all.into_iter().map(one).collect::<Vec<_>>())
}
