//! What a lane sees of the listener.

use super::attach::describe;
use super::*;

impl Link for RdmaListener {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn submit(&mut self, transfer: Transfer) -> Result<(), Rejected> {
        let peer = transfer.peer;
        let serial = u32::try_from(peer.0).unwrap_or(0);
        match self.sessions.get_mut(&serial) {
            Some(session) => session.reply(transfer),
            None => Err(Rejected { transfer: Box::new(transfer), why: LinkError::NoPeer(peer) }),
        }
    }

    fn poll(&mut self, events: &mut Events) {
        self.drain();
        self.reap();
        if self.opened.as_mut().is_some_and(|opened| opened.health.is_due()) {
            self.check_health();
        }
        self.let_go();
        let count = self.pending.len().min(EVENTS_PER_POLL_MAX);
        events.extend(self.pending.drain(..count));
    }

    fn park(&mut self, at_most: Duration) {
        let at_most = if self.closing > 0 { at_most.min(CLOSING_LOOK) } else { at_most };
        if !self.pending.is_empty() {
            return;
        }
        if self.opened.is_none() {
            return self.waker.doze(at_most);
        }
        if !self.waker.lie_down() {
            return;
        }
        let armed = self.opened.as_ref().is_some_and(|opened| opened.queue.arm().is_ok());
        // What came before the queue was armed is not announced.
        self.drain();
        let Some(opened) = self.opened.as_ref().filter(|_| armed && self.pending.is_empty()) else {
            return self.waker.get_up(false);
        };
        let woken = sleep(&self.waker, &opened.queue, opened.port.device(), at_most);
        self.waker.get_up(woken.waker);
        if woken.device || woken.is_late() {
            self.check_health();
        }
    }

    fn waker(&self) -> Waker {
        Arc::clone(&self.waker) as Waker
    }
}

impl Listener for RdmaListener {
    fn endpoint(&self) -> Endpoint {
        Endpoint::bare(ferry_core::LinkKind::Rdma)
    }

    fn admit(&mut self, admission: Admission) -> Result<RegionDescriptor, AdmitError> {
        let (id, layout) = (admission.session, admission.layout);
        if let Some(old) = self.by_id.get(&id).and_then(|serial| self.sessions.get(serial)) {
            if old.generation() >= admission.generation {
                return Err(AdmitError::Twice(id));
            }
            self.end(id, Status::SessionEnded);
        }
        if self.sessions.len() >= self.options.sessions_max {
            return Err(AdmitError::Full(self.options.sessions_max));
        }
        // More completions than the queue has room for would break it for everybody.
        let needed = completions_of(layout.slots, Writes::One);
        let (serial, inline_bytes) = (self.serial(), self.options.inline_bytes);
        let (completions, sessions) = (self.completions, self.sessions.len());
        let opened = self.device()?;
        if completions + needed > opened.queue.entries() {
            return Err(AdmitError::Full(sessions));
        }
        let placer = admission.placer.as_deref();
        let is_apart = placer.is_some_and(Placer::on_device);
        let divide = if is_apart { Areas::apart } else { Areas::new };
        let inbox_areas = divide(layout.slots, layout.request_bytes)?;
        let outbox_areas = divide(layout.slots, layout.reply_bytes)?;
        let mut memory = opened.memory.lease(&inbox_areas, &outbox_areas, placer)?;
        if let Some(payloads) = &mut memory.payloads {
            check(&opened.port, &memory.domain, payloads).map_err(AdmitError::Attach)?;
        }
        let writes = Writes::One;
        let parts = Parts { serial, memory, inbox_areas, outbox_areas, inline_bytes, writes };
        let made = Wire::new(&opened.port, &opened.queue, parts).map_err(AdmitError::Attach)?;
        let (wire, memory) = made;
        let table = memory.slots(layout, Requests::Arrive)?;
        let admitted = Admitted { peer: PeerId(u64::from(serial)), admission, table };
        let session = Session::new(admitted, wire);
        let queue_pair = describe(&opened.port, &session);
        self.sessions.insert(serial, session);
        self.by_id.insert(id, serial);
        self.completions += needed;
        Ok(RegionDescriptor::Remote { queue_pair, key: None, payloads: None })
    }

    fn attach(
        &mut self,
        session: SessionId,
        attachment: &Attachment,
    ) -> Result<RegionDescriptor, AdmitError> {
        let serial = *self.by_id.get(&session).ok_or(AdmitError::NotAttachable(session))?;
        match self.sessions.get(&serial).map(|session| session.stand) {
            Some(Stand::Expected | Stand::Greeted) => {}
            _ => return Err(AdmitError::NotAttachable(session)),
        }
        if let Some(why) = self.opened.as_ref().and_then(|opened| opened.trouble.clone()) {
            return Err(AdmitError::Attach(why));
        }
        self.connect(serial, attachment).map_err(AdmitError::Attach)
    }

    fn evict(&mut self, session: SessionId, status: Status) {
        self.end(session, status);
    }
}

impl Drop for RdmaListener {
    /// Tells every client, and takes every key back.
    fn drop(&mut self) {
        let ids: Vec<_> = self.by_id.keys().copied().collect();
        for id in ids {
            self.end(id, Status::Draining);
        }
        let until = Instant::now() + DROP_WITHIN;
        while self.closing > 0 && Instant::now() < until {
            self.pending.clear();
            self.drain();
            self.reap();
            std::thread::yield_now();
        }
    }
}
