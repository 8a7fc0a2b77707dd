//! What a driver sees of the client.

use super::*;

impl Link for RdmaClient {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn submit(&mut self, transfer: Transfer) -> Result<(), Rejected> {
        self.post(transfer)
    }

    fn poll(&mut self, events: &mut Events) {
        self.drain();
        if !self.gone && self.health.is_due() {
            self.check_health();
            self.break_silence();
        }
        let count = self.pending.len().min(EVENTS_PER_POLL_MAX);
        events.extend(self.pending.drain(..count));
    }

    fn park(&mut self, at_most: Duration) {
        if self.gone && self.pending.is_empty() {
            return self.waker.doze(at_most);
        }
        if !self.pending.is_empty() || !self.waker.lie_down() {
            return;
        }
        let armed = self.queue.arm();
        // What came before the queue was armed is not announced.
        self.drain();
        if armed.is_err() || !self.pending.is_empty() || self.gone {
            return self.waker.get_up(false);
        }
        let at_most = if self.in_flight > 0 { at_most.min(SILENCE_MAX) } else { at_most };
        let woken = sleep(&self.waker, &self.queue, self.port.device(), at_most);
        self.waker.get_up(woken.waker);
        self.break_silence();
        if woken.device || woken.is_late() {
            self.check_health();
        }
    }

    fn waker(&self) -> Waker {
        Arc::clone(&self.waker) as Waker
    }
}

impl Drop for RdmaClient {
    /// Says goodbye, so that the server need not wait to find out, and leaves nothing posted.
    fn drop(&mut self) {
        // A server that has ended the session does not answer any more.
        self.drain();
        let bye = self.own.bye();
        self.wire.close((!self.gone && self.is_joined).then_some(&bye));
        self.gone = true;
        let until = Instant::now() + DROP_WITHIN;
        let mut completions = Vec::new();
        while !self.wire.has_closed(Instant::now()) && Instant::now() < until {
            if self.queue.poll(&mut completions).is_err() {
                return;
            }
            for completion in completions.drain(..) {
                let (serial, task) = read_task_id(completion.id);
                if serial == self.wire.serial() && self.wire.complete(task, &completion).is_err() {
                    self.wire.abandon();
                }
            }
            std::thread::yield_now();
        }
    }
}
