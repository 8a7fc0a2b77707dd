//! The thread of an async session: it owns the blocking session, and drives it for many tasks.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use ferry_connect::ImportedBacking;
use ferry_core::Status;
use ferry_core::session::SLOTS_MAX;
use ferry_memory::SlotTable;
use ferry_transport::{LinkError, Waker};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::agreed::Agreed;
use crate::blocking::{Client, Lease, Session};
use crate::error::Error;
use crate::options::Options;
use crate::recorder::RecordCounts;
use crate::reply::Reply;
use crate::slot::Slot;

/// Longest sleep with nothing in flight: only a guard, commands end the sleep.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// Commands that can wait: one for each slot of this lease and of the last one, and one each to
/// resume and to close.
const COMMANDS_MAX: usize = 2 * SLOTS_MAX as usize + 2;

/// One lease, as tasks see it.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) agreed: Arc<Agreed>,
    pub(crate) table: Arc<SlotTable>,
    pub(crate) device: Option<Arc<ImportedBacking>>,
    /// One for each free slot; closed once the lease is over.
    pub(crate) permits: Arc<Semaphore>,
    /// The lease before, if that had too little room.
    outgrown: Option<Arc<Agreed>>,
    waker: Waker,
    gone: Arc<AtomicBool>,
    /// Why the link carries nothing any more.
    lost: OnceLock<LinkError>,
}

impl Live {
    fn new(lease: Lease) -> Arc<Live> {
        let Lease { agreed, table, device, gone, waker, outgrown } = lease;
        let permits = Arc::new(Semaphore::new(agreed.layout.slots as usize));
        let lost = OnceLock::new();
        Arc::new(Live { agreed, table, device, permits, outgrown, waker, gone, lost })
    }

    /// Whether the slot is of this lease.
    pub(crate) fn has(&self, slot: &Slot) -> bool {
        Arc::ptr_eq(&self.agreed, &slot.agreed)
    }

    /// Whether the slot is of the lease before, which had too little room.
    pub(crate) fn has_outgrown(&self, slot: &Slot) -> bool {
        self.outgrown.as_ref().is_some_and(|outgrown| Arc::ptr_eq(outgrown, &slot.agreed))
    }

    /// Whether the lease carries nothing any more. A heartbeat may know it before the link does.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.get().is_some() || self.gone.load(Ordering::Acquire)
    }

    /// What a request gets that the link did not take, or did not answer.
    pub(crate) fn lost_error(&self) -> Error {
        Error::LinkLost(self.lost.get().cloned().unwrap_or(LinkError::Closed))
    }

    /// Noted before anybody is told: a task that hears of it and asks for a slot gets one of a new
    /// lease.
    fn end(&self, why: LinkError) {
        self.lost.get_or_init(|| why);
        self.permits.close();
    }
}

/// What the thread is told.
pub(crate) enum Command {
    /// Send a request.
    Infer { slot: Slot, answer: Answer<Asked> },
    /// Take the session up again, if it was lost.
    Resume { answer: Answer<()> },
    /// End the session.
    Close { answer: Answer<RecordCounts> },
}

/// What became of a request that the thread was told to send.
pub(crate) enum Asked {
    /// Its reply.
    Answered(Reply),
    /// It was not sent: the session was opened again with more room since the slot was handed out.
    /// The request goes into a slot of the present lease.
    Outgrown(Slot),
}

pub(crate) type Answer<T> = oneshot::Sender<Result<T, Error>>;

/// The handle to the thread. Dropping it ends thread and session.
#[derive(Debug)]
pub(crate) struct Lane {
    /// `None` once this is dropped.
    commands: Option<SyncSender<Command>>,
    live: Arc<Mutex<Arc<Live>>>,
    thread: Thread,
}

impl Lane {
    /// Opens a session on a thread of its own.
    pub(crate) async fn start(client: Client, options: Options) -> Result<Lane, Error> {
        let (commands, receiver) = sync_channel(COMMANDS_MAX);
        let (opened, opening) = oneshot::channel();
        let body = move || match open(&client, options) {
            Ok((session, live)) => {
                let shared = Arc::new(Mutex::new(Arc::clone(&live)));
                // Whoever wanted it may be gone: then the session is closed by its drop.
                if opened.send(Ok(Arc::clone(&shared))).is_ok() {
                    let waiting = HashMap::new();
                    Work { session, live, shared, commands: receiver, waiting }.run();
                }
            }
            Err(error) => drop(opened.send(Err(error))),
        };
        let failed = |source| Error::Start { what: "the thread of a session", source };
        let thread = std::thread::Builder::new().name("ferry-lane".into()).spawn(body);
        let thread = thread.map_err(failed)?.thread().clone();
        let died = |_died| failed(std::io::Error::other("it ended before the session was open"));
        let live = opening.await.map_err(died)??;
        Ok(Lane { commands: Some(commands), live, thread })
    }

    /// The present lease.
    pub(crate) fn live(&self) -> Arc<Live> {
        Arc::clone(&lock(&self.live))
    }

    /// Tells the thread something; its answer.
    pub(crate) fn tell<T>(
        &self,
        command: impl FnOnce(Answer<T>) -> Command,
    ) -> Result<oneshot::Receiver<Result<T, Error>>, Error> {
        let (answer, receiver) = oneshot::channel();
        let commands = self.commands.as_ref();
        if commands.is_none_or(|it| it.try_send(command(answer)).is_err()) {
            return Err(self.live().lost_error());
        }
        self.wake();
        Ok(receiver)
    }

    fn wake(&self) {
        self.live().waker.wake();
        // Without a link it is parked.
        self.thread.unpark();
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.commands = None;
        self.wake();
    }
}

fn open(client: &Client, options: Options) -> Result<(Session, Arc<Live>), Error> {
    let session = Session::open(client.clone(), options)?;
    let lease = session.lease().ok_or(Error::LinkLost(LinkError::Closed))?;
    Ok((session, Live::new(lease)))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics while it is held; what it holds is whole either way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request whose future waits, or has gone.
struct Waiting {
    answer: Answer<Asked>,
    /// Held until the link is done with the slot, even if nobody waits for the answer.
    permit: Option<OwnedSemaphorePermit>,
}

/// What the thread owns.
struct Work {
    session: Session,
    live: Arc<Live>,
    shared: Arc<Mutex<Arc<Live>>>,
    commands: Receiver<Command>,
    waiting: HashMap<u64, Waiting>,
}

impl Work {
    fn run(mut self) {
        loop {
            let mut busy = false;
            loop {
                match self.commands.try_recv() {
                    Ok(command) => {
                        if self.obey(command).is_break() {
                            return;
                        }
                        busy = true;
                    }
                    Err(TryRecvError::Empty) => break,
                    // The last handle is gone, and nobody waits for an answer.
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            busy |= self.look();
            self.session.pause(busy, IDLE_MAX);
        }
    }

    /// Hands out what has come; whether that was anything.
    fn look(&mut self) -> bool {
        if let Some(why) = self.session.poll() {
            self.live.end(why);
        }
        let mut busy = false;
        while let Some((request, reply)) = self.session.take() {
            busy = true;
            let waiting = self.waiting.remove(&request);
            busy |= self.go_on();
            let Some(Waiting { answer, permit }) = waiting else { continue };
            let permit = self.given_back(permit);
            // A caller that is gone drops the reply, and with it the slot.
            drop(answer.send(reply.map(|reply| Asked::Answered(reply.holding(permit)))));
        }
        if self.session.is_outgrown() {
            // No slot is handed out until the session has been opened again: what is in flight
            // comes to an end.
            self.live.permits.forget_permits(SLOTS_MAX as usize);
        }
        self.go_on() | busy
    }

    /// What the holder of a reply gives back to those that wait for a slot: nothing if they wait
    /// for one of the next lease.
    fn given_back(&self, permit: Option<OwnedSemaphorePermit>) -> Option<OwnedSemaphorePermit> {
        if self.session.is_outgrown() {
            permit.into_iter().for_each(OwnedSemaphorePermit::forget);
            return None;
        }
        permit
    }

    /// Gives tasks the lease that the session went on to, if it did.
    fn go_on(&mut self) -> bool {
        if self.session.is_under(&self.live.agreed) {
            return false;
        }
        let Some(lease) = self.session.lease() else { return false };
        let live = Live::new(lease);
        // What was sent once more has a slot of it.
        for waiting in self.waiting.values_mut() {
            waiting.permit = Arc::clone(&live.permits).try_acquire_owned().ok();
        }
        let before = std::mem::replace(&mut self.live, live);
        *lock(&self.shared) = Arc::clone(&self.live);
        // Whoever waited for a slot finds the new lease.
        before.permits.close();
        true
    }

    fn obey(&mut self, command: Command) -> ControlFlow<()> {
        // A caller that is gone does not hear the answer.
        match command {
            Command::Infer { slot, answer } => self.submit(slot, answer),
            Command::Resume { answer } => {
                let resumed = self.resume();
                drop(answer.send(resumed));
            }
            Command::Close { answer } => {
                self.live.end(LinkError::Bye(Status::SessionEnded));
                // What is in flight ends with the link.
                self.waiting.clear();
                drop(answer.send(self.session.close_now()));
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    fn submit(&mut self, mut slot: Slot, answer: Answer<Asked>) {
        if self.session.has_outgrown(&slot.agreed) {
            // A caller that is gone gives the slot back.
            drop(answer.send(Ok(Asked::Outgrown(slot))));
            return;
        }
        let permit = slot.permit.take();
        match self.session.submit(slot) {
            Ok(request) => drop(self.waiting.insert(request, Waiting { answer, permit })),
            Err(error) => {
                self.look();
                drop(answer.send(Err(error)));
            }
        }
    }

    fn resume(&mut self) -> Result<(), Error> {
        self.look();
        if !self.live.is_lost() {
            // It was taken up again for somebody else.
            return Ok(());
        }
        let resumed = self.session.resume();
        // What the old link took with it is told now.
        self.look();
        resumed?;
        if self.live.is_lost() { Err(self.live.lost_error()) } else { Ok(()) }
    }
}
