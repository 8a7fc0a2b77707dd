//! What other threads hold of a lane.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use ferry_core::{Attachment, Endpoint, RegionDescriptor, SessionId, Status};

use super::stats::Counters;
use super::{LaneError, LaneStats};
use crate::admitted::Admission;
use crate::link::AdmitError;
use crate::outbox::Outbox;

/// Most commands that wait for a lane. They come one per opened or closed session, and the lane
/// takes them between two polls.
pub(super) const COMMANDS_MAX: usize = 64;

/// How long to wait for a lane's answer. A lane answers within one turn of its loop; only a handler
/// that hangs makes it late.
pub const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Takes a lane's answer on the lane's own thread: it must neither wait nor work. It is dropped
/// without a call if the lane ends first.
pub type Answer<T> = Box<dyn FnOnce(T) + Send>;

/// What a lane is asked to do, and whom to answer.
pub(super) enum Command {
    Admit(Admission, Answer<Result<RegionDescriptor, AdmitError>>),
    Attach(SessionId, Box<Attachment>, Answer<Result<RegionDescriptor, AdmitError>>),
    Evict(SessionId, Status, Answer<()>),
    Drain(Answer<()>),
    Stop,
}

/// What the lane's thread and its handles share.
#[derive(Debug)]
pub(super) struct Shared {
    outbox: Arc<Outbox>,
    pub(super) commands: ArrayQueue<Command>,
    pub(super) counters: Counters,
    ended: OnceLock<LaneError>,
}

impl Shared {
    pub(super) fn new(outbox: Arc<Outbox>) -> Shared {
        Shared {
            outbox,
            commands: ArrayQueue::new(COMMANDS_MAX),
            counters: Counters::default(),
            ended: OnceLock::new(),
        }
    }

    pub(super) fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Notes that the thread has ended, and lets go of everybody who waits for it.
    pub(super) fn end(&self, why: LaneError) {
        // Only the thread itself calls this, once.
        drop(self.ended.set(why));
        self.outbox.close();
        self.forget_commands();
    }

    /// Why it ended, if it has.
    pub(super) fn ended(&self) -> Option<LaneError> {
        self.ended.get().cloned()
    }

    /// Dropping a command tells its sender that no answer comes.
    fn forget_commands(&self) {
        while let Some(command) = self.commands.pop() {
            drop(command);
        }
    }
}

/// A running lane, for everybody else. Clones are the same lane. The lane runs until
/// [`stop`](LaneHandle::stop), also when all handles are gone.
#[derive(Clone, Debug)]
pub struct LaneHandle {
    shared: Arc<Shared>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
    endpoint: Endpoint,
}

impl LaneHandle {
    pub(super) fn new(
        shared: Arc<Shared>,
        thread: JoinHandle<()>,
        endpoint: Endpoint,
    ) -> LaneHandle {
        LaneHandle { shared, thread: Arc::new(Mutex::new(Some(thread))), endpoint }
    }

    /// Where clients reach the lane's link.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The way back for replies that become ready on other threads.
    pub fn outbox(&self) -> &Arc<Outbox> {
        self.shared.outbox()
    }

    /// The counters now. They go on to be readable after the lane ended.
    pub fn stats(&self) -> LaneStats {
        self.shared.counters.snapshot()
    }

    /// Why the lane does not run any more; `None` while it does.
    pub fn ended(&self) -> Option<LaneError> {
        self.shared.ended()
    }

    /// Lets the link expect a session's client. Waits for the lane's answer.
    ///
    /// # Errors
    /// What the link says, or [`AdmitError::Lane`].
    pub fn admit(&self, admission: Admission) -> Result<RegionDescriptor, AdmitError> {
        self.ask(|answer| self.admit_then(admission, answer))?
    }

    /// [`admit`](LaneHandle::admit) for those who must not block a thread.
    ///
    /// # Errors
    /// [`LaneError`] if the lane cannot be asked; then there is no answer.
    pub fn admit_then(
        &self,
        admission: Admission,
        answer: Answer<Result<RegionDescriptor, AdmitError>>,
    ) -> Result<(), LaneError> {
        self.send(Command::Admit(admission, answer))
    }

    /// Tells the link of the client's end of an admitted session. Waits for the lane's answer.
    ///
    /// # Errors
    /// What the link says, or [`AdmitError::Lane`].
    pub fn attach(
        &self,
        session: SessionId,
        attachment: Attachment,
    ) -> Result<RegionDescriptor, AdmitError> {
        self.ask(|answer| self.attach_then(session, attachment, answer))?
    }

    /// [`attach`](LaneHandle::attach) for those who must not block a thread.
    ///
    /// # Errors
    /// [`LaneError`] if the lane cannot be asked; then there is no answer.
    pub fn attach_then(
        &self,
        session: SessionId,
        attachment: Attachment,
        answer: Answer<Result<RegionDescriptor, AdmitError>>,
    ) -> Result<(), LaneError> {
        self.send(Command::Attach(session, Box::new(attachment), answer))
    }

    /// Ends a session on the link, and tells its client `status`. Replies that are still to come
    /// are dropped. Nothing happens if the session is not there. Waits for the lane's answer.
    ///
    /// # Errors
    /// [`LaneError`] if the lane does not answer.
    pub fn evict(&self, session: SessionId, status: Status) -> Result<(), LaneError> {
        self.ask(|answer| self.evict_then(session, status, answer))
    }

    /// [`evict`](LaneHandle::evict) for those who must not block a thread.
    ///
    /// # Errors
    /// [`LaneError`] if the lane cannot be asked; then there is no answer.
    pub fn evict_then(
        &self,
        session: SessionId,
        status: Status,
        answer: Answer<()>,
    ) -> Result<(), LaneError> {
        self.send(Command::Evict(session, status, answer))
    }

    /// From now on new requests are answered [`Status::Draining`]; what is in flight finishes:
    /// the lane is drained once [`LaneStats::in_flight`] is 0.
    ///
    /// # Errors
    /// [`LaneError`] if the lane does not answer.
    pub fn drain(&self) -> Result<(), LaneError> {
        self.ask(|answer| self.send(Command::Drain(answer)))
    }

    /// Ends the lane: every session is told [`Status::Draining`], what is in flight gets no
    /// answer. Waits until the thread has ended. Must not be called by the lane's own handler.
    ///
    /// # Errors
    /// [`LaneError::Dead`] if the lane had died before.
    pub fn stop(&self) -> Result<(), LaneError> {
        if self.ended().is_none() {
            self.send(Command::Stop)?;
        }
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            // Its panics were caught inside.
            drop(thread.join());
        }
        match self.ended() {
            None | Some(LaneError::Stopped) => Ok(()),
            Some(why) => Err(why),
        }
    }

    fn send(&self, command: Command) -> Result<(), LaneError> {
        if let Some(why) = self.ended() {
            return Err(why);
        }
        self.shared.commands.push(command).map_err(|_full| LaneError::Busy(COMMANDS_MAX))?;
        self.shared.outbox().notify();
        if self.ended().is_some() {
            // It ended before it could see the command; nobody else empties the queue.
            self.shared.forget_commands();
        }
        Ok(())
    }

    fn ask<T: Send + 'static>(
        &self,
        send: impl FnOnce(Answer<T>) -> Result<(), LaneError>,
    ) -> Result<T, LaneError> {
        let (answer, is_answered) = sync_channel(1);
        // Who asked may have given up waiting.
        send(Box::new(move |it| drop(answer.send(it))))?;
        is_answered.recv_timeout(ANSWER_MAX).map_err(|error| match error {
            RecvTimeoutError::Timeout => LaneError::NoAnswer(ANSWER_MAX.as_secs()),
            RecvTimeoutError::Disconnected => self.ended().unwrap_or(LaneError::Stopped),
        })
    }
}
