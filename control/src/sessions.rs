//! Sessions: leases on a model, a transport and a set of slots.

mod agree;
pub mod carrier;
mod carriers;
mod expiry;
mod open;
mod resume;
mod retire;
mod session;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ferry_core::{Generation, SessionId, Token, Transport};

pub use agree::{Agreed, SLOTS_DEFAULT};
pub use carrier::Carrier;
pub use carriers::Carriers;
pub use open::{Caller, Opened};
pub use session::{Place, Session};

use crate::error::ApiError;
use crate::runs::RunBook;
use crate::serving::gate::Gate;
use crate::serving::lanes::Lanes;
use crate::serving::residents::Residents;
use crate::serving::routes::Meter;
use crate::store::{Recorder, TimingStore};
use crate::tenants::{SESSIONS_MAX, Tenant};

/// Ended sessions that are remembered, so that their clients can bring their last timings. One
/// costs some 100 bytes; who ends as many within a heartbeat loses the timings of the first ones.
const ENDED_MAX: usize = 4096;

/// What the operator bounds sessions by.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a session lives without a heartbeat.
    pub lease: Duration,
    /// Largest request half beyond the tensors, in bytes.
    pub request_bytes_max: u64,
}

/// What sessions are made of.
#[derive(Debug)]
pub struct Parts {
    /// The transports that they may have.
    pub carriers: Carriers,
    /// Where their requests come in.
    pub lanes: Arc<Lanes>,
    /// What they are sessions with.
    pub residents: Arc<Residents>,
    /// The runs that they may name.
    pub runs: Arc<RunBook>,
    /// Where runs are looked up.
    pub store: Arc<dyn TimingStore>,
    /// Where their begin and end go, and requests that the server records.
    pub recorder: Recorder,
    /// Whether new ones are taken.
    pub gate: Arc<Gate>,
    /// Their bounds.
    pub limits: Limits,
}

/// Every live session, and the way into one and out of it.
#[derive(Debug)]
pub struct Sessions {
    parts: Parts,
    live: Mutex<HashMap<SessionId, Arc<Session>>>,
    /// The latest ones that ended, oldest first.
    ended: Mutex<VecDeque<(SessionId, Token, Account)>>,
}

/// Whose timings a session brings, and of which run.
#[derive(Clone, Debug)]
pub struct Account {
    /// Who opened it.
    pub tenant: Arc<Tenant>,
    /// The run of its requests; 0 is the server's own.
    pub run: i64,
    /// What it was served.
    pub meter: Arc<Meter>,
}

impl Sessions {
    /// None yet.
    pub fn new(parts: Parts) -> Sessions {
        Sessions { parts, live: Mutex::default(), ended: Mutex::default() }
    }

    /// How long a session lives without a heartbeat.
    pub fn lease(&self) -> Duration {
        self.parts.limits.lease
    }

    /// The transports that a client can open a session with.
    pub fn transports(&self) -> Vec<Transport> {
        self.parts.carriers.transports()
    }

    fn live(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Session>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a session.
    ///
    /// # Errors
    /// [`ApiError::Busy`] above [`SESSIONS_MAX`].
    fn add(&self, session: Arc<Session>) -> Result<(), ApiError> {
        let mut live = self.live();
        if live.len() >= SESSIONS_MAX {
            let why = format!("the server has its {SESSIONS_MAX} sessions; close some");
            return Err(ApiError::Busy(why));
        }
        live.insert(session.id, session);
        Ok(())
    }

    /// Forgets a session; `None` if somebody else did.
    fn remove(&self, id: SessionId) -> Option<Arc<Session>> {
        let removed = self.live().remove(&id)?;
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.len() >= ENDED_MAX {
            ended.pop_front();
        }
        ended.push_back((id, *removed.token(), removed.account()));
        Some(removed)
    }

    /// Checks that somebody owns a session, whatever its generation, or owned it when it ended a
    /// short while ago: good for bringing timings, and for nothing else.
    ///
    /// # Errors
    /// [`ApiError::NoSuchSession`].
    pub fn prove_owner(&self, id: SessionId, token: &Token) -> Result<Account, ApiError> {
        let live = self.find(id).map(|session| (*session.token(), session.account()));
        let known = live.or_else(|| {
            let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            let found = ended.iter().rev().find(|(known, ..)| *known == id);
            found.map(|(_, token, account)| (*token, account.clone()))
        });
        // An unknown session costs the same comparison as a wrong token.
        let none = Token::new([0; Token::BYTES]);
        let fits = known.as_ref().map_or(&none, |(secret, _)| secret).matches(token);
        known.filter(|_| fits).map(|(_, account)| account).ok_or(ApiError::NoSuchSession)
    }

    /// A session by its id alone: for operators and for the server itself.
    pub fn find(&self, id: SessionId) -> Option<Arc<Session>> {
        self.live().get(&id).cloned()
    }

    /// A session whose owner proves it.
    ///
    /// # Errors
    /// [`ApiError::NoSuchSession`], the same for everything that does not fit.
    pub fn prove(
        &self,
        id: SessionId,
        token: &Token,
        generation: Generation,
    ) -> Result<Arc<Session>, ApiError> {
        let found = self.find(id);
        // An unknown session costs the same comparison as a wrong token.
        let none = Token::new([0; Token::BYTES]);
        let fits = found.as_ref().map_or(&none, |session| session.token()).matches(token);
        let session = found.filter(|session| fits && session.generation() == generation);
        session.ok_or(ApiError::NoSuchSession)
    }

    /// Every session, in no order.
    pub fn all(&self) -> Vec<Arc<Session>> {
        self.live().values().cloned().collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.live().len()
    }
}
