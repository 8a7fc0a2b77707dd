//! Sessions: leases on a model, a transport and a set of slots.

mod expiry;
mod negotiate;
mod open;
mod quota;
mod session;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferry_core::{Generation, SessionId, Token};

pub use expiry::keep as keep_leases;
pub use negotiate::{Agreed, Offer, REPLY_BYTES_MIN, SLOTS_DEFAULT};
pub use open::{Caller, Opened, end, open, resume};
pub use quota::{Quota, Reservation, Tenant, TenantConfig, Tenants};
pub use session::{Place, Session};

use crate::error::ApiError;

/// Most sessions of a server, whoever has them: each costs some kilobytes beside its slots.
pub const SESSIONS_MAX: usize = 65_536;

/// Every live session.
#[derive(Debug, Default)]
pub struct Sessions {
    live: Mutex<HashMap<SessionId, Arc<Session>>>,
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
        self.live().remove(&id)
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
