//! Tenants, and what each may hold at a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use subtle::ConstantTimeEq;

use crate::error::ApiError;
use crate::host::rate::{Bucket, Rate};

/// Most sessions of a server, whoever has them: each costs some kilobytes beside its slots.
pub const SESSIONS_MAX: usize = 65_536;

/// The most that one tenant may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Sessions.
    pub sessions: u64,
    /// Slots of all its sessions.
    pub slots: u64,
    /// Memory of its slots on this server, in bytes.
    pub bytes: u64,
    /// Requests that are being served.
    pub in_flight: u64,
}

impl Default for Quota {
    /// Four times the 1,000 sessions of two ResNet50 slots (1.2 GB) that a server has to bear.
    fn default() -> Self {
        Quota { sessions: 4096, slots: 16_384, bytes: 8 << 30, in_flight: 4096 }
    }
}

/// A tenant as the configuration names it.
#[derive(Clone)]
pub struct TenantConfig {
    /// Its name, for people and SQL.
    pub name: String,
    /// What its clients present.
    pub key: String,
    /// What it may hold.
    pub quota: Quota,
    /// How often it may ask, all models together; `None`: as often as it likes.
    pub rate: Option<Rate>,
}

impl std::fmt::Debug for TenantConfig {
    /// Never shows the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let TenantConfig { name, quota, rate, .. } = self;
        let mut told = f.debug_struct("TenantConfig");
        told.field("name", name).field("quota", quota).field("rate", rate).finish_non_exhaustive()
    }
}

/// A tenant and what it holds.
#[derive(Debug)]
pub struct Tenant {
    name: String,
    quota: Quota,
    held: Mutex<Held>,
    in_flight: AtomicU64,
    bucket: Option<Bucket>,
    loads: tokio::sync::Mutex<()>,
}

/// What a tenant's sessions hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// How many there are.
    pub sessions: u64,
    /// Their slots.
    pub slots: u64,
    /// Memory of their slots on this server.
    pub bytes: u64,
}

/// What a session holds of its tenant's quota. Dropping it gives that back.
#[derive(Debug)]
pub struct Reservation {
    tenant: Arc<Tenant>,
    slots: u64,
    bytes: u64,
}

impl Tenant {
    /// A tenant that holds nothing, and may ask as often as it likes.
    pub fn new(name: &str, quota: Quota) -> Arc<Tenant> {
        Tenant::with_rate(name, quota, None)
    }

    /// A tenant that holds nothing.
    pub fn with_rate(name: &str, quota: Quota, rate: Option<Rate>) -> Arc<Tenant> {
        let (held, in_flight) = (Mutex::default(), AtomicU64::new(0));
        let bucket = rate.map(Bucket::new);
        let loads = tokio::sync::Mutex::default();
        Arc::new(Tenant { name: name.to_owned(), quota, held, in_flight, bucket, loads })
    }

    /// How often it may ask, all models together; `None`: as often as it likes.
    pub fn bucket(&self) -> Option<&Bucket> {
        self.bucket.as_ref()
    }

    /// Held while a model is loaded for it, or its load waits for another tenant's.
    pub fn loads(&self) -> &tokio::sync::Mutex<()> {
        &self.loads
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it holds.
    pub fn held(&self) -> Held {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its requests that are being served.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Acquire)
    }

    /// What it may hold.
    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// Takes room for a session of `slots` slots and `bytes` bytes.
    ///
    /// # Errors
    /// [`ApiError::Quota`] names the quota that does not suffice.
    pub fn reserve(self: &Arc<Self>, slots: u64, bytes: u64) -> Result<Reservation, ApiError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = Held {
            sessions: held.sessions.saturating_add(1),
            slots: held.slots.saturating_add(slots),
            bytes: held.bytes.saturating_add(bytes),
        };
        for (quota, limit, wanted) in [
            ("sessions", self.quota.sessions, wanted.sessions),
            ("slots", self.quota.slots, wanted.slots),
            ("bytes", self.quota.bytes, wanted.bytes),
        ] {
            if wanted > limit {
                return Err(ApiError::Quota { tenant: self.name.clone(), quota, limit, wanted });
            }
        }
        *held = wanted;
        drop(held);
        Ok(Reservation { tenant: Arc::clone(self), slots, bytes })
    }

    /// Notes that a request is being served. Called for every request.
    ///
    /// # Errors
    /// The quota, if it is used up.
    pub fn begin(&self) -> Result<(), u64> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        if before < self.quota.in_flight {
            return Ok(());
        }
        self.end();
        Err(self.quota.in_flight)
    }

    /// Notes that a request is served.
    pub fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut held = self.tenant.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.sessions = held.sessions.saturating_sub(1);
        held.slots = held.slots.saturating_sub(self.slots);
        held.bytes = held.bytes.saturating_sub(self.bytes);
    }
}

/// Everybody who may use the server.
#[derive(Debug)]
pub struct Tenants {
    by_key: Vec<(String, Arc<Tenant>)>,
    everybody: Arc<Tenant>,
    operator_key: Option<String>,
}

impl Tenants {
    /// Those of the configuration; with none, everybody is `default` and holds `quota`.
    pub fn new(configured: &[TenantConfig], quota: Quota, operator_key: Option<String>) -> Tenants {
        let one = |TenantConfig { name, key, quota, rate }: &TenantConfig| {
            (key.clone(), Tenant::with_rate(name, *quota, *rate))
        };
        let by_key = configured.iter().map(one).collect();
        Tenants { by_key, everybody: Tenant::new("default", quota), operator_key }
    }

    /// Each of them, and `default`.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.by_key.iter().map(|(_, tenant)| tenant).chain([&self.everybody])
    }

    /// The tenant of those whom no key tells apart.
    pub fn everybody(&self) -> &Arc<Tenant> {
        &self.everybody
    }

    /// Requests of all tenants that are being served, on lanes and in calls.
    pub fn in_flight(&self) -> u64 {
        self.all().map(|tenant| tenant.in_flight()).sum()
    }

    /// Whose key this is. Every key is compared whole, so that the time tells nothing. Without
    /// tenants everybody is `default`; without an operator's key, too, everybody is an operator.
    pub fn identify(&self, key: Option<&[u8]>) -> Identity {
        let key = key.unwrap_or_default();
        // An empty key is nobody's, whatever the configuration says.
        let is = |own: &str| !key.is_empty() && bool::from(own.as_bytes().ct_eq(key));
        let mut tenant = self.by_key.is_empty().then_some(&self.everybody);
        for (own, one) in &self.by_key {
            if is(own) {
                tenant = Some(one);
            }
        }
        let is_operator = match &self.operator_key {
            Some(own) => is(own),
            None => self.by_key.is_empty(),
        };
        Identity { tenant: tenant.cloned(), is_operator }
    }
}

/// Who makes a call, as far as its key tells. Nobody in particular is neither.
#[derive(Clone, Debug)]
pub struct Identity {
    tenant: Option<Arc<Tenant>>,
    is_operator: bool,
}

impl Identity {
    /// The tenant that it is.
    pub fn tenant(&self) -> Option<&Arc<Tenant>> {
        self.tenant.as_ref()
    }

    /// The name of the tenant that it is.
    pub fn name(&self) -> Option<&str> {
        self.tenant.as_deref().map(Tenant::name)
    }

    /// Whether it is somebody: a tenant, or the operator.
    pub fn is_known(&self) -> bool {
        self.tenant.is_some() || self.is_operator
    }

    /// Whether it may do what an operator does.
    pub fn is_operator(&self) -> bool {
        self.is_operator
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: Quota = Quota { sessions: 2, slots: 5, bytes: 100, in_flight: 1 };

    fn name_of(error: ApiError) -> &'static str {
        match error {
            ApiError::Quota { quota, .. } => quota,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn each_quota_is_named_and_what_ends_comes_back() {
        let tenant = Tenant::new("t", QUOTA);
        let first = tenant.reserve(2, 10).unwrap();
        assert_eq!(name_of(tenant.reserve(4, 10).unwrap_err()), "slots");
        assert_eq!(name_of(tenant.reserve(1, 91).unwrap_err()), "bytes");
        let second = tenant.reserve(3, 90).unwrap();
        assert_eq!(name_of(tenant.reserve(0, 0).unwrap_err()), "sessions");
        drop((first, second));
        assert!(tenant.reserve(5, 100).is_ok());
    }

    #[test]
    fn requests_in_flight_are_counted() {
        let tenant = Tenant::new("t", QUOTA);
        assert_eq!(tenant.begin(), Ok(()));
        assert_eq!(tenant.begin(), Err(1));
        tenant.end();
        assert_eq!(tenant.begin(), Ok(()));
    }

    #[test]
    fn keys_find_their_tenant_and_no_other() {
        let config = TenantConfig { name: "a".into(), key: "k".into(), quota: QUOTA, rate: None };
        assert!(!format!("{config:?}").contains("\"k\""));
        let tenants = Tenants::new(&[config], QUOTA, Some("op".into()));
        let is = |tenants: &Tenants, key: Option<&[u8]>| {
            let identity = tenants.identify(key);
            (identity.tenant().map(|it| it.name().to_owned()), identity.is_operator())
        };
        assert_eq!(is(&tenants, Some(b"k")), (Some("a".into()), false));
        assert_eq!(is(&tenants, Some(b"op")), (None, true));
        for nobodys in [None, Some(&b"x"[..]), Some(b"")] {
            assert_eq!(is(&tenants, nobodys), (None, false));
        }
        let open = Tenants::new(&[], QUOTA, None);
        assert_eq!(is(&open, None), (Some("default".into()), true));
        let guarded = Tenants::new(&[], QUOTA, Some("op".into()));
        assert_eq!(is(&guarded, None), (Some("default".into()), false));
        assert_eq!(is(&guarded, Some(b"op")), (Some("default".into()), true));
        let empty = Tenants::new(&[], QUOTA, Some(String::new()));
        assert_eq!(is(&empty, None), (Some("default".into()), false));
    }
}
