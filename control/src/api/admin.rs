//! `ferry.v1.Admin`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ferry_core::{SessionId, Status};
use ferry_proto::v1;
use tonic::{Request, Response};

use super::to_wire;
use crate::error::ApiError;
use crate::host::machine::{COMMIT, VERSION};
use crate::sessions::end;
use crate::state::State;
use crate::store::{StoreHealth, StoreState};

/// The service.
#[derive(Clone, Debug)]
pub struct AdminService(pub Arc<State>);

type Reply<T> = Result<Response<T>, tonic::Status>;

/// Longest wait of a drain.
const DRAIN_MAX: Duration = Duration::from_secs(3600);

fn store(state: &State) -> v1::StoreStatus {
    let health: StoreHealth = state.recorder.health();
    v1::StoreStatus {
        url: state.config.store.clone(),
        state: match health.state {
            StoreState::Good => "ok",
            StoreState::Failing => "failing",
            StoreState::Stopped => "stopped",
        }
        .to_owned(),
        rows_written: health.rows_written,
        rows_lost: health.rows_lost,
        rows_queued: health.queue_len as u64,
        events_lost: health.events_lost,
        last_error: health.last_error.unwrap_or_default(),
    }
}

fn lanes(state: &State) -> Vec<v1::LaneStatus> {
    let lane = |lane: &Arc<crate::serving::lanes::Lane>| {
        let stats = lane.handle.stats();
        v1::LaneStatus {
            name: lane.name.clone(),
            sessions: lane.sessions.load(Ordering::Relaxed),
            arrivals: stats.arrivals,
            replies: stats.replies,
            refusals: stats.refusals,
            alive: lane.handle.ended().is_none(),
        }
    };
    state.lanes.0.iter().map(lane).collect()
}

#[tonic::async_trait]
impl v1::admin_server::Admin for AdminService {
    async fn status(&self, _request: Request<v1::StatusRequest>) -> Reply<v1::StatusResponse> {
        let state = &self.0;
        let transports = state.transports().into_iter();
        Ok(Response::new(v1::StatusResponse {
            version: VERSION.to_owned(),
            commit: COMMIT.to_owned(),
            uptime: Some(to_wire::duration(state.started.elapsed())),
            draining: state.takes_new().is_err(),
            sessions: state.sessions.count() as u64,
            requests_in_flight: state.in_flight(),
            store: Some(store(state)),
            lanes: lanes(state),
            transports: transports.map(|it| v1::Transport::from(it).into()).collect(),
            refusals: state.refusals.total(),
            run_id: state.own_run,
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
        let state = Arc::clone(&self.0);
        let ended = self
            .0
            .runtime
            .spawn(async move { end(&state, &session, Status::SessionEnded, "evicted").await });
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
        Ok(Response::new(v1::DevicesResponse { findings: self.0.findings.clone() }))
    }
}
