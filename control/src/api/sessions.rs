//! `ferry.v1.Sessions`.

use std::sync::Arc;

use ferry_core::{SessionId, SessionSpec, Status};
use ferry_proto::{WireError, v1};
use tonic::{Request, Response};

use super::whole::Whole;
use super::{auth, to_wire, told};
use crate::error::ApiError;
use crate::sessions::{Caller, Opened, Sessions};
use crate::state::State;
use crate::tenants::Tenant;

/// Most sessions of one heartbeat.
const HEARTBEATS_MAX: usize = 4096;

/// The service.
#[derive(Clone, Debug)]
pub struct SessionsService(pub Arc<State>);

type Reply<T> = Result<Response<T>, tonic::Status>;

fn reference(session: Option<&v1::SessionRef>) -> Result<&v1::SessionRef, WireError> {
    session.ok_or(WireError::Missing("session"))
}

impl SessionsService {
    fn opened(&self, opened: &Opened) -> Response<v1::OpenSessionResponse> {
        Response::new(to_wire::opened(opened, self.0.config.lease))
    }

    /// Work on the sessions that nothing breaks off once it is begun.
    fn whole<T, W>(&self, work: impl FnOnce(Arc<Sessions>) -> W) -> Whole<T>
    where
        T: Send + 'static,
        W: Future<Output = T> + Send + 'static,
    {
        Whole::new(&self.0.runtime, work(Arc::clone(&self.0.sessions)))
    }

    /// A proof that did not fit, or an end that cannot be, counted as `caller`'s: whose the session
    /// is does not say who tried.
    fn refuse(
        &self,
        caller: &Tenant,
        reference: &v1::SessionRef,
        error: ApiError,
    ) -> tonic::Status {
        let what = match &error {
            ApiError::NoSuchSession => Some(("grpc", "credentials")),
            ApiError::NotAttachable(_) => Some(("rdma", "attach")),
            ApiError::Field { .. } => Some(("grpc", "attach")),
            _ => None,
        };
        if let Some((link, what)) = what {
            let session = Some(SessionId(reference.session_id));
            self.0.refusals.note(link, what, session, Some(caller.name()), &error);
        }
        error.into()
    }
}

#[tonic::async_trait]
impl v1::sessions_server::Sessions for SessionsService {
    async fn open(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Reply<v1::OpenSessionResponse> {
        let tenant = auth::tenant(&request)?;
        let identity = auth::identity(&request)?.clone();
        let who = identity.clone();
        let caller = Caller { tenant: Arc::clone(&tenant), identity, is_inside: false };
        let asked = SessionSpec::try_from(request.into_inner()).map_err(ApiError::from)?;
        let opened = self.whole(|sessions| async move { sessions.open(caller, asked).await }).await;
        match opened {
            Ok(opened) => Ok(self.opened(&opened)),
            Err(error) => {
                if matches!(error, ApiError::Quota { .. }) {
                    let tenant = Some(tenant.name());
                    self.0.refusals.note("grpc", "quota", None, tenant, &error);
                }
                Err(told::error(&self.0, &who, error).into())
            }
        }
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Reply<v1::HeartbeatResponse> {
        let caller = auth::tenant(&request)?;
        let sessions = request.into_inner().sessions;
        if sessions.len() > HEARTBEATS_MAX {
            let why = format!("{} in one heartbeat; at most {HEARTBEATS_MAX}", sessions.len());
            return Err(ApiError::field("sessions", why).into());
        }
        let mut gone = Vec::new();
        for reference in sessions {
            let proved = match reference.parts() {
                Ok((id, token, generation)) => self.0.sessions.prove(id, &token, generation),
                Err(error) => Err(error.into()),
            };
            match proved {
                Ok(session) => session.keep(self.0.config.lease),
                Err(error) => {
                    // One that ended is no attempt at anything.
                    if self.0.sessions.find(SessionId(reference.session_id)).is_some() {
                        let id = Some(SessionId(reference.session_id));
                        let caller = Some(caller.name());
                        self.0.refusals.note("grpc", "credentials", id, caller, &error);
                    }
                    gone.push(reference.session_id);
                }
            }
        }
        let draining = self.0.takes_new().is_err();
        Ok(Response::new(v1::HeartbeatResponse { gone, draining }))
    }

    async fn resume(
        &self,
        request: Request<v1::ResumeSessionRequest>,
    ) -> Reply<v1::OpenSessionResponse> {
        let caller = auth::tenant(&request)?;
        let request = request.into_inner();
        let reference = reference(request.session.as_ref())?.clone();
        let (id, token, generation) = reference.parts()?;
        let resumed =
            self.whole(|sessions| async move { sessions.resume(id, &token, generation).await });
        match resumed.await {
            Ok(opened) => Ok(self.opened(&opened)),
            Err(error) => Err(self.refuse(&caller, &reference, error)),
        }
    }

    async fn attach(
        &self,
        request: Request<v1::AttachSessionRequest>,
    ) -> Reply<v1::AttachSessionResponse> {
        let caller = auth::tenant(&request)?;
        let request = request.into_inner();
        let reference = reference(request.session.as_ref())?.clone();
        let (id, token, generation) = reference.parts()?;
        let attachment = request.attachment();
        let attachment =
            attachment.map_err(|error| self.refuse(&caller, &reference, error.into()))?;
        let attached = self.whole(|sessions| async move {
            sessions.attach(id, &token, generation, attachment).await
        });
        match attached.await {
            Ok(region) => Ok(Response::new(to_wire::attached(&region))),
            Err(error) => Err(self.refuse(&caller, &reference, error)),
        }
    }

    async fn close(
        &self,
        request: Request<v1::CloseSessionRequest>,
    ) -> Reply<v1::CloseSessionResponse> {
        let caller = auth::tenant(&request)?;
        let request = request.into_inner();
        let reference = reference(request.session.as_ref())?;
        let (id, token, generation) = reference.parts()?;
        let session = self.0.sessions.prove(id, &token, generation);
        let session = session.map_err(|error| self.refuse(&caller, reference, error))?;
        self.whole(|sessions| async move {
            sessions.end(&session, Status::SessionEnded, "closed").await;
        })
        .await;
        Ok(Response::new(v1::CloseSessionResponse {}))
    }
}
