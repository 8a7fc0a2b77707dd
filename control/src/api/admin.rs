//! `ferry.v1.Admin`.

use std::sync::Arc;
use std::time::Duration;

use ferry_core::{SessionId, Status};
use ferry_proto::v1;
use tonic::{Request, Response};

use super::{status_of, to_wire};
use crate::error::ApiError;
use crate::host::machine::{COMMIT, VERSION};
use crate::metrics;
use crate::state::State;

/// The service.
#[derive(Clone, Debug)]
pub struct AdminService(pub Arc<State>);

type Reply<T> = Result<Response<T>, tonic::Status>;

/// Longest wait of a drain.
const DRAIN_MAX: Duration = Duration::from_secs(3600);

#[tonic::async_trait]
impl v1::admin_server::Admin for AdminService {
    async fn status(&self, _request: Request<v1::StatusRequest>) -> Reply<v1::StatusResponse> {
        let state = &self.0;
        let mut status = status_of::status(metrics::gather(state));
        if let Some(store) = &mut status.store {
            store.url = state.config.store.clone();
        }
        Ok(Response::new(v1::StatusResponse {
            version: VERSION.to_owned(),
            commit: COMMIT.to_owned(),
            run_id: state.about.own_run,
            ..status
        }))
    }

    async fn list_sessions(
        &self,
        _request: Request<v1::ListSessionsRequest>,
    ) -> Reply<v1::ListSessionsResponse> {
        let mut sessions = self.0.sessions.all();
        sessions.sort_by_key(|session| session.opened);
        let sessions = sessions.iter().map(|session| to_wire::session(session)).collect();
        Ok(Response::new(v1::ListSessionsResponse { sessions }))
    }

    async fn evict_session(
        &self,
        request: Request<v1::EvictSessionRequest>,
    ) -> Reply<v1::EvictSessionResponse> {
        let id = SessionId(request.into_inner().session_id);
        let session = self.0.sessions.find(id).ok_or_else(|| ApiError::NotFound {
            kind: "session",
            name: id.to_string(),
            hint: "Admin.ListSessions shows those there are".into(),
        })?;
        let sessions = Arc::clone(&self.0.sessions);
        let ended = self
            .0
            .runtime
            .spawn(async move { sessions.end(&session, Status::SessionEnded, "evicted").await });
        ended.await.map_err(|error| ApiError::Internal(error.to_string()))?;
        Ok(Response::new(v1::EvictSessionResponse {}))
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Reply<v1::DrainResponse> {
        let deadline = match request.into_inner().deadline {
            None => self.0.config.drain,
            Some(given) => Duration::try_from(given)
                .map_err(|error| ApiError::field("deadline", error.to_string()))?
                .min(DRAIN_MAX),
        };
        let left = self.0.drain(deadline).await;
        Ok(Response::new(v1::DrainResponse { drained: left == 0, requests_in_flight: left }))
    }

    async fn devices(&self, _request: Request<v1::DevicesRequest>) -> Reply<v1::DevicesResponse> {
        Ok(Response::new(v1::DevicesResponse {
            findings: self.0.about.findings.iter().map(Into::into).collect(),
        }))
    }
}
