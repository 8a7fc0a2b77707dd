//! `ferry.v1.Models`.

use std::sync::Arc;
use std::time::Duration;

use ferry_core::Status;
use ferry_proto::v1;
use tonic::{Request, Response};

use super::to_wire;
use crate::error::ApiError;
use crate::host::clock::unix_ns;
use crate::models::{Loading, Precision, Served, check_name};
use crate::sessions::end;
use crate::state::State;
use crate::store::{Event, ModelRow};

/// How long a model that is unloaded may take over what it has in flight.
const RETIRE_WAIT: Duration = Duration::from_secs(30);

/// How often one looks whether its last replies went to their lanes.
const RETIRE_LOOK: Duration = Duration::from_millis(2);

/// The service.
#[derive(Clone, Debug)]
pub struct ModelsService(pub Arc<State>);

type Reply<T> = Result<Response<T>, tonic::Status>;

/// A model that was loaded, for the store.
pub(crate) fn loaded_event(served: &Served) -> Event {
    Event::Loaded(Box::new(ModelRow {
        name: served.name.clone(),
        version: served.version.to_string(),
        engine: served.engine.to_owned(),
        device: served.device_name(),
        precision: served.precision.map(Precision::name),
        sha256: served.sha256.clone(),
        loaded_unix_ns: served.loaded_unix_ns,
    }))
}

/// Ends a model that is not listed any more: finishes what is in flight, then its sessions.
async fn retire(state: Arc<State>, served: Arc<Served>) {
    let pool = Arc::clone(&served);
    let finished = tokio::task::spawn_blocking(move || pool.pool.shutdown(RETIRE_WAIT)).await;
    match finished {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(model = served.label(), %error, "unloaded by force"),
        Err(error) => tracing::error!(model = served.label(), %error, "unloading panicked"),
    }
    let sessions = state.sessions.all();
    let own = sessions.iter().filter(|session| Arc::ptr_eq(&session.served, &served));
    for session in own {
        // The pool is empty; the last replies may still be on their way to the lane.
        let looks = RETIRE_WAIT.as_millis() / RETIRE_LOOK.as_millis();
        for _ in 0..looks {
            if session.meter.in_flight() == 0 {
                break;
            }
            tokio::time::sleep(RETIRE_LOOK).await;
        }
        end(&state, session, Status::SessionEnded, "model unloaded").await;
    }
    state.recorder.event(Event::Unloaded {
        name: served.name.clone(),
        version: served.version.to_string(),
        loaded_unix_ns: served.loaded_unix_ns,
        unix_ns: unix_ns(),
    });
    tracing::info!(model = served.label(), "model unloaded");
}

fn joined<T>(joined: Result<T, tokio::task::JoinError>) -> Result<T, ApiError> {
    joined.map_err(|error| ApiError::Internal(error.to_string()))
}

#[tonic::async_trait]
impl v1::models_server::Models for ModelsService {
    async fn list(
        &self,
        _request: Request<v1::ListModelsRequest>,
    ) -> Reply<v1::ListModelsResponse> {
        let models = self.0.models.list().iter().map(to_wire::model).collect();
        Ok(Response::new(v1::ListModelsResponse { models }))
    }

    async fn get(&self, request: Request<v1::GetModelRequest>) -> Reply<v1::Model> {
        let v1::GetModelRequest { name, version } = request.into_inner();
        check_name(&name)?;
        let versions = self.0.models.versions(&name, version);
        // The latest that serves; else the latest.
        let serving = self.0.models.get(&name, version).map(|served| served.version).ok();
        let chosen = versions.iter().find(|it| Some(it.version) == serving).or(versions.last());
        let chosen = chosen.ok_or_else(|| self.0.models.unknown(&name, version))?;
        Ok(Response::new(to_wire::model(chosen)))
    }

    async fn load(&self, request: Request<v1::LoadModelRequest>) -> Reply<v1::LoadModelResponse> {
        self.0.takes_new()?;
        let v1::LoadModelRequest { name, version } = request.into_inner();
        let state = Arc::clone(&self.0);
        let loaded = tokio::task::spawn_blocking(move || {
            let loading = state.models.load(&name, version)?;
            if loading.is_new {
                state.recorder.event(loaded_event(&loading.served));
            }
            Ok::<_, ApiError>(loading)
        });
        let Loading { served, is_new, changed, retired } = joined(loaded.await)??;
        if let Some(retired) = retired {
            self.0.runtime.spawn(retire(Arc::clone(&self.0), retired));
        }
        let model = Some(to_wire::served_model(&served));
        Ok(Response::new(v1::LoadModelResponse { model, loaded: is_new, changed }))
    }

    async fn unload(
        &self,
        request: Request<v1::UnloadModelRequest>,
    ) -> Reply<v1::UnloadModelResponse> {
        let v1::UnloadModelRequest { name, version } = request.into_inner();
        for served in self.0.models.unload(&name, version)? {
            // To the end, even if the caller goes away.
            joined(self.0.runtime.spawn(retire(Arc::clone(&self.0), served)).await)?;
        }
        Ok(Response::new(v1::UnloadModelResponse {}))
    }
}
