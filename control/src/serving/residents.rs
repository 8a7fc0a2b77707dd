//! Requests and sessions for a model that made room wait here until it is in memory again.
//!
//! Loads are made one at a time, and all who wait for a model share one. A tenant has one of them at
//! a time in line or under way: however many absent models it asks for, another tenant's load waits
//! for one of its loads, and no more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use ferry_core::Status;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::routes::over_rate;
use crate::error::ApiError;
use crate::models::{Key, ModelError, Models, Residency, Used};
use crate::tenants::Tenant;

/// Longest wait for a model to come back, where the caller allows no less: as long as a run of a
/// model may take where nobody says otherwise.
const WAIT: Duration = Duration::from_secs(120);

/// What came of a load; `None`: it is not done.
type Outcome = Option<Result<Used, ModelError>>;

/// The models that are in memory, and those that come back.
#[derive(Debug)]
pub struct Residents {
    models: Arc<Models>,
    /// Loads go on here, whatever becomes of those who asked for them.
    runtime: Handle,
    /// At most one for each model that is not in memory.
    coming: Mutex<HashMap<Key, Coming>>,
    /// One load at a time, in the order in which tenants came to have theirs.
    turn: tokio::sync::Mutex<()>,
}

/// A model that is to come back.
#[derive(Debug, Default)]
struct Coming {
    /// Tells everybody who waits for it.
    done: Arc<watch::Sender<Outcome>>,
    /// The tenants of which each has a load in line: the first one's turn is the model's.
    asked_by: Vec<String>,
}

/// A call that waits is one that is being served.
struct Waiting<'a>(&'a Tenant);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Residents {
    /// Loads on `runtime`.
    pub fn new(models: Arc<Models>, runtime: Handle) -> Residents {
        Residents { models, runtime, coming: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    fn coming(&self) -> MutexGuard<'_, HashMap<Key, Coming>> {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A model that serves, which stays in memory for as long as it is used. One that made room is
    /// waited for, at most until `until`.
    ///
    /// # Errors
    /// As [`Models::get`] and [`Models::recall`]; [`ApiError::Late`] and [`ApiError::Busy`] if it did
    /// not come in time; and what a request of the tenant would be refused for, before anything is
    /// loaded: its rate, or its quota of requests in flight.
    pub async fn take(
        self: &Arc<Self>,
        tenant: &Arc<Tenant>,
        name: &str,
        version: u64,
        until: Option<Instant>,
    ) -> Result<Used, ApiError> {
        let key = match self.models.hold(name, version)? {
            Residency::Resident(used) => return Ok(used),
            Residency::Absent(key) => key,
        };
        keep_to_rates(&self.models, tenant, &key)?;
        tenant.begin().map_err(|limit| ApiError::Quota {
            tenant: tenant.name().to_owned(),
            quota: "in-flight",
            limit,
            wanted: limit.saturating_add(1),
        })?;
        let _waiting = Waiting(tenant);
        let bound = Instant::now().checked_add(WAIT);
        let deadline = until.into_iter().chain(bound).min();
        let deadline = deadline.unwrap_or_else(Instant::now);
        let came = tokio::time::timeout_at(deadline.into(), outcome(self.ask(tenant, &key)));
        came.await.unwrap_or_else(|_elapsed| Err(too_late(&key, until == Some(deadline))))
    }

    /// Has a model brought back, for which a tenant waits.
    fn ask(self: &Arc<Self>, tenant: &Arc<Tenant>, key: &Key) -> watch::Receiver<Outcome> {
        let mut all = self.coming();
        let coming = all.entry(key.clone()).or_default();
        let outcome = coming.done.subscribe();
        if !coming.asked_by.iter().any(|it| it == tenant.name()) {
            coming.asked_by.push(tenant.name().to_owned());
            let (residents, tenant) = (Arc::clone(self), Arc::clone(tenant));
            // What came stays in memory for as long as it is told: not until this one's turn.
            let (key, done) = (key.clone(), Arc::downgrade(&coming.done));
            self.runtime.spawn(async move { residents.load(&tenant, key, &done).await });
        }
        outcome
    }

    /// Brings a model back in its tenant's turn, unless it came in another's, or nobody waits.
    async fn load(&self, tenant: &Tenant, key: Key, done: &Weak<watch::Sender<Outcome>>) {
        let _own_turn = tenant.loads().lock().await;
        let _turn = self.turn.lock().await;
        let Some(done) = done.upgrade().filter(|done| self.is_wanted(&key, done)) else { return };
        let (models, of_thread) = (Arc::clone(&self.models), key.clone());
        let recalled = tokio::task::spawn_blocking(move || models.recall(&of_thread)).await;
        let outcome = recalled.unwrap_or_else(|error| {
            tracing::error!(model = key.0, version = key.1, %error, "a load panicked");
            Err(self.models.lost(&key))
        });
        if let Err(error) = &outcome {
            tracing::warn!(model = key.0, version = key.1, %error, "not brought back into memory");
        }
        // Whoever comes from here on looks for itself.
        self.coming().remove(&key);
        done.send_replace(Some(outcome));
    }

    /// Whether somebody waits for this load; if not, it is forgotten.
    fn is_wanted(&self, key: &Key, done: &Arc<watch::Sender<Outcome>>) -> bool {
        let mut all = self.coming();
        let is_it = all.get(key).is_some_and(|coming| Arc::ptr_eq(&coming.done, done));
        if is_it && done.receiver_count() == 0 {
            all.remove(key);
            return false;
        }
        is_it
    }
}

/// That neither the model's rate nor the tenant's is used up: a request that would be refused for
/// it must not have a model loaded before.
fn keep_to_rates(models: &Models, tenant: &Tenant, key: &Key) -> Result<(), ApiError> {
    let profile = models.get(&key.0, key.1)?;
    let of_model = profile.buckets.of(tenant.name());
    let of_model = of_model.as_deref().map(|bucket| (bucket, "this model"));
    let of_tenant = tenant.bucket().map(|bucket| (bucket, "all models together"));
    for (bucket, what) in of_model.into_iter().chain(of_tenant) {
        bucket.look(Instant::now()).map_err(|wait| ApiError::Request {
            status: Status::RateLimited,
            text: over_rate(tenant, bucket, what, wait),
        })?;
    }
    Ok(())
}

fn too_late((name, version): &Key, is_callers: bool) -> ApiError {
    let what = format!("model {name} version {version} is being brought back into memory");
    match is_callers {
        true => {
            ApiError::Late(format!("{what}, and the request's deadline passed: allow more time"))
        }
        false => ApiError::Busy(format!("{what}, and did not come within {WAIT:?}: try again")),
    }
}

/// Waits for a load.
async fn outcome(mut coming: watch::Receiver<Outcome>) -> Result<Used, ApiError> {
    let done = coming.wait_for(Option::is_some).await;
    let done = done.ok().and_then(|outcome| outcome.clone());
    let lost = || ApiError::Internal("a load was lost: see the server's log".into());
    Ok(done.ok_or_else(lost)??)
}

#[cfg(test)]
mod tests;
