//! Requests without a session are stored under one that nobody opened: one for each tenant and
//! version of a model that was asked so.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ferry_core::{HostMemory, MemoryChoice, Placement, SessionId, Transport, WaitPolicy};

use crate::error::ApiError;
use crate::host::clock::unix_ns;
use crate::models::{Precision, Served};
use crate::store::{Connection, Event, Recorder, SessionRow};
use crate::tenants::Tenant;

/// The standing sessions. There are as many as tenants times versions that were loaded, which are
/// the operator's to choose.
#[derive(Debug, Default)]
pub(super) struct Standing(Mutex<HashMap<Key, Arc<One>>>);

type Key = (String, String, u64);

#[derive(Debug)]
struct One {
    id: SessionId,
    requests: AtomicU64,
}

impl Standing {
    /// The session that a request of `tenant` to `served` is stored under, and its number there.
    ///
    /// # Errors
    /// [`ApiError::Internal`] if the machine has no randomness.
    pub(super) fn number(
        &self,
        tenant: &Tenant,
        served: &Served,
        recorder: &Recorder,
    ) -> Result<(SessionId, u64), ApiError> {
        let key = (tenant.name().to_owned(), served.name.clone(), served.version);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let one = match all.get(&key) {
            Some(one) => Arc::clone(one),
            None => {
                let mut random = [0; 8];
                getrandom::fill(&mut random)
                    .map_err(|error| ApiError::Internal(format!("no randomness: {error}")))?;
                // Zero is no session.
                let id = SessionId(u64::from_ne_bytes(random).max(1));
                recorder.event(Event::Opened(Box::new(row(id, tenant, served))));
                let one = Arc::new(One { id, requests: AtomicU64::new(0) });
                all.insert(key, Arc::clone(&one));
                one
            }
        };
        drop(all);
        Ok((one.id, one.requests.fetch_add(1, Ordering::Relaxed) + 1))
    }

    /// Notes the end of all: the server's.
    pub(super) fn close(&self, recorder: &Recorder) {
        for (_, one) in self.0.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            recorder.event(Event::Closed { id: one.id, unix_ns: unix_ns(), reason: "server_end" });
        }
    }
}

fn row(id: SessionId, tenant: &Tenant, served: &Served) -> SessionRow {
    SessionRow {
        id,
        run: 0,
        tenant: tenant.name().to_owned(),
        model: served.name.clone(),
        version: served.version.to_string(),
        engine: served.engine.to_owned(),
        device: served.device_name(),
        precision: served.precision.map(Precision::name),
        transport: Transport::Grpc,
        placement: Placement::Host,
        memory: match served.device {
            Some(_) => MemoryChoice::Auto,
            None => MemoryChoice::Always(HostMemory::Pageable),
        },
        connection: Connection::Direct,
        wait: WaitPolicy::Block,
        slots: 1,
        opened_unix_ns: unix_ns(),
    }
}
