//! `ferry.v1.Local`: the link `local`, driven from inside the server.

use std::sync::Arc;

use ferry_core::{RecordedBy, SessionSpec};
use ferry_proto::{append_row, named_shapes, stages_to_wire, v1};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response};

use super::{auth, from_wire, to_wire, told};
use crate::error::ApiError;
use crate::inside::drive::{self, Load, Rows};
use crate::inside::{self, Inside};
use crate::state::State;

/// The service.
#[derive(Clone, Debug)]
pub struct LocalService(pub Arc<State>);

#[tonic::async_trait]
impl v1::local_server::Local for LocalService {
    type DriveStream = BoxStream<'static, Result<v1::TimingBatch, tonic::Status>>;

    async fn infer(
        &self,
        request: Request<v1::InferRequest>,
    ) -> Result<Response<v1::InferResponse>, tonic::Status> {
        let (tenant, identity) = (auth::tenant(&request)?, auth::identity(&request)?.clone());
        let request = request.into_inner();
        if request.session.is_some() {
            let why = "the local link opens a session of its own: leave it out";
            return Err(ApiError::field("session", why).into());
        }
        let request = from_wire::inline(request)?;
        let state = &self.0;
        let who = Inside { tenant: &tenant, identity: &identity };
        let reply = inside::infer(&state.sessions, &state.recorder, who, request).await;
        let reply = reply.map_err(|error| told::error(state, &identity, error))?;
        let mut answer = to_wire::inline(&reply);
        answer.payload = reply.payload.clone();
        answer.stages = stages_to_wire(&reply.times);
        answer.session_id = reply.session.0;
        Ok(Response::new(answer))
    }

    async fn drive(
        &self,
        request: Request<v1::DriveRequest>,
    ) -> Result<Response<Self::DriveStream>, tonic::Status> {
        let identity = auth::identity(&request)?.clone();
        let load = load(request.into_inner())?;
        let state = &self.0;
        // The operator has no quota of its own: what it drives is everybody's.
        let tenant = identity.tenant().unwrap_or(state.tenants.everybody());
        let server = drive::Server {
            sessions: Arc::clone(&state.sessions),
            recorder: state.recorder.clone(),
            runtime: state.runtime.clone(),
            driving: Arc::clone(&state.driving),
        };
        let who = Inside { tenant, identity: &identity };
        let batches = drive::start(&server, who, load).await?;
        let batches = ReceiverStream::new(batches)
            .map(|rows| rows.map(|rows| batch(&rows)).map_err(tonic::Status::from));
        Ok(Response::new(batches.boxed()))
    }
}

fn load(asked: v1::DriveRequest) -> Result<Load, ApiError> {
    let session = SessionSpec {
        model: asked.model,
        version: asked.version,
        wait: ferry_proto::wait(asked.wait)?,
        shapes: named_shapes(asked.shapes),
        request_bytes_min: asked.request_bytes_min,
        reply_bytes_min: asked.reply_bytes_min,
        run: asked.run_id,
        placement: asked.placement.unwrap_or_default().try_into()?,
        recorded_by: RecordedBy::Client,
        ..SessionSpec::default()
    };
    Ok(Load {
        session,
        clients: asked.clients,
        requests: asked.requests,
        warmup: asked.warmup,
        window: asked.window,
        what: from_wire::what(asked.info.as_ref())?,
        payload: asked.payload,
    })
}

/// No session is proved by its number: only the server's own are told apart by it.
fn batch(rows: &Rows) -> v1::TimingBatch {
    let session_id = rows.session.0;
    let mut batch = v1::TimingBatch {
        session: Some(v1::SessionRef { session_id, ..v1::SessionRef::default() }),
        run_id: rows.run,
        lost: rows.lost,
        ..v1::TimingBatch::default()
    };
    rows.rows.iter().for_each(|row| append_row(&mut batch, row));
    batch
}
