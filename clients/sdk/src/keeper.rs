//! Keeps a client's sessions alive, and sends their timings.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use ferry_core::SessionId;
use ferry_proto::v1;
use ferry_proto::v1::sessions_client::SessionsClient;

use crate::agreed::Agreed;
use crate::key::Channel;
use crate::recorder::{RecordCounts, Recorder};

/// Heartbeats per lease: two may be lost before the lease is.
const BEATS_PER_LEASE: u32 = 3;

/// How often the keeper looks whether a heartbeat is due, where no session is open.
const IDLE_BEAT: Duration = Duration::from_secs(1);

/// Fewest milliseconds between heartbeats, however short a lease is.
const BEAT_MIN: Duration = Duration::from_millis(20);

/// What all sessions of a client share.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) channel: Channel,
    pub(crate) recorder: Arc<Recorder>,
    sessions: Mutex<HashMap<SessionId, Held>>,
}

#[derive(Debug)]
struct Held {
    reference: v1::SessionRef,
    lease: Duration,
    gone: Arc<AtomicBool>,
}

impl Keeper {
    /// Starts the two background tasks; they end when the keeper is dropped.
    pub(crate) fn start(channel: Channel) -> Arc<Keeper> {
        let recorder = Arc::new(Recorder::new(channel.clone()));
        let sessions = Mutex::new(HashMap::new());
        let keeper = Arc::new(Keeper { channel, recorder, sessions });
        tokio::spawn(beat(Arc::downgrade(&keeper)));
        tokio::spawn(report(Arc::downgrade(&keeper), Arc::clone(&keeper.recorder)));
        keeper
    }

    /// Keeps a session alive from now on. The flag is set once the server does not know it any
    /// more. Also used after a resume, for the new generation.
    pub(crate) fn hold(&self, agreed: &Agreed) -> Arc<AtomicBool> {
        let gone = Arc::new(AtomicBool::new(false));
        let held =
            Held { reference: agreed.to_ref(), lease: agreed.lease, gone: Arc::clone(&gone) };
        self.lock().insert(agreed.session, held);
        gone
    }

    /// Sends what waits, and says what became of all records so far.
    pub(crate) async fn flush(&self) -> RecordCounts {
        self.recorder.flush(&self.references()).await
    }

    /// Sends what waits, then ends the session at the server.
    pub(crate) async fn close(&self, agreed: &Agreed) -> Result<RecordCounts, tonic::Status> {
        let counts = self.flush().await;
        self.lock().remove(&agreed.session);
        let request = v1::CloseSessionRequest { session: Some(agreed.to_ref()) };
        SessionsClient::new(self.channel.clone()).close(request).await?;
        Ok(counts)
    }

    fn references(&self) -> HashMap<SessionId, v1::SessionRef> {
        self.lock().iter().map(|(&id, held)| (id, held.reference.clone())).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Held>> {
        // Nothing panics while it is held; a poisoned map would still be whole.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shortest lease divided by the beats, if any session is held.
    fn next_beat(&self) -> Duration {
        let shortest = self.lock().values().map(|held| held.lease).min();
        shortest.map_or(IDLE_BEAT, |lease| (lease / BEATS_PER_LEASE).max(BEAT_MIN).min(IDLE_BEAT))
    }

    async fn beat(&self) {
        let sessions: Vec<_> = self.references().into_values().collect();
        if sessions.is_empty() {
            return;
        }
        let request = v1::HeartbeatRequest { sessions };
        match SessionsClient::new(self.channel.clone()).heartbeat(request).await {
            Ok(answer) => {
                let mut sessions = self.lock();
                for id in answer.into_inner().gone {
                    if let Some(held) = sessions.remove(&SessionId(id)) {
                        held.gone.store(true, Ordering::Release);
                    }
                }
            }
            // The control plane may be away for a while; the data plane goes on until the lease
            // ends.
            Err(status) => tracing::debug!(%status, "heartbeat not answered"),
        }
    }
}

async fn beat(keeper: Weak<Keeper>) {
    loop {
        let Some(next) = keeper.upgrade().map(|keeper| keeper.next_beat()) else { return };
        tokio::time::sleep(next).await;
        let Some(keeper) = keeper.upgrade() else { return };
        keeper.beat().await;
    }
}

async fn report(keeper: Weak<Keeper>, recorder: Arc<Recorder>) {
    loop {
        recorder.due().await;
        let Some(keeper) = keeper.upgrade() else { return };
        recorder.send(&keeper.references()).await;
    }
}
