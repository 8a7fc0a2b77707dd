//! What comes back, and for whom.

use std::time::{Duration, Instant};

use ferry_transport::{Completion, Driver, DriverState, Ending, LinkError, Waker};

use super::Session;
use crate::error::Error;
use crate::reply::Reply;
use crate::slot::Slot;

/// A reply, or what became of the request instead; with the number that its caller knows.
pub type Answer = (u64, Result<Reply, Error>);

impl Session {
    /// Sends a request and waits for its reply. Replies to earlier requests that come meanwhile are
    /// kept for [`next_reply`](Session::next_reply). If the reply has no room, those to all requests
    /// in flight are waited for too, the session is opened again with that room, and the request is
    /// sent once more.
    ///
    /// # Errors
    /// As [`submit`](Session::submit); [`Error::Request`] with what the server says,
    /// [`Error::ReplyTooLarge`], [`Error::LinkLost`]. After [`Error::Timeout`] the request's reply
    /// is dropped when it comes.
    pub fn infer(&mut self, slot: Slot) -> Result<Reply, Error> {
        let request = self.submit(slot)?;
        let deadline = Instant::now() + self.options.timeout;
        loop {
            match self.answer(deadline) {
                Ok(Some((of, reply))) if of == request => return reply,
                Ok(Some(other)) => self.early.push_back(other),
                Ok(None) => {
                    // Only where the session was opened again, some have come before they are
                    // waited for.
                    if let Some(at) = self.early.iter().position(|(of, _)| *of == request)
                        && let Some((_, reply)) = self.early.remove(at)
                    {
                        return reply;
                    }
                }
                Err(error) => {
                    self.give_up(request);
                    return Err(error);
                }
            }
        }
    }

    /// The next reply to what was submitted; `None` if nothing is in flight. A request that the
    /// link took with it when it broke has a reply too: [`Error::LinkLost`].
    ///
    /// # Errors
    /// [`Error::Request`] with what the server says, [`Error::ReplyTooLarge`], [`Error::LinkLost`],
    /// [`Error::Timeout`]: the reply can still come, and be taken.
    pub fn next_reply(&mut self) -> Option<Result<Reply, Error>> {
        let deadline = Instant::now() + self.options.timeout;
        loop {
            if let Some((_, reply)) = self.early.pop_front() {
                return Some(reply);
            }
            if !self.must_reopen() {
                let driver = self.driver.as_mut().ok()?;
                if driver.in_flight() == 0 && !driver.wait(Some(Instant::now())) {
                    return None;
                }
            }
            match self.answer(deadline) {
                Ok(Some((_, reply))) => return Some(reply),
                Ok(None) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The next answer with the number of its request: for programs whose threads share a session,
    /// of which one waits for all. Nothing if `deadline` passed, or if `stop` said so, which is asked
    /// after each look at the link; [`waker`](Session::waker) ends a sleep.
    ///
    /// # Errors
    /// [`Error::LinkLost`] if nothing is in flight.
    pub fn next_until(
        &mut self,
        deadline: Instant,
        stop: impl Fn() -> bool,
    ) -> Result<Option<Answer>, Error> {
        self.pause(true, Duration::ZERO);
        loop {
            let lost = self.poll();
            if let Some(answer) = self.take() {
                return Ok(Some(answer));
            }
            let in_flight = self.driver.as_ref().map_or(0, Driver::in_flight);
            if in_flight == 0 && !self.is_outgrown() {
                return Err(Error::LinkLost(lost.unwrap_or(LinkError::Closed)));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || stop() {
                return Ok(None);
            }
            self.pause(false, left);
        }
    }

    /// Ends a sleep of [`next_until`](Session::next_until), or keeps the next one from beginning,
    /// from any thread. Of the present lease; `None` once its link is lost.
    pub fn waker(&self) -> Option<Waker> {
        self.driver.as_ref().ok()?.waker()
    }

    /// Waits for what comes next; nothing if that is nobody's yet, or if the session was opened
    /// again: then answers may have been kept.
    pub(super) fn answer(&mut self, deadline: Instant) -> Result<Option<Answer>, Error> {
        if self.must_reopen() {
            self.reopen();
            return Ok(None);
        }
        let done = self.complete(deadline)?;
        Ok(self.settle(done))
    }

    /// The answer to whoever sent the request. Nothing if nobody waits for it any more, and nothing
    /// yet if it had no room: then it is sent once more.
    pub(super) fn settle(&mut self, done: Completion) -> Option<Answer> {
        let again = self.room.taken(done.request);
        let request = again.unwrap_or(done.request);
        let done = Completion { request, ..done };
        if let Some(at) = self.given_up.iter().position(|&it| it == request) {
            self.given_up.swap_remove(at);
            return None;
        }
        if again.is_none()
            && let Some(held) = self.room.hold(&done, &self.agreed)
        {
            return held.err().map(|error| (request, Err(error)));
        }
        Some((request, self.reply(done)))
    }

    /// Keeps the answers to everything that the link has brought.
    pub(super) fn keep_what_came(&mut self) {
        while let Some(done) = self.driver.as_mut().ok().and_then(Driver::take) {
            let answer = self.settle(done);
            self.early.extend(answer);
        }
    }

    /// Nobody waits for the request's reply any more.
    fn give_up(&mut self, request: u64) {
        if !self.room.drop_held(request) {
            self.given_up.push(request);
        }
    }

    fn complete(&mut self, deadline: Instant) -> Result<Completion, Error> {
        let driver = self.driver.as_mut().map_err(|ended| ended.error())?;
        if driver.wait(Some(deadline)) {
            return driver.take().ok_or(Error::LinkLost(LinkError::Closed));
        }
        match driver.state() {
            DriverState::Lost(why) => Err(Error::LinkLost(why.clone())),
            DriverState::Live => Err(Error::Timeout(self.options.timeout)),
        }
    }

    fn reply(&self, done: Completion) -> Result<Reply, Error> {
        if done.ending == Ending::LinkLost {
            return Err(Error::LinkLost(self.lost().unwrap_or(LinkError::Closed)));
        }
        Reply::from_completion(done, &self.agreed)
    }
}
