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
    kinds: Mutex<HashMap<(&'static str, &'static str), Kind>>,
}

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
    tenant: Option<String>,
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
        let count = |(&(link, what), kind): (&(&'static str, &'static str), &Kind)| RefusalCount {
            link,
            what,
            count: kind.count,
        };
        kinds.iter().map(count).collect()
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
        let kind = kinds.entry((link, what)).or_insert(Kind {
            told: None,
            count: 0,
            untold: 0,
            session: None,
            tenant: None,
        });
        kind.count += 1;
        kind.untold += 1;
        (kind.session, kind.tenant) = (session, tenant.map(str::to_owned));
        if kind.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            tracing::warn!(link, what, count = kind.untold, %why, "refused");
            self.tell(link, what, kind);
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
        for ((link, what), kind) in kinds.iter_mut().filter(|(_, kind)| kind.untold > 0) {
            tracing::warn!(link, what, count = kind.untold, "refused");
            self.tell(link, what, kind);
        }
    }

    fn tell(&self, link: &'static str, what: &'static str, kind: &mut Kind) {
        kind.told = Some(Instant::now());
        self.recorder.event(Event::Refused(Box::new(Refusal {
            unix_ns: unix_ns(),
            session: kind.session,
            tenant: kind.tenant.clone(),
            link,
            what,
            count: std::mem::take(&mut kind.untold),
        })));
    }
}
