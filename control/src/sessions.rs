//! Sessions: leases on a model, a transport and a set of slots.

mod device;
mod expiry;
mod gdr;
mod negotiate;
mod open;
mod resume;
mod session;
mod standing;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferry_core::{Generation, SessionId, Token};

pub use expiry::{grace as grace_leases, keep as keep_leases};
pub(crate) use gdr::gdr_finding;
pub use negotiate::{Agreed, Offer, REPLY_BYTES_MIN, SLOTS_DEFAULT};
pub use open::{Caller, Opened, end, open};
pub use resume::{attach, resume};
pub use session::{Place, Session};
pub use standing::Standing;

use crate::error::ApiError;
use crate::serving::routes::Meter;
use crate::tenants::Tenant;

/// Most sessions of a server, whoever has them: each costs some kilobytes beside its slots.
pub const SESSIONS_MAX: usize = 65_536;

/// Ended sessions that are remembered, so that their clients can bring their last timings. One
/// costs some 100 bytes; who ends as many within a heartbeat loses the timings of the first ones.
const ENDED_MAX: usize = 4096;

/// Every live session.
#[derive(Debug, Default)]
pub struct Sessions {
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
    fn live(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Session>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a session.
    ///
    /// # Errors
    /// [`ApiError::Busy`] above [`SESSIONS_MAX`].
    pub fn add(&self, session: Arc<Session>) -> Result<(), ApiError> {
        let mut live = self.live();
        if live.len() >= SESSIONS_MAX {
            let why = format!("the server has its {SESSIONS_MAX} sessions; close some");
            return Err(ApiError::Busy(why));
        }
        live.insert(session.id, session);
        Ok(())
    }

    /// Forgets a session; `None` if somebody else did.
    pub fn remove(&self, id: SessionId) -> Option<Arc<Session>> {
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
    /// [`ApiError::Credentials`].
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
        known.filter(|_| fits).map(|(_, account)| account).ok_or(ApiError::Credentials)
    }

    /// A session by its id alone: for operators and for the server itself.
    pub fn find(&self, id: SessionId) -> Option<Arc<Session>> {
        self.live().get(&id).cloned()
    }

    /// A session whose owner proves it.
    ///
    /// # Errors
    /// [`ApiError::Credentials`], the same for everything that does not fit.
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
        session.ok_or(ApiError::Credentials)
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
