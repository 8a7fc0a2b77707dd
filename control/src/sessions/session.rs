//! One live session.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ferry_core::{Generation, SessionId, Token};
use ferry_memory::{Placer, SlotTable};

use super::{Account, Agreed};
use crate::models::{Served, Used};
use crate::serving::lanes::Lane;
use crate::serving::routes::{Meter, Recording, Route};
use crate::tenants::{Reservation, Tenant};

/// A session, from open to end.
#[derive(Debug)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    pub(super) token: Token,
    /// Who has it.
    pub tenant: Arc<Tenant>,
    /// Gives the tenant its quota back when the session is gone.
    pub(super) _held: Reservation,
    /// The model, which stays in memory for as long. Another one takes its place where its files
    /// changed and the session can stay.
    pub(super) model: Mutex<Used>,
    /// What was agreed.
    pub agreed: Agreed,
    /// Memory of its slots here, in bytes.
    pub memory_bytes: u64,
    /// The run of its requests; 0 is the server's own.
    pub run: i64,
    /// What the client calls itself.
    pub client: String,
    /// How long after their arrival its requests are of use; `None`: for ever.
    pub timeout: Option<Duration>,
    /// When it was opened.
    pub opened: Instant,
    /// Counts its requests.
    pub meter: Arc<Meter>,
    /// Set where the server records its requests.
    pub recording: Option<Recording>,
    /// Where its requests come in.
    pub place: Place,
    pub(super) lease: Mutex<Lease>,
    /// Held while the session is resumed or ended: lane and lease change together.
    pub(super) turn: tokio::sync::Mutex<()>,
}

/// Where a session's requests come in.
#[derive(Debug)]
pub enum Place {
    /// On a lane.
    Lane(Arc<Lane>),
    /// Inside gRPC calls; the slots are only room to work in.
    Inline(Mutex<Arc<SlotTable>>),
}

/// What changes when a session is kept or resumed.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) generation: Generation,
    pub(super) expires: Instant,
    /// Set when the session has ended: nothing may bring it back.
    pub(super) over: bool,
}

impl Session {
    /// The model.
    pub fn served(&self) -> Arc<Served> {
        Arc::clone(&self.model.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn token(&self) -> &Token {
        &self.token
    }

    pub(super) fn account(&self) -> Account {
        let (tenant, meter) = (Arc::clone(&self.tenant), Arc::clone(&self.meter));
        Account { tenant, run: self.run, meter }
    }

    pub(super) fn lease(&self) -> MutexGuard<'_, Lease> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The live lease.
    pub fn generation(&self) -> Generation {
        self.lease().generation
    }

    /// Keeps the session for another lease period.
    pub fn keep(&self, lease: Duration) {
        self.lease().expires = Instant::now() + lease;
    }

    /// How long it lives without another heartbeat.
    pub fn lease_left(&self) -> Duration {
        self.lease().expires.saturating_duration_since(Instant::now())
    }

    /// The slots of a session whose requests come in gRPC calls.
    pub fn inline_slots(&self) -> Option<Arc<SlotTable>> {
        match &self.place {
            Place::Lane(_) => None,
            Place::Inline(table) => {
                Some(Arc::clone(&table.lock().unwrap_or_else(PoisonError::into_inner)))
            }
        }
    }

    /// Where its slots are made; `None`: in ordinary memory.
    pub(super) fn placer(&self) -> Option<Arc<dyn Placer>> {
        let Agreed { carrier, placement, memory, .. } = &self.agreed;
        carrier.placer(self.served().device.as_ref()?, *placement, *memory)
    }

    /// Where the requests of the live lease go.
    pub fn route(&self) -> Arc<Route> {
        let served = self.served();
        let timed = match &self.place {
            Place::Lane(lane) => served.timings.of_lane(&lane.name, self.agreed.transport),
            Place::Inline(_) => served.timings.of_calls(),
        };
        Arc::new(Route {
            served: Arc::downgrade(&served),
            binding: Arc::clone(&self.agreed.binding),
            memory: self.agreed.memory,
            generation: self.generation(),
            tenant: Arc::clone(&self.tenant),
            meter: Arc::clone(&self.meter),
            recording: self.recording.clone(),
            largest: AtomicU64::new(0),
            counts: Arc::clone(&served.counts),
            timed,
            items: served.items(&self.agreed.binding),
            bucket: served.buckets.of(self.tenant.name()),
            timeout: served.metadata.queue.shorter(self.timeout),
        })
    }
}
