//! The twenty methods.

use std::sync::Arc;

use ferry_core::error_text;
use ferry_proto::oip;
use ferry_proto::oip::grpc_inference_service_server::GrpcInferenceService;
use tonic::{Request, Response, Status, Streaming};

use super::offer::Offer;
use super::{config, memory, metadata, reply, repository, request, settings, statistics, stream};
use crate::api::{auth, came};
use crate::error::ApiError;
use crate::serving::inline::Came;
use crate::serving::regions::Kind;
use crate::state::State;
use crate::tenants::Tenant;

/// The service.
#[derive(Clone, Debug)]
pub struct OipService(pub Arc<State>);

type Reply<T> = Result<Response<T>, Status>;

/// One inference.
///
/// # Errors
/// [`ApiError`] says what does not fit, or how it ended.
pub(super) async fn infer(
    state: &State,
    tenant: &Arc<Tenant>,
    message: oip::ModelInferRequest,
    came: impl Into<Came>,
) -> Result<oip::ModelInferResponse, ApiError> {
    let came = came.into();
    let answer = async {
        state.takes_new()?;
        let (asked, used) = request::read(state, tenant, message, came).await?;
        let of_model = asked.offer.to_model(&asked.inline)?;
        let tenant = Arc::clone(tenant);
        let made = state.inline.infer_with(used, tenant, &of_model, came).await?;
        reply::answer(&asked, made).await
    };
    let answer = answer.await;
    if let Err(error) = &answer {
        tracing::debug!(error = error_text(error), "an inference failed");
    }
    answer
}

#[tonic::async_trait]
impl GrpcInferenceService for OipService {
    async fn server_live(
        &self,
        _request: Request<oip::ServerLiveRequest>,
    ) -> Reply<oip::ServerLiveResponse> {
        Ok(Response::new(oip::ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _request: Request<oip::ServerReadyRequest>,
    ) -> Reply<oip::ServerReadyResponse> {
        Ok(Response::new(oip::ServerReadyResponse { ready: self.0.takes_new().is_ok() }))
    }

    async fn model_ready(
        &self,
        request: Request<oip::ModelReadyRequest>,
    ) -> Reply<oip::ModelReadyResponse> {
        let oip::ModelReadyRequest { name, version } = request.into_inner();
        let ready = metadata::is_ready(&self.0, &name, &version)?;
        Ok(Response::new(oip::ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _request: Request<oip::ServerMetadataRequest>,
    ) -> Reply<oip::ServerMetadataResponse> {
        Ok(Response::new(metadata::server()))
    }

    async fn model_metadata(
        &self,
        request: Request<oip::ModelMetadataRequest>,
    ) -> Reply<oip::ModelMetadataResponse> {
        let oip::ModelMetadataRequest { name, version } = request.into_inner();
        Ok(Response::new(metadata::model(&self.0, &name, &version)?))
    }

    async fn model_infer(
        &self,
        request: Request<oip::ModelInferRequest>,
    ) -> Reply<oip::ModelInferResponse> {
        let came = came::of(&request);
        let tenant = auth::tenant(&request)?;
        let answer = infer(&self.0, &tenant, request.into_inner(), came).await?;
        Ok(Response::new(answer))
    }

    type ModelStreamInferStream = stream::Answers;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<oip::ModelInferRequest>>,
    ) -> Reply<stream::Answers> {
        let tenant = auth::tenant(&request)?;
        let ends = stream::ends(request.metadata())?;
        let peer = came::of(&request).peer;
        let caller = stream::Caller { state: Arc::clone(&self.0), tenant, peer };
        Ok(Response::new(stream::serve(caller, request.into_inner(), ends)))
    }

    async fn model_config(
        &self,
        request: Request<oip::ModelConfigRequest>,
    ) -> Reply<oip::ModelConfigResponse> {
        let oip::ModelConfigRequest { name, version } = request.into_inner();
        let offer = Offer::find(&self.0, &name, &version)?;
        Ok(Response::new(oip::ModelConfigResponse { config: Some(config::of(&offer)) }))
    }

    async fn model_statistics(
        &self,
        request: Request<oip::ModelStatisticsRequest>,
    ) -> Reply<oip::ModelStatisticsResponse> {
        let oip::ModelStatisticsRequest { name, version } = request.into_inner();
        let model_stats = statistics::of(&self.0, &name, &version)?;
        Ok(Response::new(oip::ModelStatisticsResponse { model_stats }))
    }

    async fn repository_index(
        &self,
        request: Request<oip::RepositoryIndexRequest>,
    ) -> Reply<oip::RepositoryIndexResponse> {
        let models = repository::index(&self.0, auth::identity(&request)?, request.get_ref())?;
        Ok(Response::new(oip::RepositoryIndexResponse { models }))
    }

    async fn repository_model_load(
        &self,
        request: Request<oip::RepositoryModelLoadRequest>,
    ) -> Reply<oip::RepositoryModelLoadResponse> {
        repository::load(&self.0, request.into_inner()).await?;
        Ok(Response::new(oip::RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<oip::RepositoryModelUnloadRequest>,
    ) -> Reply<oip::RepositoryModelUnloadResponse> {
        repository::unload(&self.0, request.into_inner()).await?;
        Ok(Response::new(oip::RepositoryModelUnloadResponse {}))
    }

    async fn system_shared_memory_status(
        &self,
        request: Request<oip::SystemSharedMemoryStatusRequest>,
    ) -> Reply<oip::SystemSharedMemoryStatusResponse> {
        let tenant = auth::tenant(&request)?;
        let name = &request.get_ref().name;
        Ok(Response::new(memory::status(&self.0.regions, &tenant, name)?))
    }

    async fn system_shared_memory_register(
        &self,
        request: Request<oip::SystemSharedMemoryRegisterRequest>,
    ) -> Reply<oip::SystemSharedMemoryRegisterResponse> {
        let tenant = auth::tenant(&request)?;
        self.0.takes_new()?;
        memory::check_host(request.extensions())?;
        memory::register(&self.0.regions, &tenant, request.get_ref())?;
        Ok(Response::new(oip::SystemSharedMemoryRegisterResponse {}))
    }

    async fn system_shared_memory_unregister(
        &self,
        request: Request<oip::SystemSharedMemoryUnregisterRequest>,
    ) -> Reply<oip::SystemSharedMemoryUnregisterResponse> {
        let tenant = auth::tenant(&request)?;
        self.0.regions.unregister(&tenant, Kind::System, &request.get_ref().name);
        Ok(Response::new(oip::SystemSharedMemoryUnregisterResponse {}))
    }

    async fn cuda_shared_memory_status(
        &self,
        request: Request<oip::CudaSharedMemoryStatusRequest>,
    ) -> Reply<oip::CudaSharedMemoryStatusResponse> {
        let tenant = auth::tenant(&request)?;
        let name = &request.get_ref().name;
        Ok(Response::new(memory::cuda_status(&self.0.regions, &tenant, name)?))
    }

    async fn cuda_shared_memory_register(
        &self,
        request: Request<oip::CudaSharedMemoryRegisterRequest>,
    ) -> Reply<oip::CudaSharedMemoryRegisterResponse> {
        let tenant = auth::tenant(&request)?;
        self.0.takes_new()?;
        memory::check_host(request.extensions())?;
        memory::cuda_register(&self.0, tenant, request.into_inner()).await?;
        Ok(Response::new(oip::CudaSharedMemoryRegisterResponse {}))
    }

    async fn cuda_shared_memory_unregister(
        &self,
        request: Request<oip::CudaSharedMemoryUnregisterRequest>,
    ) -> Reply<oip::CudaSharedMemoryUnregisterResponse> {
        let tenant = auth::tenant(&request)?;
        memory::cuda_unregister(&self.0, tenant, request.into_inner().name).await?;
        Ok(Response::new(oip::CudaSharedMemoryUnregisterResponse {}))
    }

    async fn trace_setting(
        &self,
        request: Request<oip::TraceSettingRequest>,
    ) -> Reply<oip::TraceSettingResponse> {
        Ok(Response::new(settings::trace(&self.0, request.get_ref())?))
    }

    async fn log_settings(
        &self,
        request: Request<oip::LogSettingsRequest>,
    ) -> Reply<oip::LogSettingsResponse> {
        Ok(Response::new(settings::log(request.into_inner())?))
    }
}
