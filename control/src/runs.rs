//! Runs that clients started, as far as a server must remember them: whose each is, and which go on.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::ApiError;
use crate::store::TimingStore;
use crate::tenants::Identity;

/// Most runs whose owners are remembered; those of further ones are looked up each time.
const KNOWN_MAX: usize = 65_536;

/// Most runs of one owner that go on at a time: each may be sampled every second.
pub const UNFINISHED_MAX: usize = 256;

/// A tenant's name; `None` is the operator.
type Owner = Option<Arc<str>>;

/// The runs that are known to exist.
#[derive(Debug, Default)]
pub struct RunBook {
    inner: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    known: HashMap<i64, Owner>,
    /// Runs that are not finished.
    going_on: HashMap<i64, Owner>,
    /// How many each owner has, and is about to have.
    unfinished: HashMap<Owner, usize>,
}

impl Book {
    fn give_back(&mut self, owner: &Owner) {
        if let Some(count) = self.unfinished.get_mut(owner) {
            *count = count.saturating_sub(1);
        }
    }
}

/// Room for one more run that goes on. Dropping it gives that back.
#[derive(Debug)]
pub struct Place<'b> {
    book: &'b RunBook,
    owner: Owner,
    is_taken: bool,
}

impl Place<'_> {
    /// The run was started.
    pub fn take(mut self, run: i64) {
        let mut book = self.book.book();
        if book.known.len() < KNOWN_MAX {
            book.known.insert(run, self.owner.clone());
        }
        book.going_on.insert(run, self.owner.clone());
        self.is_taken = true;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.is_taken {
            self.book.book().give_back(&self.owner);
        }
    }
}

/// Whether `who` may see and use a run of this owner.
pub fn is_theirs(owner: Option<&str>, who: &Identity) -> bool {
    who.is_operator() || who.tenant().is_some_and(|tenant| Some(tenant.name()) == owner)
}

/// One answer for a run that is not there and for somebody else's.
pub fn no_such_run(run: i64) -> ApiError {
    let hint = "start one with Runs.Start, or use 0 for the server's own".to_owned();
    ApiError::NotFound { kind: "run", name: run.to_string(), hint }
}

impl RunBook {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for a run that `who` is about to start.
    ///
    /// # Errors
    /// [`ApiError::Busy`] above [`UNFINISHED_MAX`].
    pub fn place(&self, who: &Identity) -> Result<Place<'_>, ApiError> {
        let owner: Owner = who.tenant().map(|tenant| Arc::from(tenant.name()));
        let mut book = self.book();
        let count = book.unfinished.entry(owner.clone()).or_default();
        if *count >= UNFINISHED_MAX {
            let whose = owner.as_deref().unwrap_or("the operator");
            let why = format!(
                "{whose} has {UNFINISHED_MAX} runs that are not finished: finish some (Runs.Finish)"
            );
            return Err(ApiError::Busy(why));
        }
        *count += 1;
        drop(book);
        Ok(Place { book: self, owner, is_taken: false })
    }

    /// A run is finished.
    pub fn finished(&self, run: i64) {
        let mut book = self.book();
        if let Some(owner) = book.going_on.remove(&run) {
            book.give_back(&owner);
        }
    }

    /// Every run that goes on; none does afterwards.
    pub fn take_going_on(&self) -> Vec<i64> {
        let mut book = self.book();
        book.unfinished.clear();
        book.going_on.drain().map(|(run, _)| run).collect()
    }

    /// Those of `runs` that go on, each once.
    pub fn going_on(&self, runs: impl Iterator<Item = i64>) -> HashSet<i64> {
        let book = self.book();
        runs.filter(|run| book.going_on.contains_key(run)).collect()
    }

    /// Checks that `who` may name `run`: 0, the server's own, or one of theirs.
    ///
    /// # Errors
    /// [`ApiError::NotFound`], or what the store says.
    pub async fn check(
        &self,
        store: &Arc<dyn TimingStore>,
        run: i64,
        who: &Identity,
    ) -> Result<(), ApiError> {
        if run == 0 {
            return Ok(());
        }
        let known = self.book().known.get(&run).cloned();
        let owner = match known {
            Some(owner) => owner,
            None => {
                let found = store.get_run(run).await?.ok_or_else(|| no_such_run(run))?;
                let owner: Owner = found.new.tenant.map(Arc::from);
                let mut book = self.book();
                if book.known.len() < KNOWN_MAX {
                    book.known.insert(run, owner.clone());
                }
                owner
            }
        };
        if is_theirs(owner.as_deref(), who) { Ok(()) } else { Err(no_such_run(run)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenants::{Quota, TenantConfig, Tenants};

    #[test]
    fn an_owner_has_so_many_unfinished_runs_and_another_ones_do_not_count() {
        let tenant = |name: &str| TenantConfig {
            name: name.into(),
            key: name.into(),
            quota: Quota::default(),
            rate: None,
        };
        let all = [tenant("a"), tenant("b")];
        let tenants = Tenants::new(&all, Quota::default(), Some("op".into()));
        let [a, b] = [&b"a"[..], b"b"].map(|key| tenants.identify(Some(key)));
        let book = RunBook::default();
        for run in 1..=256 {
            book.place(&a).unwrap().take(run);
        }
        assert!(matches!(book.place(&a), Err(ApiError::Busy(_))));
        drop(book.place(&b).unwrap());
        assert_eq!(book.going_on([1, 1, 999].into_iter()), HashSet::from([1]));
        book.finished(7);
        book.finished(7);
        drop(book.place(&a).unwrap());
        book.place(&a).unwrap().take(300);
        assert!(book.place(&a).is_err());
        assert!(is_theirs(Some("a"), &a) && !is_theirs(Some("a"), &b) && !is_theirs(None, &a));
        assert!(is_theirs(Some("a"), &tenants.identify(Some(b"op"))));
    }
}
