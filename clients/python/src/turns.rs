//! A session that the threads of a program share: one of them at a time has the turn, looks at the
//! link, and keeps what comes for the others. Knows nothing of Python, so that nobody holds the
//! interpreter while he waits for a turn.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

use ferry_client::blocking::{Answer, Session};
use ferry_client::{Error, LinkError, RecordCounts, Reply, Slot, Waker};

use crate::errors::Fault;
use crate::home::Home;

/// Requests that are in flight, or whose answers nobody took: each slot of a session (64 at most)
/// in flight, and as many answers without a slot.
const REQUESTS_MAX: usize = 128;

pub(crate) struct Turns {
    turn: Mutex<Turn>,
    /// A turn is over, or somebody's answer has come.
    changed: Condvar,
    /// There is something to watch, or nothing ever will be.
    watch: Condvar,
    /// Threads that wait for a turn: whoever waits for the link then lets them in.
    wanted: AtomicUsize,
    /// Ends the sleep of whoever waits for the link.
    waker: Mutex<Option<Waker>>,
    /// Requests whose answers nobody takes any more; noted without a turn, as it is done where the
    /// interpreter is held. At most one for each request.
    dropped: Mutex<Vec<u64>>,
    home: Home,
}

struct Turn {
    /// `None` once it is closed.
    session: Option<Session>,
    /// By number, in no order. Few: looking through them costs less than hashing.
    requests: Vec<(u64, Request)>,
    /// Requests in flight whose answers the watch waits for.
    watched: usize,
    /// Those that have come.
    ready: Vec<u64>,
    /// Threads that wait on `changed`.
    followers: usize,
}

#[expect(clippy::large_enum_variant, reason = "there are few, and a box is an allocation for each")]
enum Request {
    Flying {
        is_watched: bool,
    },
    Arrived(Result<Reply, Error>),
    /// Nobody takes its answer.
    Dropped,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these hold is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait<'t>(on: &Condvar, turn: MutexGuard<'t, Turn>, until: Instant) -> MutexGuard<'t, Turn> {
    let waited = on.wait_timeout(turn, until.saturating_duration_since(Instant::now()));
    waited.map_or_else(|it| it.into_inner().0, |it| it.0)
}

impl Turns {
    pub(crate) fn new(session: Session) -> Turns {
        let (requests, ready) = (Vec::new(), Vec::new());
        let turn = Turn { session: Some(session), requests, watched: 0, ready, followers: 0 };
        Turns {
            turn: Mutex::new(turn),
            changed: Condvar::new(),
            watch: Condvar::new(),
            wanted: AtomicUsize::new(0),
            waker: Mutex::default(),
            dropped: Mutex::default(),
            home: Home::here(),
        }
    }

    /// Does something in a turn.
    pub(crate) fn with<T>(
        &self,
        what: impl FnOnce(&mut Session) -> Result<T, Error>,
    ) -> Result<T, Fault> {
        let mut turn = self.turn();
        let done = turn.session().and_then(|session| Ok(what(session)?));
        self.over(turn);
        done
    }

    /// A free slot, where neither a turn nor anything else has to be waited for.
    pub(crate) fn slot_at_once(&self) -> Option<Slot> {
        let mut turn = self.turn.try_lock().ok()?;
        let slot = turn.session.as_mut()?.slot_at_once();
        self.over(turn);
        slot
    }

    /// A free slot.
    pub(crate) fn slot(&self) -> Result<Slot, Fault> {
        self.with(|session| session.slot()).or_else(|fault| match fault {
            Fault::Sdk(Error::SlotsInUse(_)) => {
                // Those of requests whose answers nobody takes come back when the link is looked at.
                let mut turn = self.turn();
                while self.look_at_link(&mut turn, Instant::now()) {}
                self.over(turn);
                self.with(|session| session.slot())
            }
            fault => Err(fault),
        })
    }

    /// Sends a request; its number. The watch looks after a request that is watched.
    pub(crate) fn submit(&self, slot: Slot, is_watched: bool) -> Result<u64, Fault> {
        let mut turn = self.turn();
        let sent = turn.submit(slot, is_watched);
        self.over(turn);
        if is_watched {
            self.watch.notify_one();
        }
        sent
    }

    /// The answer to a request, if it comes until then. It can be taken once.
    pub(crate) fn wait(&self, request: u64, until: Instant) -> Option<Result<Reply, Fault>> {
        let found = |turn: &mut Turn| match turn.request(request) {
            Some(Request::Flying { .. }) => None,
            Some(Request::Arrived(_)) => match turn.remove(request) {
                Some(Request::Arrived(answer)) => Some(answer.map_err(Fault::Sdk)),
                _ => None,
            },
            Some(Request::Dropped) | None => match turn.session {
                Some(_) => Some(Err(Fault::Taken)),
                None => Some(Err(Fault::Closed)),
            },
        };
        self.look(until, found, |_| true)
    }

    /// Whether the answer to a request has come; looks at the link once.
    pub(crate) fn has_come(&self, request: u64) -> bool {
        let found = |turn: &mut Turn| {
            (!matches!(turn.request(request), Some(Request::Flying { .. }))).then_some(())
        };
        self.look(Instant::now(), found, |_| true).is_some()
    }

    /// Watched requests whose answers have come until then, which may be none.
    ///
    /// # Errors
    /// [`Fault::Closed`] once the session is.
    pub(crate) fn watch(&self, until: Instant) -> Result<Vec<u64>, Fault> {
        let found = |turn: &mut Turn| match &turn.session {
            _ if !turn.ready.is_empty() => Some(Ok(std::mem::take(&mut turn.ready))),
            None => Some(Err(Fault::Closed)),
            Some(_) => None,
        };
        let come = self.look(until, found, |turn| turn.watched > 0);
        come.unwrap_or_else(|| Ok(Vec::new()))
    }

    /// Nobody takes the answer to this request.
    pub(crate) fn forget(&self, request: u64) {
        lock(&self.dropped).push(request);
    }

    /// Ends the session; nothing if that was done. Requests in flight end with [`Fault::Closed`].
    pub(crate) fn close(&self) -> Option<Result<RecordCounts, Error>> {
        let mut turn = self.turn();
        let session = turn.session.take();
        turn.requests.retain(|(_, request)| matches!(request, Request::Arrived(_)));
        turn.watched = 0;
        self.over(turn);
        self.watch.notify_all();
        // Others may see that it is closed meanwhile.
        session.map(Session::close)
    }

    /// Waits until `found` finds something, or until then. Whoever has the turn waits for the link,
    /// others for him; the watch waits for neither where nothing is watched.
    fn look<T>(
        &self,
        until: Instant,
        found: impl Fn(&mut Turn) -> Option<T>,
        waits_for_link: impl Fn(&Turn) -> bool,
    ) -> Option<T> {
        let mut turn = self.turn();
        let mut is_late = false;
        let found = loop {
            let it = found(&mut turn);
            if it.is_some() || is_late {
                break it;
            }
            if !waits_for_link(&turn) {
                turn = wait(&self.watch, turn, until);
            } else if self.wanted.load(Ordering::SeqCst) > 0 {
                turn.followers += 1;
                turn = wait(&self.changed, turn, until);
                turn.followers -= 1;
            } else {
                self.look_at_link(&mut turn, until);
            }
            is_late = Instant::now() >= until;
        };
        self.over(turn);
        found
    }

    /// Waits for the link until then, or until somebody wants the turn; whether anything came.
    fn look_at_link(&self, turn: &mut Turn, until: Instant) -> bool {
        let Some(session) = &mut turn.session else { return false };
        // Before `wanted` is read: a thread that wants the turn after that finds it.
        *lock(&self.waker) = session.waker();
        match session.next_until(until, || self.wanted.load(Ordering::SeqCst) > 0) {
            Ok(Some(answer)) => turn.keep(answer),
            Ok(None) => return false,
            Err(_nothing_in_flight) => {
                // What seems to be never has an answer.
                turn.lose_all();
                return false;
            }
        }
        if turn.followers > 0 {
            self.changed.notify_all();
        }
        true
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        let mut turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => {
                self.wanted.fetch_add(1, Ordering::SeqCst);
                if let Some(waker) = &*lock(&self.waker) {
                    waker.wake();
                }
                let turn = lock(&self.turn);
                self.wanted.fetch_sub(1, Ordering::SeqCst);
                turn
            }
        };
        for request in lock(&self.dropped).drain(..) {
            turn.forget(request);
        }
        turn
    }

    /// Ends a turn: somebody else may look at the link now.
    fn over(&self, turn: MutexGuard<'_, Turn>) {
        let is_followed = turn.followers > 0;
        drop(turn);
        if is_followed {
            self.changed.notify_all();
        }
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        if self.home.is_here() {
            return;
        }
        // A child of fork() has no thread that could close it, and the parent goes on with it.
        let turn = self.turn.get_mut().unwrap_or_else(PoisonError::into_inner);
        std::mem::forget(turn.session.take());
    }
}

impl Turn {
    fn session(&mut self) -> Result<&mut Session, Fault> {
        self.session.as_mut().ok_or(Fault::Closed)
    }

    fn submit(&mut self, slot: Slot, is_watched: bool) -> Result<u64, Fault> {
        let waiting = self.requests.len();
        if waiting >= REQUESTS_MAX {
            return Err(Fault::Sdk(Error::RepliesWait(waiting)));
        }
        let request = self.session()?.submit(slot)?;
        self.requests.push((request, Request::Flying { is_watched }));
        self.watched += usize::from(is_watched);
        Ok(request)
    }

    fn request(&mut self, request: u64) -> Option<&mut Request> {
        self.requests.iter_mut().find(|(it, _)| *it == request).map(|(_, it)| it)
    }

    fn remove(&mut self, request: u64) -> Option<Request> {
        let at = self.requests.iter().position(|(it, _)| *it == request)?;
        Some(self.requests.swap_remove(at).1)
    }

    fn keep(&mut self, (request, answer): Answer) {
        match self.request(request) {
            Some(flying @ Request::Flying { .. }) => {
                let is_watched = matches!(flying, Request::Flying { is_watched: true });
                *flying = Request::Arrived(answer);
                if is_watched {
                    self.watched -= 1;
                    self.ready.push(request);
                }
            }
            _ => drop(self.remove(request)),
        }
    }

    fn lose_all(&mut self) {
        let flying = |(request, it): &(u64, Request)| {
            (!matches!(it, Request::Arrived(_))).then_some(*request)
        };
        for request in self.requests.iter().filter_map(flying).collect::<Vec<_>>() {
            self.keep((request, Err(Error::LinkLost(LinkError::Closed))));
        }
    }

    fn forget(&mut self, request: u64) {
        match self.request(request) {
            Some(flying @ Request::Flying { .. }) => {
                let is_watched = matches!(flying, Request::Flying { is_watched: true });
                *flying = Request::Dropped;
                self.watched -= usize::from(is_watched);
            }
            Some(Request::Arrived(_)) => drop(self.remove(request)),
            Some(Request::Dropped) | None => {}
        }
    }
}
