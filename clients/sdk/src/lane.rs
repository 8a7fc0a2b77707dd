//! The thread that drives the link of an async session.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use ferry_core::session::SLOTS_MAX;
use ferry_transport::{Completion, Driver, DriverState, Ending, LinkError, Waker};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::agreed::Agreed;
use crate::error::Error;
use crate::reply::Reply;
use crate::slot::Slot;

/// Longest sleep with nothing in flight: only a guard, commands end the sleep.
const IDLE_MAX: Duration = Duration::from_secs(1);

/// The handle to the thread. Dropping it ends the thread once what it has is done with.
#[derive(Debug)]
pub(crate) struct Lane {
    commands: Arc<ArrayQueue<Command>>,
    waker: Waker,
    state: Arc<State>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    stop: AtomicBool,
    /// Why the link carries nothing any more.
    lost: OnceLock<LinkError>,
    /// The thread takes no command any more.
    ended: AtomicBool,
    /// Known once the thread has ended.
    next_request: AtomicU64,
}

#[derive(Debug)]
struct Command {
    slot: Slot,
    answer: oneshot::Sender<Result<Reply, Error>>,
}

/// A request whose future waits, or has gone.
struct Waiting {
    answer: oneshot::Sender<Result<Reply, Error>>,
    /// Held until the link is done with the slot, even if nobody waits for the answer.
    permit: Option<OwnedSemaphorePermit>,
}

impl Lane {
    pub(crate) fn spawn(driver: Driver, agreed: Arc<Agreed>) -> Result<Lane, Error> {
        // As many commands as there can be slots: a slot is in one command at most.
        let commands = Arc::new(ArrayQueue::new(SLOTS_MAX as usize));
        let waker = driver.waker().ok_or(Error::LinkLost(LinkError::Closed))?;
        let state = Arc::new(State::default());
        let work = Work {
            driver,
            agreed,
            commands: Arc::clone(&commands),
            state: Arc::clone(&state),
            waiting: HashMap::new(),
        };
        let thread = std::thread::Builder::new()
            .name("ferry-lane".into())
            .spawn(move || work.run())
            .map_err(|source| Error::Start { what: "the thread of a session", source })?;
        Ok(Lane { commands, waker, state, thread })
    }

    /// Hands a request to the thread.
    pub(crate) fn submit(
        &self,
        slot: Slot,
    ) -> Result<oneshot::Receiver<Result<Reply, Error>>, Error> {
        let (answer, receiver) = oneshot::channel();
        if self.lost().is_some() || self.commands.push(Command { slot, answer }).is_err() {
            return Err(self.lost_error());
        }
        self.waker.wake();
        // The thread says that it has ended and then empties the queue; here it is filled and then
        // looked at: one of the two sees the other, and nobody waits for an answer in vain.
        fence(Ordering::SeqCst);
        if self.state.ended.load(Ordering::SeqCst) {
            while self.commands.pop().is_some() {}
        }
        Ok(receiver)
    }

    /// Why the link carries nothing any more, where nobody asked it to end.
    pub(crate) fn lost(&self) -> Option<&LinkError> {
        self.state.lost.get()
    }

    /// What a request gets that the link did not take, or did not answer.
    pub(crate) fn lost_error(&self) -> Error {
        Error::LinkLost(self.lost().cloned().unwrap_or(LinkError::Closed))
    }

    /// Asks the thread to end.
    pub(crate) fn end(&self) {
        self.state.stop.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether the thread has ended: its link is closed and its last record handed over.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// The number of the next request, once the thread has ended.
    pub(crate) fn next_request(&self) -> u64 {
        self.state.next_request.load(Ordering::Acquire).max(1)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the thread owns.
struct Work {
    driver: Driver,
    agreed: Arc<Agreed>,
    commands: Arc<ArrayQueue<Command>>,
    state: Arc<State>,
    waiting: HashMap<u64, Waiting>,
}

impl Work {
    fn run(mut self) {
        loop {
            let mut busy = false;
            while let Some(command) = self.commands.pop() {
                self.submit(command);
                busy = true;
            }
            self.driver.poll();
            let is_lost = self.note_loss();
            while let Some(done) = self.driver.take() {
                self.complete(done);
                busy = true;
            }
            if is_lost {
                break;
            }
            if self.state.stop.load(Ordering::Acquire) && self.commands.is_empty() {
                break;
            }
            if busy { self.driver.busy() } else { self.driver.idle(IDLE_MAX) }
        }
        // Commands that came too late are answered by the drop of their channel.
        self.state.ended.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        while self.commands.pop().is_some() {}
        self.driver.flush();
        self.state.next_request.store(self.driver.next_request(), Ordering::Release);
    }

    /// Whether the link is lost. Noted before anybody is told: who hears of it and asks for a slot
    /// gets one of a new lease.
    fn note_loss(&self) -> bool {
        let DriverState::Lost(why) = self.driver.state() else { return false };
        self.state.lost.get_or_init(|| why.clone());
        true
    }

    fn submit(&mut self, command: Command) {
        let Command { slot, answer } = command;
        let Slot { inner, handed_out, what, payload_bytes, permit, .. } = slot;
        let filled = Instant::now().saturating_duration_since(handed_out);
        let fill_ns = u64::try_from(filled.as_nanos()).ok();
        let bytes = usize::try_from(payload_bytes).unwrap_or(usize::MAX);
        match self.driver.submit(inner, bytes, what, fill_ns) {
            Ok(request) => {
                self.waiting.insert(request, Waiting { answer, permit });
            }
            Err(error) => {
                // A link that takes nothing any more says so in its next events.
                self.driver.poll();
                self.note_loss();
                // A caller that is gone does not hear it.
                drop(answer.send(Err(error.why.into())));
            }
        }
    }

    fn complete(&mut self, done: Completion) {
        let Some(Waiting { answer, permit }) = self.waiting.remove(&done.request) else { return };
        let reply = if done.ending == Ending::LinkLost {
            let DriverState::Lost(why) = self.driver.state().clone() else { return };
            Err(Error::LinkLost(why))
        } else {
            Reply::from_completion(done, &self.agreed, permit)
        };
        // A caller that is gone drops the reply, and with it the slot.
        drop(answer.send(reply));
    }
}
