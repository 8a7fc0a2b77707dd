//! Counts what was tried and not allowed, and tells it without letting a peer flood log or store.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ferry_core::SessionId;

use crate::host::clock::unix_ns;
use crate::store::{Event, Recorder, Refusal};

/// How often one kind of refusal is told at most; those between are counted in the next.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Every refused attempt of the server.
#[derive(Debug)]
pub struct Refusals {
    recorder: Recorder,
    total: AtomicU64,
    /// Tenants are as many as the configuration has, so that this is bounded.
    kinds: Mutex<HashMap<Key, Kind>>,
}

/// Link and kind, and the tenant, so that nobody's attempts are told as another's.
type Key = (&'static str, &'static str, Option<String>);

/// How many attempts of one kind were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusalCount {
    /// Where: a link by name.
    pub link: &'static str,
    /// The kind.
    pub what: &'static str,
    /// How many since the start.
    pub count: u64,
}

/// One kind on one link.
#[derive(Debug)]
struct Kind {
    told: Option<Instant>,
    count: u64,
    untold: u64,
    /// The last one, for the row that tells of all.
    session: Option<SessionId>,
}

impl Refusals {
    /// None yet.
    pub fn new(recorder: Recorder) -> Refusals {
        Refusals { recorder, total: AtomicU64::new(0), kinds: Mutex::default() }
    }

    /// How many there were.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// How many there were of each kind, in no order.
    pub fn counts(&self) -> Vec<RefusalCount> {
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts = HashMap::new();
        for ((link, what, _), kind) in kinds.iter() {
            *counts.entry((*link, *what)).or_insert(0) += kind.count;
        }
        let count = |((link, what), count)| RefusalCount { link, what, count };
        counts.into_iter().map(count).collect()
    }

    /// Counts one, and tells it unless its kind was told a moment ago.
    pub fn note(
        &self,
        link: &'static str,
        what: &'static str,
        session: Option<SessionId>,
        tenant: Option<&str>,
        why: &dyn Display,
    ) {
        self.total.fetch_add(1, Ordering::Relaxed);
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = kinds.entry((link, what, tenant.map(str::to_owned))).or_insert(Kind {
            told: None,
            count: 0,
            untold: 0,
            session: None,
        });
        kind.count += 1;
        kind.untold += 1;
        kind.session = session;
        if kind.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            tracing::warn!(link, what, count = kind.untold, %why, "refused");
            self.tell(link, what, tenant, kind);
        }
    }

    /// Tells what was only counted, again and again. Never ends; whoever started it aborts it.
    pub async fn keep_telling(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(TELL_EVERY);
        loop {
            ticks.tick().await;
            self.flush();
        }
    }

    /// Tells those that were only counted so far.
    pub fn flush(&self) {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        for ((link, what, tenant), kind) in kinds.iter_mut().filter(|(_, kind)| kind.untold > 0) {
            tracing::warn!(link, what, count = kind.untold, "refused");
            self.tell(link, what, tenant.as_deref(), kind);
        }
    }

    fn tell(&self, link: &'static str, what: &'static str, tenant: Option<&str>, kind: &mut Kind) {
        kind.told = Some(Instant::now());
        self.recorder.event(Event::Refused(Box::new(Refusal {
            unix_ns: unix_ns(),
            session: kind.session,
            tenant: tenant.map(str::to_owned),
            link,
            what,
            count: std::mem::take(&mut kind.untold),
        })));
    }
}
