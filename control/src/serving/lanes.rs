//! The lanes that run, by transport.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ferry_core::{
    Attachment, Endpoint, Generation, LinkKind, RegionDescriptor, SessionId, Status, Token,
    error_text,
};
use ferry_memory::SlotTable;
use ferry_transport::{ANSWER_MAX, Admission, AdmitError, Answer, LaneError, LaneHandle, Link};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::error::ApiError;
use crate::serving::routes::{Route, Routes};

/// Connects clients that live in the server itself.
pub trait Door: Send + Sync + std::fmt::Debug {
    /// The client's end of a session that was admitted, and its slots.
    ///
    /// # Errors
    /// [`ApiError::Lane`] if the session is not there any more.
    fn connect(
        &self,
        session: SessionId,
        generation: Generation,
        token: &Token,
    ) -> Result<(Box<dyn Link>, Arc<SlotTable>), ApiError>;
}

/// A running lane.
#[derive(Debug)]
pub struct Lane {
    /// Its thread's name.
    pub name: String,
    /// What it serves.
    pub link: LinkKind,
    /// Where clients are told to reach it.
    pub endpoint: Endpoint,
    /// The thread.
    pub handle: LaneHandle,
    /// What its handler knows.
    pub routes: Arc<Routes>,
    /// The way in for clients inside the server; only `local` has one.
    pub door: Option<Arc<dyn Door>>,
    /// Sessions on it.
    pub sessions: AtomicU64,
}

impl Lane {
    /// Sessions on it.
    pub fn sessions_now(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Brings a lease of a session onto the lane.
    ///
    /// # Errors
    /// [`ApiError`] with what the lane or its link says.
    pub async fn admit(
        self: &Arc<Self>,
        admission: Admission,
        route: Arc<Route>,
    ) -> Result<RegionDescriptor, ApiError> {
        let session = admission.session;
        // Before the link knows the session: no request can come earlier.
        self.routes.put(session, route);
        let admitted = self.ask(|lane, answer| lane.admit_then(admission, answer)).await;
        match admitted.map_err(AdmitError::from).flatten() {
            Ok(region) => {
                self.sessions.fetch_add(1, Ordering::Relaxed);
                Ok(region)
            }
            Err(error) => {
                self.routes.remove(session);
                Err(self.error(error))
            }
        }
    }

    /// Tells the lane's link of the client's end of a session.
    ///
    /// # Errors
    /// [`ApiError`] with what the lane or its link says.
    pub async fn attach(
        self: &Arc<Self>,
        session: SessionId,
        attachment: Attachment,
    ) -> Result<RegionDescriptor, ApiError> {
        let attached = self.ask(|lane, answer| lane.attach_then(session, attachment, answer)).await;
        attached.map_err(AdmitError::from).flatten().map_err(|error| self.error(error))
    }

    /// Takes a session off the lane: its memory goes, and its client is told `status`.
    pub async fn evict(self: &Arc<Self>, session: SessionId, status: Status) {
        let evicted = self.ask(|lane, answer| lane.evict_then(session, status, answer)).await;
        if let Err(error) = evicted {
            tracing::warn!(lane = self.name, %session, %error, "not evicted");
        }
        self.routes.remove(session);
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }

    /// Asks the lane and waits for its answer, with no thread blocked meanwhile.
    async fn ask<T: Send + 'static>(
        &self,
        send: impl FnOnce(&LaneHandle, Answer<T>) -> Result<(), LaneError>,
    ) -> Result<T, LaneError> {
        let (answer, is_answered) = oneshot::channel();
        // Who asked may have given up waiting.
        send(&self.handle, Box::new(move |it| drop(answer.send(it))))?;
        match timeout(ANSWER_MAX, is_answered).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_dropped)) => Err(self.handle.ended().unwrap_or(LaneError::Stopped)),
            Err(_elapsed) => Err(LaneError::NoAnswer(ANSWER_MAX.as_secs())),
        }
    }

    fn error(&self, error: AdmitError) -> ApiError {
        let lane = self.name.clone();
        match error {
            AdmitError::Memory(_) => {
                let why = error_text(&error);
                ApiError::Busy(format!("{why}; ask for fewer slots, or close sessions"))
            }
            AdmitError::NotAttachable(_) => ApiError::NotAttachable(error_text(&error)),
            AdmitError::Full(_) => ApiError::Busy(format!("lane {lane}: {error}")),
            _ => ApiError::Lane { lane, why: error_text(&error) },
        }
    }
}

/// All lanes.
#[derive(Debug, Default)]
pub struct Lanes(pub Vec<Arc<Lane>>);

impl Lanes {
    /// The lane of a link that has the fewest sessions and lives.
    pub fn best(&self, link: LinkKind) -> Option<&Arc<Lane>> {
        self.0
            .iter()
            .filter(|lane| lane.link == link && lane.handle.ended().is_none())
            .min_by_key(|lane| lane.sessions_now())
    }

    /// Requests that are with any lane's handler.
    pub fn in_flight(&self) -> u64 {
        self.0.iter().map(|lane| lane.handle.stats().in_flight).sum()
    }

    /// Replies that the lanes' links have not handed on yet.
    pub fn leaving(&self) -> u64 {
        self.0.iter().map(|lane| lane.handle.stats().leaving).sum()
    }
}
