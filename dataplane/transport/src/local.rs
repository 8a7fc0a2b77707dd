//! The in-process link: the lower bound that every other link is compared with.
//!
//! Both ends share one slot table, and the token of a slot itself moves to the server and back:
//! nothing is copied, and a slot has one holder at every moment by construction. The server's end
//! checks frames as every other link does.

mod channel;
mod client;
mod listener;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_queue::ArrayQueue;
use ferry_core::{Generation, LinkKind, SessionId, Token};
use ferry_memory::SlotTable;

use crate::admitted::{Admission, Refusal};
use crate::bell::Bell;
use crate::link::Capabilities;
use channel::Channel;

pub use client::LocalClient;
pub use listener::LocalListener;

/// Most sessions of one local listener. A poll looks at each session's queue, a few nanoseconds
/// each, so this many cost about a microsecond.
pub const LOCAL_SESSIONS_MAX: usize = 256;

/// Most refusals at the door that are kept for the next poll; more are dropped, since nobody can
/// make them but code of this process.
const REFUSALS_MAX: usize = 64;

/// Moves slots within the process: no copy, and what is in the peer's queue has arrived.
const CAPABILITIES: Capabilities = Capabilities {
    kind: LinkKind::Local,
    one_sided: true,
    reports_completion: true,
    carries_frames: true,
    threads: 2,
};

/// Makes a local link: the server's end, and the door by which clients of this process enter.
pub fn listener() -> (LocalListener, LocalDoor) {
    let hall = Arc::new(Hall {
        bell: Arc::new(Bell::default()),
        open: AtomicBool::new(true),
        expected: Mutex::new(HashMap::new()),
        joins: ArrayQueue::new(LOCAL_SESSIONS_MAX),
        refusals: ArrayQueue::new(REFUSALS_MAX),
        news: AtomicBool::new(false),
    });
    (LocalListener::new(Arc::clone(&hall)), LocalDoor { hall })
}

/// Where listener and doors meet. Only opening and closing sessions takes the lock.
#[derive(Debug)]
struct Hall {
    bell: Arc<Bell>,
    open: AtomicBool,
    expected: Mutex<HashMap<SessionId, Expected>>,
    joins: ArrayQueue<SessionId>,
    refusals: ArrayQueue<Refusal>,
    /// Set when `joins` or `refusals` may hold something.
    news: AtomicBool,
}

/// A session that was admitted.
#[derive(Debug)]
struct Expected {
    admission: Admission,
    table: Arc<SlotTable>,
    /// Set once its client came: one connection per admission.
    channel: Option<Arc<Channel>>,
}

impl Hall {
    fn expected(&self) -> MutexGuard<'_, HashMap<SessionId, Expected>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.news.store(true, Ordering::Release);
        self.bell.notify();
    }
}

/// Why a client was not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocalConnectError {
    /// Session, lease or token do not fit; the server counts it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The session has had its connection; resume it to get another.
    #[error("session {0} is connected already; resume it for a new connection")]
    Twice(SessionId),
    /// The listener is gone.
    #[error("the local listener is gone; start the server first")]
    Closed,
}

/// Lets clients of this process in. Clones lead to the same listener.
#[derive(Clone, Debug)]
pub struct LocalDoor {
    hall: Arc<Hall>,
}

impl LocalDoor {
    /// Connects to an admitted session. The table is the one that the server reads.
    ///
    /// # Errors
    /// [`LocalConnectError`] if the session is not there, is connected, or the proof is wrong.
    pub fn connect(
        &self,
        session: SessionId,
        generation: Generation,
        token: &Token,
    ) -> Result<(LocalClient, Arc<SlotTable>), LocalConnectError> {
        let channel = self.enter(session, generation, token);
        if let Err(LocalConnectError::Refused(refusal)) = &channel {
            // A full queue drops it: see REFUSALS_MAX.
            drop(self.hall.refusals.push(refusal.clone()));
            self.hall.tell();
        }
        let (channel, table) = channel?;
        Ok((LocalClient::new(session, channel, Arc::clone(&table)), table))
    }

    fn enter(
        &self,
        session: SessionId,
        generation: Generation,
        token: &Token,
    ) -> Result<(Arc<Channel>, Arc<SlotTable>), LocalConnectError> {
        let mut all = self.hall.expected();
        // Read under the lock: the listener closes the hall under it.
        if !self.hall.open.load(Ordering::Acquire) {
            return Err(LocalConnectError::Closed);
        }
        let unknown = Refusal::Credentials(session);
        let expected = all.get_mut(&session).ok_or(unknown.clone())?;
        if !expected.admission.token.matches(token) {
            return Err(unknown.into());
        }
        let now = expected.admission.generation;
        if generation != now {
            return Err(Refusal::Generation { session, named: generation, now }.into());
        }
        if expected.channel.is_some() {
            return Err(LocalConnectError::Twice(session));
        }
        let slots = expected.admission.layout.slots as usize;
        let channel = Arc::new(Channel::new(slots, Arc::clone(&self.hall.bell)));
        // Room for every session; one that was evicted before it was seen may still take a place.
        self.hall.joins.push(session).map_err(LocalConnectError::Twice)?;
        expected.channel = Some(Arc::clone(&channel));
        let table = Arc::clone(&expected.table);
        drop(all);
        self.hall.tell();
        Ok((channel, table))
    }
}
