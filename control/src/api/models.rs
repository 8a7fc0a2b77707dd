//! `ferry.v1.Models`.

use std::sync::Arc;

use ferry_proto::v1;
use tonic::{Request, Response};

use super::{auth, to_wire, told};
use crate::error::ApiError;
use crate::models::{Given, Loading, Served, check_name};
use crate::state::State;
use crate::tenants::Identity;

/// The service.
#[derive(Clone, Debug)]
pub struct ModelsService(pub Arc<State>);

type Reply<T> = Result<Response<T>, tonic::Status>;

/// Ends a model, whatever becomes of the call.
fn retire(state: &State, served: Arc<Served>) -> impl Future<Output = ()> + Send + 'static {
    let sessions = Arc::clone(&state.sessions);
    async move { sessions.retire(served).await }
}

fn joined<T>(joined: Result<T, tokio::task::JoinError>) -> Result<T, ApiError> {
    joined.map_err(|error| ApiError::Internal(error.to_string()))
}

/// Loads a model, version 0 those that its policy says, and retires what it replaces.
///
/// # Errors
/// As [`Models::load_with`](crate::models::Models::load_with).
pub(super) async fn load(
    state: &Arc<State>,
    name: &str,
    version: u64,
    given: Option<Given>,
) -> Result<Loading, ApiError> {
    state.takes_new()?;
    let (of_thread, name) = (Arc::clone(state), name.to_owned());
    let loaded = tokio::task::spawn_blocking(move || {
        let loading = of_thread.models.load_with(&name, version, given.as_ref())?;
        // Also if the caller has gone away.
        of_thread.turn_over(&loading.turnover);
        Ok::<_, ApiError>(loading)
    });
    joined(loaded.await)?
}

/// Takes a model out of service, version 0 all its versions.
///
/// # Errors
/// As [`Models::unload`](crate::models::Models::unload).
pub(super) async fn unload(state: &Arc<State>, name: &str, version: u64) -> Result<(), ApiError> {
    for served in state.models.unload(name, version)? {
        // To the end, even if the caller goes away.
        joined(state.runtime.spawn(retire(state, served)).await)?;
    }
    Ok(())
}

impl ModelsService {
    /// A model as `who` is told of it.
    fn told(&self, who: &Identity, model: v1::Model) -> v1::Model {
        let told = |why| told::why(&self.0, who, why);
        let notes = model.notes.into_iter().map(told).collect();
        let (error, device_reason) = (told(model.error), told(model.device_reason));
        v1::Model { error, notes, device_reason, ..model }
    }
}

#[tonic::async_trait]
impl v1::models_server::Models for ModelsService {
    async fn list(&self, request: Request<v1::ListModelsRequest>) -> Reply<v1::ListModelsResponse> {
        let who = auth::identity(&request)?;
        let told = |listed| self.told(who, to_wire::model(listed));
        let models = self.0.models.list().iter().map(told).collect();
        Ok(Response::new(v1::ListModelsResponse { models }))
    }

    async fn get(&self, request: Request<v1::GetModelRequest>) -> Reply<v1::Model> {
        let who = auth::identity(&request)?.clone();
        let v1::GetModelRequest { name, version } = request.into_inner();
        check_name(&name).map_err(ApiError::from)?;
        let versions = self.0.models.versions(&name, version);
        // The latest that serves; else the latest.
        let serving = self.0.models.get(&name, version).map(|served| served.version).ok();
        let chosen = versions.iter().find(|it| Some(it.version) == serving).or(versions.last());
        let unknown = || ApiError::from(self.0.models.unknown(&name, version));
        let chosen = chosen.ok_or_else(unknown)?;
        let mut model = self.told(&who, to_wire::model(chosen));
        if let (true, Some(profile)) = (who.is_operator(), chosen.state.profile()) {
            model.config_toml = profile.metadata.toml.as_deref().map(str::to_owned);
        }
        Ok(Response::new(model))
    }

    async fn load(&self, request: Request<v1::LoadModelRequest>) -> Reply<v1::LoadModelResponse> {
        let v1::LoadModelRequest { name, version, config_toml } = request.into_inner();
        let given = config_toml.map(|text| Given::Toml(text.into()));
        let loading = load(&self.0, &name, version, given).await?;
        let model = Some(to_wire::served_model(&loading.served));
        let loaded = loading.is_new();
        Ok(Response::new(v1::LoadModelResponse { model, loaded, changed: loading.changed }))
    }

    async fn unload(
        &self,
        request: Request<v1::UnloadModelRequest>,
    ) -> Reply<v1::UnloadModelResponse> {
        let v1::UnloadModelRequest { name, version } = request.into_inner();
        unload(&self.0, &name, version).await?;
        Ok(Response::new(v1::UnloadModelResponse {}))
    }
}
